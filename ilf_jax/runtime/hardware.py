"""All that depends on the kind of device: what it can do, by its maker's data sheet; what programs cost there; which
flags and options its compiler gets; and TPUs to compile for that this machine does not have.

Each flag and option stays only as long as it pays: benchmarks/RESULTS.md has the measurements, and `python
benchmarks/tricks.py` repeats those of the CPU's options.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re

import jax

from ilf_jax.errors import InputError
from ilf_jax.runtime import distributed

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        memory: bytes that a program may use.
        bfloat16, float32: peak FLOP/s of matmuls; float32 at jax's highest precision.
        bandwidth: bytes/s of the device's memory.
        link: bytes/s to its neighbours, over all links in both directions.
    """

    memory: float
    bfloat16: float
    float32: float
    bandwidth: float
    link: float

    def peak(self, precision: str) -> float:
        """FLOP/s in config.precision."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


# Prefix of a device's kind, in lower case -> the chip. TPUs have no float32 matmul: six bfloat16 ones make it up.
_CHIPS: dict[str, Chip] = {
    "tpu v4": Chip(31.75 * _GIB, 275e12, 275e12 / 6, 1228e9, 300e9),
    "tpu v5 lite": Chip(15.75 * _GIB, 197e12, 197e12 / 6, 819e9, 200e9),
    "tpu v5": Chip(95.0 * _GIB, 459e12, 459e12 / 6, 2765e9, 600e9),
    "tpu v6 lite": Chip(31.25 * _GIB, 918e12, 918e12 / 6, 1640e9, 448e9),
    "nvidia a100-sxm4-80gb": Chip(79 * _GIB, 312e12, 19.5e12, 2039e9, 600e9),
    "nvidia a100-sxm4-40gb": Chip(39 * _GIB, 312e12, 19.5e12, 1555e9, 600e9),
    "nvidia h100 80gb hbm3": Chip(79 * _GIB, 989e12, 67e12, 3350e9, 900e9),
    "nvidia h200": Chip(139 * _GIB, 989e12, 67e12, 4800e9, 900e9),
}


@dataclasses.dataclass(frozen=True)
class Reached:
    """What part of the roofline our own programs reached where we measured them.

    Attributes:
        forward: of the peak FLOP/s, in prefill and in scoring.
        decode: of the bandwidth, reading weights and cache in each step.
        train: of the peak FLOP/s, by the FLOPs that the model needs.
        source: where and when.
    """

    forward: float
    decode: float
    train: float
    source: str


# A CPU's peaks are measured, too: XLA's best float32 matmul, and reading memory.
_TWO_CORES = Chip(float("inf"), 375e9, 375e9, 60e9, float("inf"))
_REACHED: dict[str, Reached] = {
    "cpu": Reached(0.78, 0.45, 0.42, "measured on two AMD EPYC cores, SmolLM2-135M in float32, 2026-11"),
    # Llama 1.1B in bfloat16: 268,000 tok/s of prefill, 2.40 ms a decode step of 16 x 8 rows that reads 2.44 GB, 39 to
    # 43 % in training; shares of the data sheet's figures.
    "nvidia h200": Reached(0.54, 0.21, 0.41, "measured on one H200, Llama 1.1B in bfloat16, 2026-11-28"),
}
_ELSEWHERE = dataclasses.replace(
    _REACHED["nvidia h200"], source="not measured on this device: the shares are those of one H200, 2026-11-28")


def reached(device: jax.Device) -> tuple[Chip, Reached] | None:
    """A device, and what part of its roofline may be counted on; None where its peaks are not known."""
    if device.platform == "cpu":
        return _TWO_CORES, _REACHED["cpu"]
    found = chip(device)
    if found is None:
        return None
    name = next((name for name in _REACHED if device.device_kind.lower().startswith(name)), None)
    return found, _ELSEWHERE if name is None else _REACHED[name]


@dataclasses.dataclass(frozen=True)
class Programs:
    """What a program costs to have on one kind of device, against what the device could compute meanwhile.

    Attributes:
        layer_seconds: to compile one layer of a forward pass, or to trace and load it.
        beside: what stands beside the layers (embeddings, sampling) takes as long as so many of them.
        flops: FLOP/s that prefill and scoring sustain on one device where its data sheet is not in our table.
        row_multiple: rows are multiples of this; fused attention takes no others.
        together: whether more devices compute more; those of a CPU share its cores.
        source: where and when `layer_seconds` was measured.
    """

    layer_seconds: float
    beside: int
    flops: float
    row_multiple: int
    together: bool
    source: str


_PROGRAMS: dict[str, Programs] = {
    "cpu": Programs(0.1, 0, 3e11, 1, False, "SmolLM2-135M (30 layers) on two AMD EPYC cores: a program compiles in 5 "
                    "to 8 s and loads in 1.5 to 2.5 s, 2026-11"),
    "gpu": Programs(0.16, 5, 1e14, 128, True, "SmolLM2-135M on one H200: 28.3 s for 5 programs, autotuning included, "
                    "2026-11-28"),
    "tpu": Programs(1.8, 7, 1e14, 128, True, "Llama 8B for v5e:4x4, on two AMD EPYC cores: refine and score compile in "
                    "70 s, and in 13 and 15 s with its 32 layers under a scan, 2026-11-29"),
}


def programs(device: jax.Device) -> Programs:
    """What programs cost on a device. `flops` are its data sheet's times what we reached, where it is known."""
    found = _PROGRAMS.get(device.platform, _PROGRAMS["gpu"])
    known = None if device.platform == "cpu" else reached(device)
    return found if known is None else dataclasses.replace(found, flops=known[0].bfloat16 * known[1].forward)


