"""One whole ILF iteration with random weights: the run of configs/llama_8b_lora.py, what each of its stages cost.

64 documents of 512 tokens, 8 candidates of up to 128 new tokens (random weights hardly ever end a text), five judge
questions behind one head, LoRA of rank 16 on a bfloat16 base.
"""

import itertools
import json
import string
import tempfile
from pathlib import Path
from typing import Any

import jax
import ml_collections
import tokenizers

import ilf_jax
from benchmarks import documents
from configs import llama_8b_lora
from ilf_jax.models import architecture
from ilf_jax.runtime import provenance
from ilf_jax.tokenizers.tokenizer import Tokenizer

SHAPES = ("llama_1b", "llama_8b")
_SHOWN = ("seconds", "compile_seconds", "compilations", "tokens", "tokens_per_second_per_device", "mfu", "peak_memory")


def measure(shape: str, smoke: bool = False) -> dict[str, Any]:
    """What one iteration cost.

    Args:
        shape: one of SHAPES.
        smoke: a tiny shape and two documents, only to see that it works.

    Returns:
        `device`, `versions`, `shape`, and `stages`: of each stage seconds, of which compile_seconds for so many
        compilations, tokens, tokens per second, the share of the device's peak FLOP/s (mfu, where it is known) and the
        process's peak memory in bytes so far; without compiling in `seconds_without_compiling`. And `targets`, see
        `targets_of`.
    """
    with tempfile.TemporaryDirectory(prefix="ilf_jax_iteration_") as folder:
        config = _config(shape, Path(folder), smoke)
        ilf_jax.run(config, Path(folder) / "run")
        lines = (Path(folder) / "run" / "performance.jsonl").read_text(encoding="utf-8").splitlines()
        targets = targets_of(Path(folder) / "run" / "metrics.jsonl", _size(smoke)[0], config.refine.max_new_tokens)
    stages: dict[str, dict[str, float]] = {}
    for row in map(json.loads, lines):
        metric = row["metric"].removeprefix("performance/")
        if row["iteration"] == 1 and metric in _SHOWN:
            stages.setdefault(row["stage"], {})[metric] = row["value"]
    for cost in stages.values():
        cost["seconds_without_compiling"] = max(0.0, cost["seconds"] - cost["compile_seconds"])
    return {"device": jax.devices()[0].device_kind, "versions": provenance.versions(),
            "shape": "tiny" if smoke else shape, "targets": targets, "stages": stages}


def targets_of(metrics: Path, documents: int, new_tokens: int) -> dict[str, float]:
    """What finetuning learned from: `examples`, and their `target_tokens` in all.

    Random weights may write what decodes to nothing, and with short targets finetuning would cost less than real work.

    Args:
        metrics: metrics.jsonl of the run.
        documents: that were refined.
        new_tokens: that each candidate may have.

    Raises:
        SystemExit: a document taught nothing, or the targets are shorter than half of `new_tokens` on average.
    """
    rows = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    found = {row["metric"]: row["value"] for row in rows if row["iteration"] == 1 and row["stage"] == "finetune"}
    examples, tokens = found["examples"], found["target_tokens"]
    if examples < documents or tokens < examples * new_tokens / 2:
        raise SystemExit(f"error: finetuning had {examples:g} targets of {tokens:g} tokens in all, from {documents} "
                         f"documents and candidates of up to {new_tokens} tokens: it measured less than real work")
    return {"examples": examples, "target_tokens": tokens}


def write_tokenizer(folder: Path, size: int) -> str:
    """Writes a tokenizer each of whose ids has a text, so that what random weights sample is a text, too.

    Args:
        folder: where tokenizer.json and tokenizer_config.json go.
        size: of the vocabulary: an unknown and an end token, the printable ASCII characters, then pieces of three
            letters; at most 140,000.

    Returns:
        Its URI.
    """
    threes = map("".join, itertools.product(string.ascii_letters, repeat=3))
    pieces = ["<unk>", "</s>", *string.printable[:95], "\n", *threes]
    if size > len(pieces):
        raise ValueError(f"a vocabulary of {size}: there are at most {len(pieces)} pieces")
    # All scores are the same: a text becomes the fewest pieces.
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -1.0) for piece in pieces[:size]], unk_id=0))
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>", "unk_token": "<unk>"}', encoding="utf-8")
    return f"file:{folder / 'tokenizer.json'}"


def _size(smoke: bool) -> tuple[int, int]:
    """Documents to learn from, and the tokens of each."""
    return (4, 64) if smoke else (64, 512)


def _config(shape: str, folder: Path, smoke: bool) -> ml_collections.ConfigDict:
    shape = "tiny" if smoke else shape
    count, length = _size(smoke)
    held_out = 2
    vocabulary = architecture.SHAPES[shape].vocab_size
    uri = write_tokenizer(folder / "tokenizer", vocabulary)
    tokenizer = Tokenizer.load(uri)
    with (folder / "documents.jsonl").open("w", encoding="utf-8") as file:
        for example in itertools.islice(documents.made_up(seed=0), count + held_out):
            ids = tokenizer.encode(f"{example.document} " * 16)[:length]
            row = {"article": tokenizer.decode(ids), "candidate": example.draft,
                   "feedback": {"explanation": example.feedback, "summary": example.human_refinement}}
            file.write(json.dumps(row) + "\n")
    c = llama_8b_lora.get_config()
    c.data.too_long = "skip" if smoke else "stop"
    c.data.source, c.data.eval_size = f"jsonl:{folder / 'documents.jsonl'}", held_out
    c.policy.checkpoint, c.policy.tokenizer = f"init:{shape}", uri
    for part in (c.refiner, c.judge):
        part.checkpoint = "policy"
    if smoke:
        c.refine.num_candidates, c.refine.max_new_tokens, c.evaluate.max_new_tokens = 2, 16, 4
        c.draft.batch_size = c.refine.batch_size = c.score.batch_size = c.evaluate.batch_size = 4
        c.policy.max_prompt_length = c.refiner.max_prompt_length = c.judge.max_prompt_length = 480
        c.finetune.batch_size, c.finetune.accumulation, c.finetune.max_length, c.finetune.remat = 4, 1, 512, "none"
    return c
