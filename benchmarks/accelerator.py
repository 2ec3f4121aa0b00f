"""Measures training and decoding of a 1.1B Llama on one accelerator, against the peaks of that accelerator:

    python benchmarks/accelerator.py [--json=FILE] [--peer_python=PYTHON]      (--smoke: a tiny shape, on any device)
    python benchmarks/accelerator.py --suite=iteration --shape=llama_8b        a whole iteration, stage by stage

Finetuning: model FLOPs per second, as a share of the measured bfloat16 matmul peak. Model FLOPs per token are 6 N +
12 x layers x heads x head_dim x sequence (PaLM, appendix B; N excludes the input embedding; recomputation does not
count). Decoding: bytes per second that a step must read, as a share of the measured bandwidth. These bytes are the
weights in bfloat16, each document's prefix once for all its candidates, and the candidates' own keys and values (half
of their slots on average).
`--peer_python`: an interpreter with transformers, and torch for this accelerator. It measures the same work with them.
"""

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the script's own folder on the path

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import accelerator_iteration, peaks  # noqa: E402
from ilf_jax.models import flops, transformer  # noqa: E402
from ilf_jax.models.architecture import ModelConfig  # noqa: E402
from ilf_jax.models.compute import ComputeOptions  # noqa: E402
from ilf_jax.runtime import hardware, provenance  # noqa: E402
from ilf_jax.sampling import decode  # noqa: E402
from ilf_jax.sampling.logits import make_sampling  # noqa: E402
from ilf_jax.steps import finetune_step, refine_step  # noqa: E402
from ilf_jax.training import objectives, optimizer, packing  # noqa: E402

_LEARNING_RATE = np.float32(1e-5)


def _compute() -> ComputeOptions:
    """bfloat16, with cuDNN attention on an NVIDIA GPU."""
    return ComputeOptions(jnp.bfloat16, "cudnn" if jax.default_backend() == "gpu" else "xla")


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of the model and of its work."""

    vocab_size: int = 32_000
    width: int = 2048
    mlp_width: int = 5632
    layers: int = 22
    heads: int = 32
    kv_heads: int = 4
    sequence: int = 1024
    rows: int = 8
    documents: int = 16
    candidates: int = 8
    prompt: int = 512
    new_tokens: int = 128

    @property
    def model(self) -> ModelConfig:
        """The package's config of this model."""
        return ModelConfig(
            family="llama", vocab_size=self.vocab_size, hidden_size=self.width, intermediate_size=self.mlp_width,
            num_layers=self.layers, num_heads=self.heads, num_kv_heads=self.kv_heads,
            head_dim=self.width // self.heads, max_positions=2 * self.sequence, tied_embeddings=False,
        )


TINY = Shape(vocab_size=512, width=64, mlp_width=128, layers=2, heads=4, kv_heads=2, sequence=32, rows=2, documents=2,
             candidates=2, prompt=16, new_tokens=4)


def train_flops_per_token(shape: Shape) -> float:
    """Model FLOPs per token: 6 N + 12 x layers x heads x head_dim x sequence."""
    weights = flops.layer_params(shape.model) + shape.vocab_size * shape.width
    return 6 * weights + 12 * shape.layers * shape.width * shape.sequence


def decode_bytes(shape: Shape) -> float:
    """Bytes that one step for all candidates must read in bfloat16, averaged over the steps."""
    weights = flops.layer_params(shape.model) + shape.vocab_size * shape.width
    token = 2 * shape.layers * shape.kv_heads * shape.model.head_dim  # keys and values of one position
    cached = shape.documents * (shape.prompt + shape.candidates * shape.new_tokens / 2)
    return 2 * (weights + cached * token)


def train_tokens_per_second(shape: Shape, params: transformer.Params, remat: str) -> float:
    """Tokens per second of whole train steps: forward, backward, clipping and AdamW, predicting every token.

    `params` are donated to the step and cannot be used afterwards.
    """
    adamw = optimizer.make_optimizer(optimizer.OptimizerConfig(weight_decay=0.0, clip_norm=1.0))
    objective = objectives.NextToken(shape.model, _compute(), remat)
    step = jax.jit(functools.partial(finetune_step.train_step, objective, adamw), donate_argnums=0)
    rng = np.random.default_rng(0)
    examples = [
        packing.TrainingExample(rng.integers(0, shape.vocab_size, shape.sequence).astype(np.int32),
                                np.ones(shape.sequence, np.float32)) for _ in range(shape.rows)
    ]
    batch = packing.assemble(examples, [[i] for i in range(shape.rows)], num_rows=shape.rows,
                             row_length=shape.sequence, num_targets=shape.sequence - 1)
    batch = {name: jnp.asarray(array[None]) for name, array in batch.items()}
    state = [finetune_step.init_state(params, adamw)]

    def one_step() -> jax.Array:
        state[0], metrics = step(state[0], {}, batch, _LEARNING_RATE)
        return metrics["loss"]

    return shape.rows * shape.sequence / peaks.fastest(one_step)


