"""Rebuilds a run's report.html from the files of its work folder, finished or not.

python -m ilf_jax.report --workdir=DIR
"""

from collections.abc import Sequence

from absl import flags

from ilf_jax.errors import InputError
from ilf_jax.reporting import workfolder
from ilf_jax.runtime import last_defence, storage
from ilf_jax.runtime.files import write_atomically

_WORKDIR = flags.DEFINE_string("workdir", None, "The work folder of a run.")


@last_defence.guarded("building the report", lambda: _WORKDIR.value)
def main(argv: Sequence[str]) -> int:
    """Builds the report and prints its path; exit code 2 where the input is at fault."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; the only flag is --workdir=DIR")
    if not _WORKDIR.value:
        raise InputError("--workdir=DIR is needed: the work folder of a run")
    folder = storage.path(_WORKDIR.value)
    workfolder.check(_WORKDIR.value)
    from ilf_jax.reporting.html_report import build_report  # loads matplotlib, so after what can be checked without

    with workfolder.on_disk(_WORKDIR.value) as place:
        page = build_report(place)
        if not storage.is_local(folder):
            write_atomically(folder / page.name, page.read_text(encoding="utf-8"))
    print(folder / page.name)
    return 0
