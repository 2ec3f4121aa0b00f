"""Which tensor of a file becomes which params, settled from its header before anything is read or traced."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from flax import traverse_util

from ilf_jax.errors import InputError
from ilf_jax.models import finite_weights
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.families import Rule, Table
from ilf_jax.models.transformer import param_shapes

_HEAD = "lm_head.weight"


class Tensors(Protocol):
    """The tensors of an open file or folder."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor name -> shape, in the file's own layout."""

    def check(self, name: str) -> None:
        """Raises InputError if the tensor is not of a type that weights have."""

    def read(self, name: str) -> np.ndarray:
        """One tensor, float32."""


@dataclasses.dataclass(frozen=True)
class Source:
    """An open checkpoint file or folder.

    Attributes:
        config: its architecture.
        table: how its tensors are named.
        tensors: what it holds.
        where: the file or folder, for messages.
    """

    config: ModelConfig
    table: Table
    tensors: Tensors
    where: str

    def read(self, name: str) -> np.ndarray:
        """One tensor, float32. Raises InputError if it cannot be read or has an element that is not finite."""
        values = self.tensors.read(name)
        finite_weights.check_tensor(values, name, self.where)
        return values


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a source becomes params.

    Attributes:
        rules: (rule, tensor name) of every tensor to read.
        shapes: shape of each param, by path such as "layers_0/attention/q/kernel".
        tied: (unembedding, embedding), tensors that must be equal, if the file has both and the config ties them.
    """

    rules: list[tuple[Rule, str]]
    shapes: Mapping[str, tuple[int, ...]]
    tied: tuple[str, str] | None


@functools.lru_cache(maxsize=8)  # tracing all layers takes a while, and several parts of a run ask
def _flat_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {"/".join(k): v.shape for k, v in traverse_util.flatten_dict(param_shapes(config)).items()}


def make_plan(source: Source) -> Plan:
    """The plan for a source, by its header; no tensor is read.

    Raises:
        InputError: the config does not fit the tensors' number or sizes; a tensor without a rule, given twice, missing,
            or of a type that weights do not have.
    """
    shapes = {name: shape for name, shape in source.tensors.shapes.items() if not source.table.is_ignored(name)}
    _check_sizes(source, shapes)
    of_params = _flat_shapes(source.config)
    rules = {rule.source: rule for rule in source.table.expand(source.config, of_params)}
    names = _names(source, shapes, rules)
    head = names.pop(_HEAD) if _HEAD in names and _HEAD not in rules else None
    if missing := sorted(set(rules) - set(names)):
        raise InputError(f"{source.where}: {len(missing)} tensors are missing, the first: {missing[0]}")
    if unset := sorted(set(of_params) - {t for r in rules.values() for t in r.targets}):
        raise InputError(f"{source.where}: no rule of family {source.config.family} gives {', '.join(unset)}")
    for canonical, name in names.items():
        source.tensors.check(name)
        needed = sum(_size(of_params[target]) for target in rules[canonical].targets)
        if _size(shapes[name]) != needed:
            targets = ", ".join(f"{target} {of_params[target]}" for target in rules[canonical].targets)
            raise InputError(f"{source.where}: tensor {name} has shape {shapes[name]}, but by the config it holds "
                             f"{targets}")
    embedding = next((name for canonical, name in names.items() if rules[canonical].targets == ("embedding",)), None)
    tied = None if head is None or embedding is None else (head, embedding)
    return Plan([(rules[canonical], name) for canonical, name in names.items()], of_params, tied)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def _check_sizes(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compares the config with the tensors, by what every family has: layers, and matrices as large as it says."""
    config, where = source.config, source.where
    before = {rule.source.partition("{i}")[0] for rule in source.table.rules if "{i}" in rule.source}
    layers = 0
    for name in shapes:
        canonical = source.table.canonical(name)
        for prefix in before:
            number = canonical.removeprefix(prefix).partition(".")[0]
            if canonical.startswith(prefix) and number.isdecimal() and len(number) < 10:
                layers = max(layers, int(number) + 1)
    if layers != config.num_layers:
        raise InputError(f"{where}: the config says {config.num_layers} layers, but there are tensors of {layers}")
    largest = max(map(_size, shapes.values()), default=0)
    rows = {"vocab_size": config.vocab_size, "intermediate_size": config.intermediate_size,
            "num_heads x head_dim": config.num_heads * config.head_dim}
    if config.position == "learned":
        rows["max_positions"] = config.max_positions
    for what, count in rows.items():
        if count * config.hidden_size > largest:
            raise InputError(f"{where}: the config says a matrix of {what} = {count} times hidden_size = "
                             f"{config.hidden_size}, but the largest tensor has {largest} elements")


def _names(source: Source, shapes: Mapping[str, tuple[int, ...]], rules: Mapping[str, Rule]) -> dict[str, str]:
    """Canonical name -> name in the file. Every tensor must be known, and known once."""
    names: dict[str, str] = {}
    for name in shapes:
        canonical = source.table.canonical(name)
        if canonical in names:
            raise InputError(f"{source.where}: tensors {names[canonical]} and {name} both mean {canonical}")
        if canonical not in rules and not (canonical == _HEAD and source.config.tied_embeddings):
            raise InputError(f"{source.where}: tensor {name} of shape {shapes[name]} matches no rule of this "
                             f"{source.config.family} config")
        names[canonical] = name
    return names