def decode_seconds_per_step(shape: Shape, params: transformer.Params) -> float:
    """Seconds to decode one token for every candidate. A second run of one token serves to subtract the prefill."""
    rng = np.random.default_rng(0)
    prompts = jnp.asarray(rng.integers(0, shape.vocab_size, (shape.documents, shape.prompt)), jnp.int32)
    lengths = jnp.full(shape.documents, shape.prompt, jnp.int32)
    ids = [str(i) for i in range(shape.documents)]
    keys = jnp.asarray(decode.candidate_keys(0, 1, "benchmark", ids, range(shape.candidates)))
    ends = jnp.zeros(shape.vocab_size, bool)  # forced length
    step = jax.jit(refine_step.refine_step, static_argnames=("config", "max_new_tokens", "compute"))

    def seconds(new_tokens: int) -> float:
        return peaks.fastest(lambda: step(
            shape.model, params, prompts, lengths, keys, make_sampling(1.0, 0, 0.95), ends,
            max_new_tokens=new_tokens, compute=_compute(),
        ))

    return (seconds(shape.new_tokens) - seconds(1)) / (shape.new_tokens - 1)


def measure(shape: Shape, remat: str, smoke: bool) -> dict[str, Any]:
    """The peaks of the device, and our rates against them."""
    peak = max(peaks.matmul_flops(size, jnp.bfloat16) for size in ((256,) if smoke else (4096, 8192)))
    memory = max(peaks.bandwidth(2**20 if smoke else 2**30).values())
    init = jax.jit(functools.partial(transformer.init_params, shape.model))
    to_bfloat16 = jax.jit(lambda p: jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.ndim > 1 else a, p))
    decode_s = decode_seconds_per_step(shape, to_bfloat16(init(jax.random.key(0))))
    tokens_per_s = train_tokens_per_second(shape, init(jax.random.key(0)), remat)
    return {
        "device": jax.devices()[0].device_kind, "versions": provenance.versions(), "shape": dataclasses.asdict(shape),
        "remat": remat, "matmul_tflops": peak / 1e12, "bandwidth_gbs": memory / 1e9,
        **shares("ours", shape, peak, memory, tokens_per_s, decode_s),
    }


def shares(
    side: str, shape: Shape, peak: float, memory: float, tokens_per_s: float, decode_s: float
) -> dict[str, float]:
    """One side's rates, and their shares of the device's peaks.

    Args:
        side: prefix of the names, "ours" or "peer".
        shape: the model and its work.
        peak: matmul FLOP/s of the device.
        memory: bandwidth of the device in bytes/s.
        tokens_per_s: of training.
        decode_s: seconds per decoding step.
    """
    return {
        f"{side}_train_tokens_per_s": tokens_per_s,
        f"{side}_model_flop_utilisation": tokens_per_s * train_flops_per_token(shape) / peak,
        f"{side}_decode_tokens_per_s": shape.documents * shape.candidates / decode_s,
        f"{side}_decode_bandwidth_share": decode_bytes(shape) / decode_s / memory,
    }


def measure_peer(python: str, shape: Shape, smoke: bool) -> dict[str, Any]:
    """Rates of transformers on the same device, measured in a separate process."""
    command = [python, "-m", "benchmarks.accelerator_peer", json.dumps(dataclasses.asdict(shape)), *["cpu"] * smoke]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if process.returncode != 0:
        raise SystemExit(f"error: {' '.join(command[:3])} exited with code {process.returncode}")
    return json.loads(process.stdout.splitlines()[-1])


def main(arguments: Sequence[str]) -> None:
    """Prints the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="run a tiny shape, only to check that it works")
    parser.add_argument("--suite", default="rates", choices=("rates", "iteration"), help="training and decoding, or a "
                        "whole iteration")
    parser.add_argument("--shape", default="llama_1b", choices=accelerator_iteration.SHAPES, help="of the iteration")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--rows", type=int, default=Shape.rows, help="rows of 1024 tokens per train step")
    parser.add_argument("--remat", default="dots", choices=("none", "dots", "full"), help="as config.finetune.remat")
    parser.add_argument("--peer_python", help="interpreter with transformers, and torch for this accelerator")
    flags = parser.parse_args(arguments)
    if flags.suite == "iteration" and flags.peer_python:
        parser.error("--peer_python: the peer measures --suite=rates only")
    hardware.set_xla_flags()
    shape = TINY if flags.smoke else Shape(rows=flags.rows)
    # The peer goes first: jax would reserve the accelerator's memory.
    peer_rates = measure_peer(flags.peer_python, shape, flags.smoke) if flags.peer_python else None
    if not flags.smoke and jax.default_backend() == "cpu":
        raise SystemExit("error: jax sees no accelerator here; --smoke runs on any device")
    result = (accelerator_iteration.measure(flags.shape, flags.smoke) if flags.suite == "iteration"
              else measure(shape, flags.remat, flags.smoke))
    if peer_rates:
        peak, memory = result["matmul_tflops"] * 1e12, result["bandwidth_gbs"] * 1e9
        result |= shares("peer", shape, peak, memory, peer_rates["train_tokens_per_s"], peer_rates["decode_s"])
        result["peer_settings"] = peer_rates["settings"]
    text = json.dumps(result, indent=1)
    print(text)
    if flags.json:
        flags.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
