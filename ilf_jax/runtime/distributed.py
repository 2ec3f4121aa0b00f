"""The processes of a run: how they find each other, and how they agree.

All of them execute the same program on the same records and meet in every step on the devices. What depends on the
disk or the clock is decided by process 0 and told to the others (`on_main`), for else they would part ways. Where
`start` has not been called there is one process, and all of this costs nothing.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ilf_jax.errors import InputError

T = TypeVar("T")

# A process that is gone is noticed within this time, and ends the others.
_HEARTBEAT_SECONDS = 20
# Process 0 may be at work alone (reading data, writing a report) for as long as that.
_PATIENCE_MS = 24 * 3600 * 1000
_GOOGLE = "0x1ae0"  # vendor of a PCI device
# What a message of jax's holds where it was another process that went away.
_SIGNS_OF_LOSS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "Gloo", "NCCL", "onnection", "heartbeat",
                  "coordination service", "Coordination")
# Any of them says that several processes were started; jax finds out the rest by itself.
_SIGNS_OF_SEVERAL: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("JAX_COORDINATOR_ADDRESS", bool),
    ("SLURM_STEP_NUM_TASKS", lambda tasks: tasks.isdecimal() and int(tasks) > 1),
    ("TPU_WORKER_HOSTNAMES", lambda names: "," in names),
    ("MEGASCALE_NUM_SLICES", lambda slices: slices.isdecimal() and int(slices) > 1),
)


@dataclasses.dataclass
class _Group:
    index: int = 0
    count: int = 1
    decisions: int = 0  # taken so far, the same number on every process


_group = _Group()


def start(coordinator_address: str | None = None, num_processes: int | None = None,
          process_id: int | None = None) -> None:
    """Joins the other processes, where there are any; to be called before anything asks jax for devices.

    Args:
        coordinator_address: HOST:PORT of process 0. With the other two given, nothing is looked up; with none given,
            the environment tells (TPU pods, GKE, SLURM), and a process by itself stays by itself.

    Raises:
        InputError: some of the three are given and others not, or the others do not come.
    """
    given = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"--{', --'.join(missing)}: missing; --{', --'.join(given)} go together")
    told = not missing or _several()
    if not told and not _has_tpu_chips():
        return
    if not missing and not (num_processes >= 1 and 0 <= process_id < num_processes):
        raise InputError(f"--process_id={process_id}: allowed are 0 to {num_processes - 1} "
                         f"(--num_processes={num_processes})")
    import jax

    jax.config.update("jax_enable_preemption_service", True)
    try:
        jax.distributed.initialize(
            **({} if missing else given), heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError, TypeError) as e:
        if not told:
            return  # no pod's machine
        at = "as the environment says" if missing else f"at {coordinator_address}"
        raise InputError(f"the other processes were not met {at}: {_first_line(e)}") from e
    _group.index, _group.count = jax.process_index(), jax.process_count()


def _several() -> bool:
    return any(name in os.environ and says(os.environ[name]) for name, says in _SIGNS_OF_SEVERAL)


def _has_tpu_chips() -> bool:
    """A machine with TPU chips may be one of a pod's, which only Google's metadata server knows; jax asks it."""
    if not os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu") or importlib.util.find_spec("libtpu") is None:
        return False
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == _GOOGLE for vendor in vendors)


def index() -> int:
    """Number of this process, from 0."""
    return _group.index


def count() -> int:
    """How many processes there are."""
    return _group.count


def is_main() -> bool:
    """Whether this is process 0, which writes what there is one of."""
    return _group.index == 0


def on_main(work: Callable[[], T]) -> T:
    """What `work` returns on process 0, on every process. Called by all of them, in the same order.

    Args:
        work: returns what JSON can hold.

    Raises:
        InputError: as `work` does on process 0, on every process.
    """
    if _group.count == 1:
        return work()
    _group.decisions += 1
    key = f"ilf_jax/decision/{_group.decisions}"
    if not is_main():
        answer = json.loads(_client().blocking_key_value_get(key, _PATIENCE_MS))
        if "error" in answer:
            barrier()
            raise InputError(answer["error"])
        return answer["value"]
    try:
        value = work()
    except InputError as e:
        _client().key_value_set(key, json.dumps({"error": str(e)}))
        barrier()  # they have read it before this process, which holds it, ends
        raise
    text = json.dumps({"value": value})
    _client().key_value_set(key, text)
    return json.loads(text)["value"]  # tuples are lists then, here as there


def barrier() -> None:
    """Waits until every process is here."""
    if _group.count > 1:
        _group.decisions += 1
        _client().wait_at_barrier(f"ilf_jax/barrier/{_group.decisions}", _PATIENCE_MS)


def _client() -> Any:
    # Not public, and used by Orbax in the same way: the public broadcast and barrier run on the devices, and would wait
    # for all that these have been given to do.
    from jax._src import distributed

    return distributed.global_state.client


@contextlib.contextmanager
def ends_with_the_others() -> Iterator[None]:
    """Around a run: where a step fails or another process is gone, says so and ends this one, with code 1, at once.

    An ordinary end would wait for the process that is gone.
    """
    if _group.count == 1:
        yield
        return
    import jax

    try:
        yield
    except InputError:
        raise
    except jax.errors.JaxRuntimeError as e:
        if any(sign in str(e) for sign in _SIGNS_OF_LOSS):
            said = f"stops, for another one is gone or failed (see its log): {_first_line(e)}"
        else:
            traceback.print_exc()
            said = f"failed: {_first_line(e)}"
        print(f"error: process {_group.index} of {_group.count} {said}; the same command on all of them goes on from "
              "what is written", file=sys.stderr, flush=True)
        os._exit(1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
