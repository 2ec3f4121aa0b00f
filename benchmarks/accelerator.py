"""Ours on one accelerator, at the size of a 1.1B Llama, against what that accelerator can do:

    python benchmarks/accelerator.py [--json=FILE] [--peer_python=PYTHON]      (--smoke: a tiny shape, on any device)

Finetuning: model FLOPs a second as a share of the measured bfloat16 matmul peak. Model FLOPs a token are 6 N + 12 x
layers x heads x head_dim x sequence (PaLM, appendix B; N without the input embedding; recomputation does not count).
Decoding: the bytes that a step must read (weights in bfloat16, each document's prefix once for all its candidates, the
candidates' own keys and values, half of their slots on average) a second as a share of the measured bandwidth.
`--peer_python`: an interpreter with torch for this accelerator and transformers; it measures the same work by them.
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
sys.path.insert(0, str(ROOT))  # for a script Python puts only its own folder there

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import peaks  # noqa: E402
from ilf_jax.models import flops, transformer  # noqa: E402
from ilf_jax.models.architecture import ModelConfig  # noqa: E402
from ilf_jax.models.compute import ComputeOptions  # noqa: E402
from ilf_jax.runtime import workdir  # noqa: E402
from ilf_jax.sampling import decode  # noqa: E402
from ilf_jax.sampling.logits import make_sampling  # noqa: E402
from ilf_jax.steps import finetune_step, refine_step  # noqa: E402
from ilf_jax.training import objectives, optimizer, packing  # noqa: E402

_LEARNING_RATE = np.float32(1e-5)


def _compute() -> ComputeOptions:
    """bfloat16, with the device's own attention kernel where it is an NVIDIA GPU."""
    return ComputeOptions(jnp.bfloat16, "cudnn" if jax.default_backend() == "gpu" else "xla")


@dataclasses.dataclass(frozen=True)
class Shape:
    """The model and how much it has to do."""

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
        """As the package has it."""
        return ModelConfig(
            family="llama", vocab_size=self.vocab_size, hidden_size=self.width, intermediate_size=self.mlp_width,
            num_layers=self.layers, num_heads=self.heads, num_kv_heads=self.kv_heads,
            head_dim=self.width // self.heads, max_positions=2 * self.sequence, tied_embeddings=False,
        )


TINY = Shape(vocab_size=512, width=64, mlp_width=128, layers=2, heads=4, kv_heads=2, sequence=32, rows=2, documents=2,
             candidates=2, prompt=16, new_tokens=4)


def train_flops_per_token(shape: Shape) -> float:
    """6 N + 12 x layers x heads x head_dim x sequence."""
    weights = flops.layer_params(shape.model) + shape.vocab_size * shape.width
    return 6 * weights + 12 * shape.layers * shape.width * shape.sequence


def decode_bytes(shape: Shape) -> float:
    """What one step for all candidates must read, on average over the steps, in bfloat16."""
    weights = flops.layer_params(shape.model) + shape.vocab_size * shape.width
    token = 2 * shape.layers * shape.kv_heads * shape.model.head_dim  # keys and values of one position
    cached = shape.documents * (shape.prompt + shape.candidates * shape.new_tokens / 2)
    return 2 * (weights + cached * token)


def train_tokens_per_second(shape: Shape, params: transformer.Params, remat: str) -> float:
    """Of whole train steps: forward, backward, clipping and AdamW, every token predicted. Uses up `params`."""
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

    def one() -> jax.Array:
        state[0], metrics = step(state[0], {}, batch, _LEARNING_RATE)
        return metrics["loss"]

    return shape.rows * shape.sequence / peaks.fastest(one)


def decode_seconds_per_step(shape: Shape, params: transformer.Params) -> float:
    """Of decoding all candidates by one token; prefill taken off by a second run of one token."""
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
    """Peaks, and ours against them."""
    peak = max(peaks.matmul_flops(size, jnp.bfloat16) for size in ((256,) if smoke else (4096, 8192)))
    memory = max(peaks.bandwidth(2**20 if smoke else 2**30).values())
    init = jax.jit(functools.partial(transformer.init_params, shape.model))
    low = jax.jit(lambda p: jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.ndim > 1 else a, p))
    decode_s = decode_seconds_per_step(shape, low(init(jax.random.key(0))))
    tokens_per_s = train_tokens_per_second(shape, init(jax.random.key(0)), remat)
    return {
        "device": jax.devices()[0].device_kind, "versions": workdir.versions(), "shape": dataclasses.asdict(shape),
        "remat": remat, "matmul_tflops": peak / 1e12, "bandwidth_gbs": memory / 1e9,
        **shares("ours", shape, peak, memory, tokens_per_s, decode_s),
    }


def shares(
    side: str, shape: Shape, peak: float, memory: float, tokens_per_s: float, decode_s: float
) -> dict[str, float]:
    """One side's numbers and what share of the device they are."""
    return {
        f"{side}_train_tokens_per_s": tokens_per_s,
        f"{side}_model_flop_utilisation": tokens_per_s * train_flops_per_token(shape) / peak,
        f"{side}_decode_tokens_per_s": shape.documents * shape.candidates / decode_s,
        f"{side}_decode_bandwidth_share": decode_bytes(shape) / decode_s / memory,
    }


def measure_peer(python: str, shape: Shape, smoke: bool) -> dict[str, Any]:
    """What transformers does on the same device, in a process of its own."""
    command = [python, "-m", "benchmarks.accelerator_peer", json.dumps(dataclasses.asdict(shape)), *["cpu"] * smoke]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"error: {' '.join(command[:3])} ended with code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str]) -> None:
    """Prints the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny shape: only that it runs is of interest")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--rows", type=int, default=Shape.rows, help="rows of 1024 tokens in a train step")
    parser.add_argument("--remat", default="dots", choices=("none", "dots", "full"), help="as config.finetune.remat")
    parser.add_argument("--peer_python", help="interpreter with torch for this accelerator, and transformers")
    flags = parser.parse_args(arguments)
    shape = TINY if flags.smoke else Shape(rows=flags.rows)
    # Before jax takes the accelerator's memory.
    theirs = measure_peer(flags.peer_python, shape, flags.smoke) if flags.peer_python else None
    if not flags.smoke and jax.default_backend() == "cpu":
        raise SystemExit("error: jax sees no accelerator here; --smoke runs anywhere")
    result = measure(shape, flags.remat, flags.smoke)
    if theirs:
        peak, memory = result["matmul_tflops"] * 1e12, result["bandwidth_gbs"] * 1e9
        result |= shares("peer", shape, peak, memory, theirs["train_tokens_per_s"], theirs["decode_s"])
        result["peer_settings"] = theirs["settings"]
    text = json.dumps(result, indent=1)
    print(text)
    if flags.json:
        flags.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
