"""How `run.py` talks to a worker process: one JSON object per line, requests on its stdin, answers on its stdout.

Imports only the standard library, because the peer's environment has no jax.
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
    """A worker answered with an error, or exited."""


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answers requests until stdin closes. Output of libraries goes to stderr, so stdout has answers only."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = {"result": handlers[request["call"]](**request["arguments"])}
            except Exception as e:  # report any error to the other side
                traceback.print_exc()
                answer = {"error": f"{type(e).__name__}: {e}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class Worker:
    """A process that answers requests. As a context manager it ends the process on exit."""

    def __init__(
        self, command: Sequence[str], *, log: TextIO, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Starts the process.

        Args:
            command: what to run; it must call `serve`.
            log: receives its stderr.
            cwd: its working directory.
            env: variables to add to those of this process.
        """
        self._command, self._log_name = list(command), log.name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=cwd, text=True, encoding="utf-8",
            env={**os.environ, **(env or {})},
        )

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """Sends one request and returns the answer. Raises WorkerError if the worker fails or exits."""
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
        """Ends the process. Kills it if it does not exit within 20 seconds."""
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
    """Calls `work` and returns (its result, seconds, peak resident memory of this process during the call in MB)."""
    gc.collect()
    _return_free_memory()
    resettable = _reset_peak()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return result, seconds, _peak_mb(resettable)


def _return_free_memory() -> None:
    """Returns freed heap to the system, so that memory of an earlier call does not count for this one."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def _reset_peak() -> bool:
    """Resets VmHWM to the current size. False where the system does not support that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_mb(since_reset: bool) -> float:
    if since_reset:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def machine() -> dict[str, Any]:
    """Name of the processor, and the number of cores that this process may use."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {"cpu": model, "cores": cores()}


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if os.path.exists(path) else []


def join(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Merges the results of several timed parts: sums of times and counts, the largest peak, and `parts` themselves."""
    counts = ("seconds", "tokens", "prompt_tokens", "computed_tokens", "compile_seconds", "compilations",
              "cache_hits")
    return {
        **{key: sum(part.get(key, 0) for part in parts.values()) for key in counts},
        "peak_mb": max(part["peak_mb"] for part in parts.values()),
        "check": [number for part in parts.values() for number in part.get("check", [])],
        "parts": dict(parts),
    }
