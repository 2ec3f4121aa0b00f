"""Reward: trains the reward model on comparisons, before the first iteration, and measures it on held-out ones.

PAPER: three kinds. A language model learns to say which of two outputs is better (comparison) or whether one is good
(classification), or a scalar head learns to reward the better one more.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence

from ilf_jax import config as config_lib
from ilf_jax import config_sections
from ilf_jax.data.comparisons import Comparisons
from ilf_jax.errors import InputError
from ilf_jax.evaluation import calibration, statistics
from ilf_jax.inference import model_pool, trained_model, training_texts
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.reward_scorer import READ, RewardScorer
from ilf_jax.records import Comparison, Preference
from ilf_jax.runtime import distributed, manifests, performance, storage
from ilf_jax.runtime.files import read_sealed, write_json
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.stages.context import Outcome, Records, StageContext, run_stage
from ilf_jax.tasks.prompts import Question
from ilf_jax.tasks.task import Task
from ilf_jax.training import loop, objectives, packing

_PART = "reward_base"
_KIND_FILE = "reward.json"


def check(config: config_lib.Config) -> None:
    """Raises InputError if config.reward does not fit the model, or a reward model is needed and none is configured."""
    uri = config.reward_model.checkpoint
    kind, learns = config.reward.kind, config.reward.source is not None
    if not learns and uri == "policy":
        raise InputError("a reward model is needed (config.score.method='reward_model' or config.evaluate.best_of_n "
                         "above 1): give one as config.reward_model.checkpoint, or comparisons to train one on as "
                         "config.reward.source")
    model = model_pool.read_model_config(config.policy.checkpoint if uri == "policy" else uri)
    if learns:
        if model.scalar_head and kind != "scalar":
            raise InputError(f"config.reward.kind={kind!r} is learned by a language model, but {uri} has a scalar head")
        loop.check("reward", config.reward, model)
        return
    said = _kind_of(uri) or ("scalar" if model.scalar_head else None)
    if said is not None and said != kind:
        raise InputError(f"config.reward.kind={kind!r}, but {uri} was trained as {said!r}")
    if kind == "scalar" and said is None:
        raise InputError(f"config.reward.kind='scalar', but {uri} has no scalar head")


def _kind_of(uri: str) -> str | None:
    """The kind of a reward model that a run has trained; None of other models."""
    path = storage.path(uri.removeprefix("orbax:")) / _KIND_FILE
    if not uri.startswith("orbax:") or not path.exists():
        return None
    kind = read_sealed(path).get("kind")
    if kind not in READ:
        raise InputError(f"{path}: kind is {kind!r}, none of {', '.join(READ)}")
    return kind


def train_reward_model(context: StageContext, comparisons: Comparisons) -> Records[Preference]:
    """Trains the reward model; a Preference for each held-out comparison."""
    records = run_stage(context, "reward", Preference, functools.partial(_train, context, comparisons))
    loop.delete_states(context.folder("reward").path)
    return records


def _train(context: StageContext, comparisons: Comparisons, folder: StageFolder) -> Outcome:
    config, settings = context.config, context.config.reward
    lm = context.roles.without_params(_PART)
    if settings.kind == "scalar":
        lm = dataclasses.replace(lm, architecture=dataclasses.replace(lm.architecture, scalar_head=True))
    examples = [dataclasses.replace(example, document=c.document)
                for c in comparisons.train for example in _examples(config, context.task, lm, c)]
    objective_class = objectives.Pairwise if settings.kind == "scalar" else objectives.NextToken
    objective = objective_class.make(lm.architecture, lm.compute, settings)
    trainer = loop.Trainer(
        section="reward", settings=settings, placement=lm.placement, compute=lm.compute, seed=config.seed,
        iteration=context.iteration, folder=folder.path, checkpointing=config.checkpoint,
        profile=performance.Profile(context.workdir.path / "profile", context.profiled_steps),
        on_step=context.workdir.on_step("reward", context.iteration))
    trained = loop.train(trainer, objective, functools.partial(context.roles.take, _PART), examples)
    distributed.on_main(lambda: write_json(context.workdir.reward_model / _KIND_FILE, {"kind": settings.kind}))
    checkpoint = trained_model.save(context.roles, context.workdir.reward_model, lm, trained.params)
    scorer = RewardScorer(context.roles.get("reward_model"), context.task, settings.kind)
    probabilities = scorer.preferences(comparisons.held_out, config.score.batch_size)
    rows = [Preference(c.id, float(p), c.preferred)
            for c, p in zip(comparisons.held_out, probabilities, strict=True)]
    checkpoint.result()
    folder.write_shard(0, 1, rows)
    metrics = [statistics.plain("loss", trained.loss), statistics.plain("steps", trained.steps),
               statistics.plain("comparisons", len(comparisons.train)), *_metrics(rows)]
    return Outcome(1, len(rows), metrics, trained.work, {manifests.STEPS_DIGEST: trained.log_digest})


def _metrics(rows: list[Preference]) -> list[statistics.Metric]:
    probabilities, truth = [row.probability for row in rows], [row.preferred == "first" for row in rows]
    error = calibration.expected_calibration_error(calibration.reliability(probabilities, truth))
    right = calibration.right(probabilities, truth).tolist()
    # Half right where both texts are equally likely: then it is a mean, but no share.
    accuracy = (statistics.proportion if {*right} <= {0, 1} else statistics.mean)("accuracy", right)
    return [accuracy,
            statistics.Metric("calibration_error", error, float("nan"), len(rows))]


def _examples(
    config: config_lib.Config, task: Task, lm: LanguageModel, compared: Comparison
) -> list[packing.TrainingExample]:
    """What a comparison teaches, by the kind of reward model."""
    example, (better, worse) = compared.example, compared.in_order
    if config.reward.kind == "scalar":
        return [_pair(config.reward, task, lm, compared)]
    if config.reward.kind == "classification":
        good, bad = (task.rate_question(example, text) for text in (better, worse))
        return [_answered(config.reward, lm, example.id, good, 0),
                _answered(config.reward, lm, example.id, bad, 1)]
    # Which is shown first is left to chance: records may have an order of their own.
    swapped = zlib.crc32(f"{config.seed}/{compared.id}".encode()) % 2
    shown = (worse, better) if swapped else (better, worse)
    return [_answered(config.reward, lm, example.id, task.compare_question(example, *shown), swapped)]


def _answered(
    settings: config_sections.Reward, lm: LanguageModel, example_id: str, question: Question, which: int
) -> packing.TrainingExample:
    """A question and its answer, one token, which alone is learned. What is too long is cut from the document.

    Raises:
        InputError: the answers are not one token each, or the question does not fit.
    """
    prompt = training_texts.encode_prompt(lm, example_id, question.prompt, 1, "reward", settings)
    first, second = (lm.completion_text(prompt, answer) for answer in question.answers)
    answers = lm.tokenizer.answer_tokens(prompt.text, prompt.ids, (first, second))
    if not answers.exact:
        raise InputError(f"config.reward.kind={settings.kind!r}: of the answers {first!r} and {second!r} one is more "
                         f"than one token for the tokenizer of {lm.settings.checkpoint}; config.reward.kind='scalar' "
                         "needs no answers")
    return packing.training_example(prompt.ids, (), answers.ids[which], prompt_weight=0.0)


def _pair(
    settings: config_sections.Reward, task: Task, lm: LanguageModel, compared: Comparison
) -> packing.TrainingExample:
    """The better and the worse text behind the same prompt.

    Raises:
        InputError: with the longer of them, the prompt does not fit even without the document.
    """
    prompt = task.policy_prompt(compared.example)

    def encode(texts: Sequence[str]) -> list[packing.TrainingExample]:
        behind = training_texts.Texts(compared.id, prompt, tuple(texts))
        return training_texts.encode_texts(lm, behind, "reward", settings)

    return objectives.Pairwise.pair_example(*compared.in_order, encode)
