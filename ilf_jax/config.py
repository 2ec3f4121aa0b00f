"""The run's configuration: frozen dataclasses (`config_sections`), read from a ConfigDict with every key checked.

`base_config()` is where every file in configs/ starts: it holds all keys with their defaults, so that each can be
overridden by `--config.section.key=VALUE`. `read(config_dict)` is the only way in; it refuses what it does not know.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from ilf_jax import config_keys
from ilf_jax.config_sections import Config, stages_before_finetuning
from ilf_jax.errors import InputError, shown

# Keys that had another name: old -> new.
_RENAMED = {"compare": "baselines", "refine.max_logprob_gap": "refine.max_logprob_gap_mean, the mean over tokens"}
OVERRIDDEN_BY_BASELINES = ("feedback", "refine", "score", "finetune")
"""Sections that a baseline may override; whatever differs between a run and its baselines is in them."""
_PICKED_BY = ("random", "longest", "first")


def base_config() -> ml_collections.ConfigDict:
    """All keys with their defaults, for a config file to change."""
    return config_keys.to_config_dict(Config())


def read(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """The checked configuration.

    Raises:
        InputError: an unknown key (the nearest one is named), a wrong type, or a value that is not allowed.
    """
    if not isinstance(config, (Mapping, ml_collections.ConfigDict)):
        raise InputError(f"the configuration is a mapping of keys to values, not {type(config).__name__}; start from "
                         "ilf_jax.base_config()")
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    tree.pop("source_hashes", None)  # what `to_dict` adds of a user's own code
    given = config_keys.flatten(Config, tree, _RENAMED)
    result = config_keys.build(Config, {name: config_keys.check(Config, name, value) for name, value in given.items()})
    if result.policy.checkpoint == "policy":
        raise InputError("config.policy.checkpoint: the policy itself needs a checkpoint URI, not 'policy'")
    return dataclasses.replace(result, baselines=_read_baselines(result.baselines))


def _read_baselines(value: Any) -> dict[str, dict[str, Any]]:
    """Name -> dotted key -> checked value. A name alone is a text to imitate (config.finetune.target)."""
    if value is None:
        return {}
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if isinstance(value, (tuple, list)) and all(isinstance(name, str) for name in value):
        value = {name: name for name in value}
    if not isinstance(value, Mapping):
        raise InputError("config.baselines: expected names of config.finetune.target, or a mapping of names to "
                         f"overrides, got {shown(value)}")
    baselines = {}
    for name, overrides in value.items():
        where = f"config.baselines.{config_keys.shown_name(name)}"
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise InputError(f"{where}: a name is made of at most 64 letters, digits, '_', '-' and '.'")
        if isinstance(overrides, str):
            overrides = _imitating(config_keys.check(Config, "finetune.target", overrides))
        try:
            given = config_keys.flatten(Config, overrides, _RENAMED)
            baselines[name] = {k: config_keys.check(Config, k, v) for k, v in given.items()}
        except InputError as e:
            raise InputError(f"{where}: {e}") from e
        other = next((k for k in given if k.partition(".")[0] not in OVERRIDDEN_BY_BASELINES), None)
        if other is not None:
            raise InputError(f"{where}: overrides config.{other}; a baseline may override only the sections "
                             f"{', '.join(OVERRIDDEN_BY_BASELINES)}")
    return baselines


def _imitating(target: str) -> dict[str, Any]:
    """Overrides that imitate another text. Scoring is left to the cheapest method that picks that text."""
    overrides = {"finetune.target": target}
    if target != "refinement":
        overrides["finetune.objective"] = "nll"
    if target in _PICKED_BY:
        overrides["score.method"] = target
    return overrides


def baseline(config: Config, name: str) -> Config:
    """The configuration of one of config.baselines: the run's own with its overrides, and no baselines."""
    overrides = (config.baselines or {})[name]
    values = {**flat(config), **overrides, "baselines": {}}
    if config.draft.source == "auto":  # as in the run: a baseline with other feedback is about the same drafts
        values["draft.source"] = "recorded" if config.feedback.source == "recorded" else "policy"
    return config_keys.build(Config, values)


def methods(config: Config) -> list[Config]:
    """The run itself and its baselines."""
    return [config, *(baseline(config, name) for name in config.baselines or {})]


def needed_stages(config: Config) -> tuple[str, ...]:
    """Stages that an iteration runs before finetuning, in order."""
    settings = config.finetune
    return stages_before_finetuning(settings.target, settings.objective, settings.feedback_weight,
                                    config.refine.source) if config.iterations else ()


def needed_roles(config: Config) -> list[str]:
    """The roles that models play in a run, its baselines aside."""
    needed = needed_stages(config)
    roles = ["policy", *(["refiner"] if "refine" in needed and config.refine.source == "refiner" else [])]
    if "feedback" in needed and config.feedback.source == "critic":
        roles.append("critic")
    scores = "score" in needed and (config.score.method == "instruct_rm" or config.score.win_rate)
    if scores or config.evaluate.win_rate or config.evaluate.rank:
        roles.append("judge")
    rewarded = ("score" in needed and config.score.method == "reward_model") or config.evaluate.best_of_n > 1
    if rewarded or config.reward.source is not None:
        roles.append("reward_model")
    if "score" in needed and config.score.method == "embedding":
        roles.append("embedder")
    return roles


def local_roles(config: Config) -> list[str]:
    """Those of `needed_roles` that models in memory play, not models behind an endpoint."""
    return [name for name in needed_roles(config) if not getattr(config, name).checkpoint.startswith("api:")]


def with_overrides(config: Config, overrides: Mapping[str, Any]) -> Config:
    """The configuration with other values, dotted key -> value. Raises InputError as `read` does."""
    return read({**flat(config), **overrides})


def flat(config: Config) -> dict[str, Any]:
    """Every key with its value, by dotted name."""
    return config_keys.flatten(Config, dataclasses.asdict(config), _RENAMED)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain dicts, ready for JSON.

    Where a choice is a user's own code, `source_hashes` has a digest of it, so that a resumed run notices a change.
    """
    tree = dataclasses.asdict(config)
    hashes = _source_hashes(config)
    return {**tree, "source_hashes": hashes} if hashes else tree


def _source_hashes(config: Config) -> dict[str, str]:
    keys = config_keys.table(Config)
    choices = flat(config)
    choices |= {f"baselines.{name}.{k}": v for name, values in (config.baselines or {}).items()
                for k, v in values.items()}
    hashes = {}
    for name, value in choices.items():
        used = keys.get(name) or next((entry for k, entry in keys.items() if name.endswith(f".{k}")), None)
        if used is not None and used.registry is not None:
            digest = used.registry.source_hash(value)
            if digest is not None:
                hashes[f"{name}={value}"] = digest
    return hashes


def key_names() -> tuple[str, ...]:
    """Dotted names of all keys and sections."""
    return config_keys.names(Config)


def key_table() -> dict[str, config_keys.Key]:
    """What there is to know of every key, by dotted name, in the order of the sections."""
    return config_keys.table(Config)


def sections() -> dict[str, str]:
    """What every section is about, by dotted name."""
    return config_keys.section_docs(Config)


def unknown_key(path: str) -> InputError:
    """The error for a key that does not exist, naming the nearest one that does."""
    return config_keys.unknown_key(Config, path, _RENAMED)
