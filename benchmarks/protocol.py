"""How `run.py` talks to a worker process: one JSON object a line, requests on its stdin, answers on its stdout.

Only the standard library is imported, so that the peer's environment, which has no jax, can serve as well.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

Handler = Callable[..., dict[str, Any]]


class WorkerError(RuntimeError):
    """A worker answered with an error, or ended."""


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answers requests until stdin ends. What libraries print goes to stderr, never between the answers."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = {"result": handlers[request["call"]](**request["arguments"])}
            except Exception as e:  # whatever it is, the other side is to know
                traceback.print_exc()
                answer = {"error": f"{type(e).__name__}: {e}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class Worker:
    """A process that serves. As a context manager it is ended on the way out."""

    def __init__(
        self, command: Sequence[str], *, log: TextIO, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """`log`: where its stderr goes; `env`: variables beside those of this process."""
        self._command, self._log_name = list(command), log.name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=cwd, text=True, encoding="utf-8",
            env={**os.environ, **(env or {})},
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request. Raises WorkerError if there is none."""
        try:
            self._process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{' '.join(self._command)} ended with code {self._process.wait()} during {call!r}; "
                              f"see {self._log_name}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{' '.join(self._command)}, {call!r}: {answer['error']} (see {self._log_name})")
        return answer["result"]

    def close(self) -> None:
        """Ends the process; kills it if it does not go by itself."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """(What `work` returns, seconds, peak resident memory of this process meanwhile in MB)."""
    gc.collect()
    _return_free_memory()
    resettable = _reset_peak()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return result, seconds, _peak_mb(resettable)


def _return_free_memory() -> None:
    """Gives freed heap back to the system: what an earlier call left there is not this call's memory."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def _reset_peak() -> bool:
    """Starts VmHWM anew from the present size. False where the system does not offer that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_mb(since_reset: bool) -> float:
    if since_reset:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def machine() -> dict[str, Any]:
    """The processor that this process may use."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {"cpu": model, "cores": cores()}


def cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if os.path.exists(path) else []


def join(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One answer for several timed parts: times and counts add up, memory is that of the largest, `parts` are kept."""
    total = lambda key: sum(part.get(key, 0) for part in parts.values())  # noqa: E731
    counts = ("seconds", "tokens", "prompt_tokens", "computed_tokens", "compile_seconds", "compilations",
              "cache_hits")
    return {
        **{key: total(key) for key in counts},
        "peak_mb": max(part["peak_mb"] for part in parts.values()),
        "check": [number for part in parts.values() for number in part.get("check", [])],
        "parts": dict(parts),
    }
