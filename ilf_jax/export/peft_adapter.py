"""What LoRA has trained, as an adapter that the peft library loads onto the base model.

A finished iteration holds ordinary weights W' = W + alpha / rank * A B. Their differences from the base have a known
rank, so a range finder gets factors of them back (Halko, Martinsson and Tropp 2011, arXiv:0909.4061, algorithm 4.1),
exact up to rounding. Iterations that start from each other add up their ranks.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ilf_jax.errors import InputError
from ilf_jax.export import hugging_face
from ilf_jax.export.exported import Exported
from ilf_jax.models.families import HF_TABLES

_INPUTS_FIRST = ("gpt2",)  # its Conv1D holds a matrix the other way round
_OVERSAMPLING = 8
# Of what may be left of a difference: relative to its largest element, and the rounding of the weights themselves.
_TOLERANCE, _ROUNDING = 1e-4, 4 * float(np.finfo(np.float32).eps)


def rank(exported: Exported) -> int:
    """The most that a kernel's difference from the base has."""
    settings = exported.config.finetune
    return settings.lora_rank * (exported.finished.iteration if settings.init == "previous" else 1)


def check(exported: Exported) -> None:
    """Raises InputError if the policy is not one that LoRA has trained."""
    if exported.finished.iteration == 0:
        raise InputError("--format=peft: iteration 0 is the policy before training, which has no adapter; take a later "
                         "one, or --format=huggingface")
    if not exported.config.finetune.lora_rank:
        raise InputError("--format=peft: the run has config.finetune.lora_rank=0, it trained the params themselves; "
                         "--format=huggingface writes them")


def write(exported: Exported, folder: pathlib.Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json, and the tokenizer with the policy's prompt.

    Raises:
        InputError: a weight differs from the base's by more than LoRA changes.
    """
    from safetensors.numpy import save_file

    base, trained = (traverse_util.flatten_dict(params, sep="/")
                     for params in (exported.load("base"), exported.params))
    config, table = exported.lm.architecture, HF_TABLES[exported.lm.architecture.family]
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for rule in table.expand(config, base):
        parts = [np.asarray(trained[t], np.float32) - np.asarray(base[t], np.float32) for t in rule.targets]
        if not any(part.any() for part in parts):
            continue
        name = table.export_name(rule.source)
        if not all(target.endswith("/kernel") for target in rule.targets):
            raise InputError(f"--format=peft: {name} differs from the base's, and LoRA changes kernels only; "
                             "--format=huggingface writes all weights")
        difference = rule.transform.save(parts, config)
        if config.family in _INPUTS_FIRST:
            difference = difference.T
        module = name.removesuffix(".weight")
        ranks[module] = min(rank(exported) * len(rule.targets), *difference.shape)
        rounding = _ROUNDING * max(float(np.abs(np.asarray(trained[t])).max()) for t in rule.targets)
        b, a = _factors(difference, ranks[module], rounding, name)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    if not tensors:
        raise InputError("--format=peft: the policy equals its base; there is no adapter to write")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(_settings(exported, ranks), indent=2) + "\n", encoding="utf-8")
    shutil.copymode(path, folder / "adapter_model.safetensors")
    hugging_face.write_tokenizer(exported, folder)


def _factors(difference: np.ndarray, rank: int, rounding: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """B (outputs x rank) and A (rank x inputs), float32, whose product is `difference`.

    Args:
        difference: outputs x inputs.
        rank: the most that it has.
        rounding: of the weights that it is the difference of.
        name: of the tensor, for messages.

    Raises:
        InputError: its rank is higher.
    """
    exact: np.ndarray = difference.astype(np.float64)
    size = min(rank + _OVERSAMPLING, min(exact.shape))
    basis, _ = np.linalg.qr(exact @ np.random.default_rng(0).normal(size=(exact.shape[-1], size)))
    left, values, right = np.linalg.svd(basis.T @ exact, full_matrices=False)
    root = np.sqrt(values[:rank])
    b = (basis @ left[:, :rank] * root).astype(np.float32)
    a = (root[:, None] * right[:rank]).astype(np.float32)
    left_over = float(np.abs(difference - b @ a).max())
    if left_over > _TOLERANCE * float(np.abs(difference).max()) + rounding:
        raise InputError(f"--format=peft: {name} differs from the base's by more than a matrix of rank {rank}, up to "
                         f"{left_over:.1e}: not all of the run's iterations had this config.finetune.lora_rank, or the "
                         "base checkpoint is not what it was; --format=huggingface writes all weights")
    return b, np.ascontiguousarray(a)


def _settings(exported: Exported, ranks: Mapping[str, int]) -> dict[str, Any]:
    """adapter_config.json. Alpha equals the rank everywhere, so that nothing is scaled."""
    scheme, _, name = exported.config.policy.checkpoint.partition(":")
    most = max(ranks.values())
    others = {module: r for module, r in ranks.items() if r != most}
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none", "lora_dropout": 0.0,
        "base_model_name_or_path": name if scheme == "hf" else exported.config.policy.checkpoint,
        "r": most, "lora_alpha": most, "rank_pattern": others, "alpha_pattern": others,
        "target_modules": sorted(ranks), "fan_in_fan_out": exported.lm.architecture.family in _INPUTS_FIRST,
    }
