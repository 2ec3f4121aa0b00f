"""What this machine can do at most, and how near ours comes: measured in the same run as the suites.

One step of single-row decoding must read every weight and the cache once; FLOPs are counted as in peaks.py.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ours, peaks, protocol
from ilf_jax.models import transformer
from ilf_jax.sampling import decode
from ilf_jax.tasks.prompts import Prompt

_PREFILL = (8, 400)
_DECODED = 65


class Roofline:
    """A worker that measures peaks, and ours against them."""

    def __init__(self, work: dict[str, Any]) -> None:
        self._work = work

    def measure(self) -> dict[str, Any]:
        """Peaks, shares of them, and how many FLOPs the finetuning of this work is."""
        worker = ours.Ours(self._work)
        worker.setup("refine", {})
        rates = peaks.bandwidth(2**28)
        return {
            "matmul_gflops": max(peaks.matmul_flops(size, jnp.float32) for size in (1024, 2048)) / 1e9,
            "bandwidth_gbs": {name: rate / 1e9 for name, rate in rates.items()},
            "prefill_gflops": self._prefill(worker) / 1e9,
            "decode_gbs": self._decode(worker) / 1e9,
            "finetune_gflop": self._finetune(worker) / 1e9,
        }

    def _prefill(self, worker: ours.Ours) -> float:
        lm, (rows, length) = worker.lm, _PREFILL
        tokens = jnp.asarray(np.random.default_rng(0).integers(100, 40_000, (rows, length)), jnp.int32)
        lengths = jnp.full(rows, length, jnp.int32)
        step = jax.jit(transformer.prefill, static_argnums=0)
        return peaks.forward_flops(lm.architecture, [length] * rows) / peaks.fastest(
            lambda: step(lm.architecture, lm.params, tokens, lengths), repeats=3
        )

    def _decode(self, worker: ours.Ours) -> float:
        """Bytes that must be read a second while one row is decoded."""
        lm, text = worker.lm, self._work["examples"][0]["document"]
        prompts = lm.encode("one", [Prompt("", text, "")], _DECODED)
        keys = decode.candidate_keys(0, 1, "roofline", ["one"], [0])

        def generate(tokens: int) -> list[Any]:
            return worker.generator(tokens, batch_size=1).start(prompts, keys).result()

        whole, prefill = (peaks.fastest(lambda n=n: generate(n), repeats=3) for n in (_DECODED, 1))
        seconds = (whole - prefill) / (_DECODED - 1)
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params))
        c = lm.architecture
        cached = 2 * 4 * c.num_layers * c.num_kv_heads * c.head_dim * (len(prompts[0].ids) + _DECODED // 2)
        return (weights + cached) / seconds

    def _finetune(self, worker: ours.Ours) -> float:
        examples = worker.training_examples()
        return self._work["epochs"] * peaks.train_flops(
            worker.lm.architecture, [len(e) for e in examples], sum(e.num_targets for e in examples)
        )


def main() -> None:
    """Serves until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="JSON file that work.py made")
    flags = parser.parse_args()
    roofline = Roofline(json.loads(flags.work.read_text(encoding="utf-8")))
    protocol.serve({"measure": roofline.measure})


if __name__ == "__main__":
    main()
