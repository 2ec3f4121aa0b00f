"""The processes of a run: how they find each other, and how they agree.

All of them execute the same program on the same records and meet on the devices in every step. Process 0 decides
whatever depends on the disk or the clock, and the others receive it (`on_main`); otherwise they would diverge.
Where `start` was not called, there is one process, and all of this costs nothing.
"""

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from absl import logging

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.runtime.heartbeat import TRY_AGAIN, Heartbeat

T = TypeVar("T")

HEARTBEAT_TIMEOUT = 60.0
"""Seconds of silence after which a process counts as lost, and the others end."""

# jax's own heartbeat would end a run whose processes were all stopped for a while, and with many lines of C++.
_JAX_HEARTBEAT_SECONDS = 7 * 24 * 3600
# At the end, the processes wait for each other for so long.
_SHUTDOWN_SECONDS = 20
# Process 0 may work alone (read data, write a report) for as long as that.
_PATIENCE_MS = 24 * 3600 * 1000
_DECISIONS = "ilf_jax/decisions"
# Decisions that the coordinator keeps at most: after so many, the processes meet and process 0 deletes them.
_MAX_KEPT = 32
# One of these is in jax's error message when another process is the cause.
_SIGNS_OF_LOSS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "Gloo", "NCCL", "onnection", "heartbeat",
                  "coordination service", "Coordination")
_SECONDS_TO_NOTICE = 2.0


@dataclasses.dataclass
class _Group:
    index: int = 0
    count: int = 1
    decisions: int = 0  # and barriers, so far; the same number on every process
    kept: int = 0  # decisions since the last barrier, which may still be unread
    heartbeat: Heartbeat | None = None


_group = _Group()


def start(coordinator_address: str | None = None, num_processes: int | None = None,
          process_id: int | None = None, heartbeat_timeout: float = HEARTBEAT_TIMEOUT) -> None:
    """Joins the other processes, if there are any. Call it before anything asks jax for devices.

    Args:
        coordinator_address: HOST:PORT of process 0. Give all three, and nothing is looked up; give none, and jax
            detects the cluster (SLURM, Open MPI, TPU pods, GKE, Kubernetes). A process outside of any stays alone.
        heartbeat_timeout: seconds. When another process was silent for so long, or did not join, this one says so and
            exits with code 75, whatever it is at.

    Raises:
        InputError: some of the three are given and others not, or the processes do not agree on them.
    """
    given: dict[str, Any] = {
        "coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"--{', --'.join(missing)}: missing; --{', --'.join(given)} go together")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise InputError(f"--process_id={process_id}: allowed are 0 to {num_processes - 1} "
                         f"(--num_processes={num_processes})")
    if missing and "JAX_COORDINATOR_ADDRESS" not in os.environ and _detected_processes() == 1:
        return
    # What C++ logs when a connection ends: the heartbeat says it in a line. Errors are raised nevertheless.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax
    from jax._src import clusters

    jax.config.update("jax_enable_preemption_service", True)
    where = "that the environment announces" if missing else f"at {coordinator_address}"
    try:
        if missing:  # as initialize would; but the heartbeat needs to know, too
            coordinator_address, num_processes, process_id, _ = (
                clusters.ClusterEnv.auto_detect_unset_distributed_params(
                    os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, math.ceil(heartbeat_timeout)))
        if num_processes and num_processes > 1 and coordinator_address and process_id is not None:
            _group.heartbeat = Heartbeat(coordinator_address, process_id, num_processes, heartbeat_timeout)
            _group.heartbeat.join()
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError, TypeError) as e:
        raise InputError(f"cannot join the other processes {where}: {_first_line(e)}") from e
    _group.index, _group.count = jax.process_index(), jax.process_count()


