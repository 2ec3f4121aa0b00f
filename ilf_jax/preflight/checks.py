"""What must hold of a configuration and its documents before any work is done, baselines included."""

from collections.abc import Sequence

from ilf_jax import config as config_lib
from ilf_jax import feedback, scoring
from ilf_jax.config import methods, needed_roles, needed_stages
from ilf_jax.data import documents as documents_lib
from ilf_jax.errors import InputError
from ilf_jax.evaluation import systems
from ilf_jax.feedback import control
from ilf_jax.inference import model_pool
from ilf_jax.stages import finetune, reward
from ilf_jax.stages.context import uses_recorded_drafts
from ilf_jax.tasks.task import Task


def check_sources(config: config_lib.Config, task: Task) -> None:
    """Raises InputError if parts of the configuration do not go together, or a checkpoint is not there."""
    trained_tokenizer_size(config)
    _check_baselines(config)
    for method in methods(config):
        _check_method(method, task)


def _check_baselines(config: config_lib.Config) -> None:
    names = {_settings(config): "the run itself"}
    # What is compared at the end, by name, and what the report calls the run itself.
    taken = {"before_training", config.finetune.target, "references", "human_refinements", "ILF", "policy"}
    for name in config.baselines or {}:
        if name in taken or "_best_of_" in name:
            raise InputError(f"config.baselines.{name}: is the name of another system of the run; choose another")
        settings = _settings(config_lib.baseline(config, name))
        if settings in names:
            raise InputError(f"config.baselines.{name}: has the same settings as {names[settings]}; a baseline "
                             "overrides something in finetune, feedback, refine or score")
        names[settings] = f"config.baselines.{name}"


def _settings(config: config_lib.Config) -> str:
    return repr([getattr(config, section) for section in config_lib.OVERRIDDEN_BY_BASELINES])


def _check_method(config: config_lib.Config, task: Task) -> None:
    needed = needed_stages(config)
    if "feedback" in needed:
        feedback.source_class(config.feedback.source).check(config, task, None)
        control.check(config, task, None)
    _check_fresh_drafts(config, needed)
    if "score" in needed:
        scoring.scorer_class(config.score.method)
    if config.finetune.target == "feedback_refinement" and config.iterations > 1:
        raise InputError("config.finetune.target='feedback_refinement' with config.iterations above 1: such a policy's "
                         "drafts would begin with feedback")
    for name in ("refiner", "judge", "critic", "embedder"):
        if (getattr(config, name).tokenizer or "").startswith("train:"):
            raise InputError(f"config.{name}.tokenizer: only the policy's tokenizer can be trained")
    model_pool.check(config, needed_roles(config))
    finetune.check(config)
    if "reward_model" in needed_roles(config):
        reward.check(config)
    if config.evaluate.rank and config.data.eval_size == 0:
        raise InputError("config.evaluate.rank=True needs held-out documents: config.data.eval_size is 0")


def _check_fresh_drafts(config: config_lib.Config, needed: Sequence[str]) -> None:
    """Raises InputError if candidates are the policy's fresh drafts, and something is asked about what they refine."""
    if config.refine.source != "policy" or "refine" not in needed:
        return
    where = "config.refine.source='policy' draws fresh drafts, which refine nothing: it does not go with"
    if config.score.method in ("instruct_rm", "embedding"):
        raise InputError(f"{where} config.score.method={config.score.method!r}, which looks for feedback in "
                         "refinements; use reward_model, or your own reward function (file:PATH:NAME)")
    if config.score.win_rate:
        raise InputError(f"{where} config.score.win_rate=True, which compares refinements with drafts")
    if config.finetune.target == "feedback_refinement":
        raise InputError(f"{where} config.finetune.target='feedback_refinement'")


def check_documents(config: config_lib.Config, task: Task, documents: documents_lib.Documents) -> None:
    """Raises InputError for the first document that lacks what the run, or a baseline, needs."""
    one_system = config.iterations == 0 and config.evaluate.best_of_n == 1 and not systems.of_people(documents.held_out)
    if config.evaluate.rank and one_system:
        raise InputError("config.evaluate.rank=True takes two systems; with config.iterations=0 and no "
                         "references there is only before_training")
    train = [e for examples in documents.by_iteration.values() for e in examples]
    for method in methods(config):
        needed = needed_stages(method)
        finetune.check_documents(method, train)
        if "draft" in needed and uses_recorded_drafts(method):
            for example in train:
                if not example.draft.strip():
                    raise InputError(f"document {example.id!r} has no recorded draft; map it by "
                                     "config.data.fields.draft, or set config.draft.source='policy'")
        if "feedback" in needed:
            feedback.source_class(method.feedback.source).check(method, task, train)
            for examples in documents.by_iteration.values():
                control.check(method, task, examples)


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