# Of XLA's ways to multiply matrices on NVIDIA GPUs, cuBLAS alone is tried. Compiling and timing Triton's for each
# matmul took 100 of the quickstart's 143 s with an empty cache of programs; measured on one H200, 2026-11-28.
_NVIDIA_FLAGS = {"xla_gpu_enable_triton_gemm": "false"}
# Nor are cuBLAS's algorithms timed (the quickstart: 34.7 s instead of 41.7 s). Larger models get back in each step what
# choosing an algorithm takes at the start; these do not.
_SMALL_ON_NVIDIA_FLAGS = {"xla_gpu_autotune_level": "0"}
_CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


def set_xla_flags(small: bool = False) -> str:
    """Adds the flags that pay on this machine's kind of device to XLA_FLAGS.

    XLA reads them once, when jax starts its backends; after that, this changes nothing. A flag that the user has set
    keeps the user's value.

    Args:
        small: all models are as small as those that ship with the package, so that a matmul takes no time to speak of.

    Returns:
        What was added, as XLA reads it; "" if nothing was.
    """
    if distributed.jax_has_started() or not _has_nvidia_gpu():
        return ""
    given = os.environ.get("XLA_FLAGS", "")
    taken = {flag.lstrip("-").partition("=")[0] for flag in given.split()}
    wanted = {**_NVIDIA_FLAGS, **(_SMALL_ON_NVIDIA_FLAGS if small else {})}
    added = " ".join(f"--{name}={value}" for name, value in wanted.items() if name not in taken)
    if added:
        os.environ["XLA_FLAGS"] = f"{given} {added}".strip()
    return added


def _has_nvidia_gpu(root: pathlib.Path = pathlib.Path("/")) -> bool:
    """Whether jax will start on an NVIDIA GPU, told by its settings, its plugins and the driver's files.

    No GPU is touched: that would take seconds, and would have to happen before XLA reads its flags.
    """
    platforms = (jax.config.values["jax_platforms"] or "").split(",")
    if platforms[0] not in ("", "cuda", "gpu"):
        return False
    if not any(importlib.util.find_spec(plugin) for plugin in _CUDA_PLUGINS):
        return False
    # Linux, and Windows' Linux.
    return any(root.glob("dev/nvidia[0-9]*")) or (root / "dev/dxg").exists()


KEPT_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""Compiler options of inference and of the train step on CPUs, which otherwise drop barriers before they fuse.

Those that `jax.checkpoint` sets: without them, XLA merges what is recomputed with what it was computed from, and keeps
it, and config.finetune.remat saves no memory; `tricks.py` measures this as `kept_barriers` and `kept_barriers_remat`.
And those of `barriers.materialise`.
"""


def train_step_on_cpu(remat: str) -> dict[str, str]:
    """Compiler options of the train step on CPUs.

    Operations are ordered for little memory, not for concurrency: SmolLM2-135M takes 7 to 22 % less temporary memory,
    in the same time. With remat 'full' it would take twice as much. `tricks.py` measures this as `memory_scheduler`.

    Args:
        remat: as in config.finetune.remat.
    """
    scheduler = {} if remat == "full" else {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return {**KEPT_BARRIERS, **scheduler}


_GENERATIONS = ("v4", "v5e", "v5p", "v6e")


def chip(device: jax.Device) -> Chip | None:
    """A device's data sheet; None for a CPU, a slice of a GPU, and devices that are not in the table."""
    kind = device.device_kind.lower()
    names = [name for name in _CHIPS if kind.startswith(name) and "mig" not in kind]
    return _CHIPS[max(names, key=len)] if names else None


def default_precision(platform: str) -> str:
    """What config.precision='auto' means on devices of a platform, as jax calls it: cpu, gpu or tpu."""
    return "float32" if platform == "cpu" else "bfloat16"


def default_layers(platform: str) -> str:
    """What config.layers='auto' means on devices of a platform.

    By compile time: for TPUs a scan takes a fifth to a third of it; elsewhere a layer takes a tenth of a second, and on
    a CPU a scan slows each step. No accelerator has run one yet. See benchmarks/RESULTS.md.
    """
    return "scan" if platform == "tpu" else "unrolled"


def topology(name: str) -> list[jax.Device]:
    """The devices of a TPU slice such as v5e:4x4 or v5p:2x2x2, which programs can be compiled for.

    Raises:
        InputError: there is no such slice, or no TPU compiler is installed.
    """
    generation, _, shape = name.partition(":")
    if generation not in _GENERATIONS or not re.fullmatch(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?", shape):
        raise InputError(f"--topology={name!r}: expected GENERATION:AxB or GENERATION:AxBxC, the generation one of "
                         f"{', '.join(_GENERATIONS)}; v5e:4x4 for example")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--topology={name}: needs the TPU compiler: pip install 'ilf-jax[tpu]', or libtpu alone")
    # This may be any machine, and the compiler takes no chip.
    for variable, value in (("TPU_SKIP_MDS_QUERY", "1"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"), ("TPU_WORKER_ID", "0"),
                            ("TPU_WORKER_HOSTNAMES", "localhost"), ("TPU_ACCELERATOR_TYPE", "v5litepod-1")):
        os.environ.setdefault(variable, value)
    os.environ.setdefault("TPU_LIBRARY_LOG_LEVEL", "3")
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except Exception as e:  # whatever the compiler's plugin raises
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise InputError(f"--topology={name}: the TPU compiler does not know this slice: {reason}") from e
