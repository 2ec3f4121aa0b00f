"""Runs of `ilf_jax.main`, one after the other, by a process that has imported everything and forks one for each.

A run that is killed and started again twenty times would else spend its time on imports.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--config=configs/quickstart.py", "--config.iterations=1", "--config.baselines=('initial',)",
    "--config.data.train_size=12", "--config.data.eval_size=6", "--config.refine.num_candidates=2",
    "--config.checkpoint.every_steps=1",
    *(f"--config.{part}.batch_size=4" for part in ("draft", "refine", "score", "finetune", "evaluate")),
)
"""Flags: the quickstart in seconds, one iteration and one baseline."""


class Runs:
    """The other end of `_serve`; use as a context."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._count = folder, 0

    def __enter__(self) -> "Runs":
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                       "PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen([sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait()

    def __call__(
        self, flags: Sequence[str], environment: Mapping[str, str] | None = None,
        started: Callable[[int], None] = lambda pid: None, without: Sequence[str] = (),
    ) -> tuple[int, str]:
        """(Exit code, negative for a signal; stderr) of a run.

        Args:
            started: called with the id of the run's process.
            without: packages that cannot be imported.
        """
        self._count += 1
        log = self._folder / f"run-{self._count:03d}.log"
        job = {"flags": list(flags), "environment": dict(environment or {}), "log": str(log),
               "without": list(without)}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        started(int(self._server.stdout.readline()))
        code = int(self._server.stdout.readline())
        return code, log.read_text()


class KillAt:
    """As `before` of a proxy: kills a run when it makes its n-th request, which is then never sent on."""

    def __init__(self, number: int) -> None:
        self.number, self._pid, self._known = number, 0, threading.Event()

    def started(self, pid: int) -> None:
        self._pid = pid
        self._known.set()

    def __call__(self, request) -> None:
        if request.number == self.number:
            self._known.wait()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, 9)
        if request.number >= self.number:
            raise ConnectionAbortedError  # the store never hears of it, or of what was sent at the same time


def _jobs() -> Iterator[dict]:
    for line in sys.stdin:
        yield json.loads(line)


def _serve() -> None:
    import gcsfs.core  # noqa: F401
    import s3fs.core  # noqa: F401

    import ilf_jax.ilf
    import ilf_jax.main
    import ilf_jax.reporting.plots  # noqa: F401

    for job in _jobs():
        child = os.fork()
        if not child:
            _run(job)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(job: dict) -> None:
    code: object = 1
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(job["environment"])
        sys.modules.update(dict.fromkeys(job["without"]))
        from ilf_jax import main

        sys.argv = ["main", *job["flags"]]  # where ml_collections looks for overrides
        code = main.main(main.parse_or_exit(sys.argv))
    except SystemExit as stopped:
        code = stopped.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve()