def _detected_processes() -> int:
    """How many processes jax detects; 1 where it detects no cluster.

    `jax.distributed.initialize()` detects the same, but it would join a cluster of one process, too: that takes a port
    and, under SLURM, all GPUs but one from it. No public function only detects.
    """
    from jax._src import clusters

    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1":
        return 1  # jax counts the tasks of the job, but this step, an interactive shell say, has one
    if not os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu"):
        # A process that leaves a host's TPUs alone does not belong to their pod. Elsewhere jax asks nobody, anyway.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in a pod of Kubernetes, that a client for it is not installed
            known = clusters.ClusterEnv._cluster_types
            cluster = next((c for c in known if not c.opt_in_only_method and c.is_env_present()), None)
            return 1 if cluster is None else cluster.get_process_count()
    except Exception as e:  # of whatever the cluster's interface raises
        logging.warning("jax cannot detect whether there are other processes (%s: %s); this one runs alone",
                        type(e).__name__, _first_line(e))
        return 1


def index() -> int:
    """Number of this process, from 0."""
    return _group.index


def count() -> int:
    """How many processes there are."""
    return _group.count


def jax_has_started() -> bool:
    """Whether jax has taken its devices: XLA's flags can no longer be changed."""
    from jax._src import xla_bridge  # private: there is no other way to ask

    return xla_bridge.backends_are_initialized()


def is_main() -> bool:
    """Whether this is process 0, which writes what there is one of."""
    return _group.index == 0


def on_main(work: Callable[[], T]) -> T:
    """What `work` returns on process 0, on every process. All processes call this in the same order.

    Args:
        work: returns what JSON can hold.

    Raises:
        InputError, TryAgainError: `work` raised it on process 0; every process raises it.
    """
    if _group.count == 1:
        return work()
    if _group.kept == _MAX_KEPT:
        barrier()
    _group.decisions, _group.kept = _group.decisions + 1, _group.kept + 1
    key = f"{_DECISIONS}/{_group.decisions}"
    if not is_main():
        answer = json.loads(_client().blocking_key_value_get(key, _PATIENCE_MS))
        if "error" in answer:
            barrier()
            raise (TryAgainError if answer["again"] else InputError)(answer["error"])
        return answer["value"]
    try:
        value = work()
    except (InputError, TryAgainError) as e:
        _client().key_value_set(key, json.dumps({"error": str(e), "again": isinstance(e, TryAgainError)}))
        barrier()  # the others read it before this process, which serves it, ends
        raise
    text = json.dumps({"value": value})
    _client().key_value_set(key, text)
    return json.loads(text)["value"]  # tuples become lists, as on the other processes


def barrier() -> None:
    """Waits until every process is here."""
    if _group.count > 1:
        _group.decisions, _group.kept = _group.decisions + 1, 0
        _client().wait_at_barrier(f"ilf_jax/barrier/{_group.decisions}", _PATIENCE_MS)
        if is_main():
            _client().key_value_delete(_DECISIONS)  # all processes have read all of them


def _client() -> Any:
    # Private, but Orbax uses it in the same way. The public broadcast and barrier run on the devices, and would wait
    # for all the work in their queues.
    from jax._src import distributed

    return distributed.global_state.client


@contextlib.contextmanager
def exit_with_the_others() -> Iterator[None]:
    """Around a run: if it fails because another process is gone, says so and exits at once, with code 75.

    An ordinary exit would wait for the process that is gone.
    """
    if _group.heartbeat is None:
        yield
        return
    import jax

    try:
        yield
    except (InputError, TryAgainError):
        raise
    except Exception as e:
        is_loss = isinstance(e, jax.errors.JaxRuntimeError) and any(sign in str(e) for sign in _SIGNS_OF_LOSS)
        # The heartbeat ends this process as soon as it knows which one is lost. A connection that has ended it knows
        # at once, silence after a while.
        time.sleep(_group.heartbeat.patience if is_loss else _SECONDS_TO_NOTICE)
        if not is_loss:
            raise
        print(f"error: process {_group.index} of {_group.count} stops because another one failed (see its log): "
              f"{_first_line(e)}; start the same command on all of them to resume", file=sys.stderr, flush=True)
        os._exit(TRY_AGAIN)


def leave(code: int) -> None:
    """Tells the other processes that this one ends. With a code that is not 0, they end with it, too."""
    if _group.heartbeat is not None:
        _group.heartbeat.leave(code)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
