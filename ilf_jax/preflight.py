"""What must hold of a configuration and its documents before any work is done; baseline arms included."""

import dataclasses

from ilf_jax import config as config_lib
from ilf_jax.data import documents
from ilf_jax.errors import InputError
from ilf_jax.feedback import recorded
from ilf_jax.inference import model_pool
from ilf_jax.stages import draft, finetune, reward, targets
from ilf_jax.tasks.task import Task

_LOOK_FOR_FEEDBACK = ("instruct_rm", "embedding")


def arm_config(config: config_lib.Config, target: str) -> config_lib.Config:
    """The same run with another text to imitate. Scoring is left to the cheapest method that picks that text."""
    method = target if target in ("random", "longest", "first") else config.score.method
    objective = config.finetune.objective if target == "refinement" else "nll"
    return dataclasses.replace(
        config, compare=(), finetune=dataclasses.replace(config.finetune, target=target, objective=objective),
        score=dataclasses.replace(config.score, method=method),
    )


def check_sources(config: config_lib.Config, task: Task) -> None:
    """Raises InputError if parts of the configuration do not go together, or a checkpoint is not there."""
    trained_tokenizer_size(config)
    if config.finetune.target in config.compare:
        raise InputError(f"config.compare={config.compare!r} holds {config.finetune.target!r}, what the run itself "
                         "imitates (config.finetune.target)")
    for arm in _arms(config):
        _check_arm(arm, task)


def _arms(config: config_lib.Config) -> list[config_lib.Config]:
    """The run itself and its baseline arms."""
    return [config, *(arm_config(config, target) for target in config.compare)]


def _check_arm(config: config_lib.Config, task: Task) -> None:
    needed = targets.needed_stages(config)
    if "feedback" in needed and config.feedback.source == "oracle" and not task.has_oracle:
        raise InputError(f"config.feedback.source='oracle', but task {task.name!r} has no oracle; "
                         "use 'recorded' or 'critic'")
    if "feedback" in needed and config.feedback.source == "recorded" and config.draft.source == "policy":
        raise InputError("config.draft.source='policy' with config.feedback.source='recorded': recorded feedback is "
                         "about the recorded draft; use config.draft.source='recorded', or feedback from elsewhere")
    if config.finetune.target == "feedback_refinement" and config.iterations > 1:
        raise InputError("config.finetune.target='feedback_refinement' with config.iterations above 1: such a policy's "
                         "drafts would begin with feedback")
    if "feedback" in needed and config.feedback.source == "none" and config.score.method in _LOOK_FOR_FEEDBACK:
        raise InputError(f"config.feedback.source='none' with config.score.method={config.score.method!r}, which looks "
                         "for feedback in refinements; use random, longest, first or reward_model")
    if "feedback" in needed and config.feedback.source == "none" and config.finetune.target == "feedback_refinement":
        raise InputError("config.finetune.target='feedback_refinement' with config.feedback.source='none': there would "
                         "be no feedback to write")
    if config.finetune.objective == "weighted" and config.finetune.target != "refinement":
        raise InputError(f"config.finetune.objective='weighted' weighs all refinements; "
                         f"it does not go with config.finetune.target={config.finetune.target!r}")
    for name in ("refiner", "judge", "critic", "embedder"):
        if (getattr(config, name).tokenizer or "").startswith("train:"):
            raise InputError(f"config.{name}.tokenizer: only the policy's tokenizer can be trained")
    model_pool.check(config, needed_roles(config))
    finetune.check(config)
    if "reward_model" in needed_roles(config):
        reward.check(config)
    if config.evaluate.rank and config.data.eval_size == 0:
        raise InputError("config.evaluate.rank=True needs held-out documents: config.data.eval_size is 0")


def needed_roles(config: config_lib.Config) -> list[str]:
    """The parts that models play in a run."""
    needed = targets.needed_stages(config)
    roles = ["policy", *(["refiner"] if "refine" in needed else [])]
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


def check_documents(config: config_lib.Config, found: documents.Documents) -> None:
    """Raises InputError for the first document that lacks what the run, or an arm of it, needs."""
    train = [e for examples in found.by_iteration.values() for e in examples]
    for arm in _arms(config):
        targets.check(arm, train)
    needed = {stage for arm in _arms(config) for stage in targets.needed_stages(arm)}
    if "draft" in needed and draft.uses_recorded(config):
        for example in train:
            if not example.draft.strip():
                raise InputError(f"document {example.id!r} has no recorded draft; map it by config.data.fields.draft, "
                                 "or set config.draft.source='policy'")
    if config.feedback.source == "recorded" and "feedback" in needed:
        recorded.check(train)


def trained_tokenizer_size(config: config_lib.Config) -> int | None:
    """Size V of config.policy.tokenizer='train:V'; None where none is to be trained."""
    kind, _, size = (config.policy.tokenizer or "").partition(":")
    if kind != "train":
        return None
    if not size.isdecimal() or int(size) < 257:
        raise InputError(f"config.policy.tokenizer={config.policy.tokenizer!r}: the size must be a whole number of at "
                         "least 257")
    if config.iterations == 0:
        raise InputError(f"config.policy.tokenizer={config.policy.tokenizer!r} learns from the documents of "
                         "iterations, and config.iterations is 0")
    return int(size)
