"""Continues the run that waits, as its command would, in a process of its own."""

import pathlib
import subprocess
import sys
import threading

from ilf_jax.runtime import storage
from ilf_jax.runtime.files import write_atomically

LOG, CONFIG = "run.log", "run_config.py"
_CONFIG = '''"""The configuration of the run in {workdir}, for the reviewing page's button."""

import json

from ilf_jax.config import base_config
from ilf_jax.runtime import storage


def get_config():
    config = base_config()
    saved = json.loads((storage.path({workdir!r}) / "config.json").read_text())
    with config.unlocked(), config.ignore_type():
        config.update({{key: value for key, value in saved.items() if key in config}})
    return config
'''
_OUTCOMES = {0: "The run is complete.", 4: "The run waits for more feedback."}


class RunAgain:
    """Starts the run, at most once at a time, and says how it is."""

    def __init__(self, workdir: storage.Path, folder: pathlib.Path) -> None:
        """`folder` takes the log and the configuration file."""
        self._workdir, self._folder = workdir, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts it, unless it runs already. Raises InputError if the folder cannot be written."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            write_atomically(self._folder / CONFIG, _CONFIG.format(workdir=str(self._workdir)))
            command = [sys.executable, "-m", "ilf_jax.main", f"--config={self._folder / CONFIG}",
                       f"--workdir={self._workdir}"]
            with (self._folder / LOG).open("wb") as log:
                self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT,
                                                 stdin=subprocess.DEVNULL, start_new_session=True)

    def state(self) -> dict[str, object]:
        """Whether it runs, its exit code, a sentence, and the last lines of its log."""
        if self._process is None:
            return {"running": False, "code": None, "said": "", "log": ""}
        code = self._process.poll()
        log = (self._folder / LOG).read_text(encoding="utf-8", errors="replace")
        said = "The run goes on." if code is None else _OUTCOMES.get(code, f"The run ended with exit code {code}.")
        return {"running": code is None, "code": code, "said": said, "log": "\n".join(log.splitlines()[-12:])}
