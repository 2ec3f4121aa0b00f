"""Which rows are too long for the prompts of a run, or for training on, and what becomes of them.

Known are the texts of the data; what models are yet to write is taken to be as short as can be.
"""

import contextlib
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from ilf_jax import config as config_lib
from ilf_jax.config import local_roles, methods, needed_stages
from ilf_jax.data import comparisons as comparisons_lib
from ilf_jax.data import documents as documents_lib
from ilf_jax.errors import InputError
from ilf_jax.feedback.control import PRAISE
from ilf_jax.inference import fitting as fitting_lib
from ilf_jax.inference import model_pool
from ilf_jax.inference.answer_scoring import ANSWER_ROOM
from ilf_jax.inference.fitting import UNWRITTEN, Demand, Model, shortened, too_long
from ilf_jax.inference.policy_outputs import policy_prompt
from ilf_jax.preflight.checks import trained_tokenizer_size
from ilf_jax.records import Comparison, Example
from ilf_jax.runtime import progress
from ilf_jax.stages.context import uses_recorded_drafts
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tasks.task import Task
from ilf_jax.tokenizers import bpe_training

# Rows on which it is tried whether the longest output would fit: a warning does not depend on all of them.
_LOOKED_AT = 64


def fitting(
    config: config_lib.Config, task: Task, documents: documents_lib.Documents, pool: model_pool.ModelPool
) -> documents_lib.Documents:
    """The documents whose texts fit, with those of the data that are known, into every prompt of the run and its
    baselines; config.data.too_long says what becomes of the others. What happened to how many is logged.

    Raises:
        InputError: a document does not fit, and is to stop the run; or none is left.
    """
    warn_of_missing_numbers(config, task, documents.held_out)
    names = {name for method in methods(config) for name in local_roles(method)} - {"embedder"}
    while True:
        with _models(config, task, documents, pool, names) as models:
            kept = _fitting(config, task, documents, models)
        # The run trains its tokenizer on what is kept, and that may need more tokens for the same text.
        if trained_tokenizer_size(config) is None or kept == documents:
            return kept
        documents = kept


def fitting_comparisons(
    config: config_lib.Config, task: Task, documents: documents_lib.Documents,
    comparisons: comparisons_lib.Comparisons, pool: model_pool.ModelPool,
) -> comparisons_lib.Comparisons:
    """The comparisons that fit into config.reward.max_length; config.data.too_long says what becomes of the others.

    Neither of two compared texts is ever cut: 'truncate' leaves such comparisons out, too.

    Raises:
        InputError: one does not fit, and is to stop the run; or none is left.
    """
    with _models(config, task, documents, pool, {"reward_model"}) as models:
        demand = _comparison_demand(config, task, models["reward_model"].context)

        def kept(rows: Sequence[Comparison], what: str) -> tuple[Comparison, ...]:
            examples = [dataclasses.replace(c.example, draft=c.first, feedback=c.second) for c in rows]
            found, looked_at = too_long([demand], models, examples, count_all=config.data.too_long != "stop")
            if not found:
                return tuple(rows)
            said = f"{len(found)} of {looked_at} {what} are too long, the first: {next(iter(found.values()))}"
            if config.data.too_long == "stop" or len(found) == len(rows):
                raise InputError(f"{said}. Raise config.reward.max_length" + (
                    "" if len(found) == len(rows) else ", or let config.data.too_long='skip' leave them out"))
            progress.log(f"{said}. They are left out: config.data.too_long={config.data.too_long!r}")
            return tuple(c for c in rows if c.id not in found)

        return comparisons_lib.Comparisons(kept(comparisons.train, "comparisons"),
                                           kept(comparisons.held_out, "held-out comparisons"))


def _comparison_demand(config: config_lib.Config, task: Task, context: int) -> Demand:
    """What a reward model is trained on; the compared texts stand as `draft` and `feedback` of an example."""
    if config.reward.kind == "scalar":
        return Demand("reward", "reward_model", lambda e: [task.policy_prompt(e)],
                      text=lambda e: max(e.draft, e.feedback, key=len), training=("reward", config.reward))
    room = context - min(context, config.reward.max_length) + ANSWER_ROOM
    if config.reward.kind == "classification":
        return Demand("reward", "reward_model", lambda e: [
            task.rate_question(e, text).prompt for text in (e.draft, e.feedback)], room)
    return Demand("reward", "reward_model", lambda e: [task.compare_question(e, e.draft, e.feedback).prompt], room)


@contextlib.contextmanager
def _models(
    config: config_lib.Config, task: Task, documents: documents_lib.Documents, pool: model_pool.ModelPool,
    names: Collection[str],
) -> Iterator[dict[str, Model]]:
    """The models that play these roles before training; a tokenizer that the run would train is trained for now."""
    with tempfile.TemporaryDirectory() as folder:
        size, place = trained_tokenizer_size(config), pathlib.Path(folder)
        roles = model_pool.Roles(config, pool, place, None)

        @functools.cache
        def train_tokenizer() -> None:
            assert size is not None
            bpe_training.train_bpe(documents.texts(), size, place, task.token_units)

        yield fitting_lib.models(config, names, pool, roles, train_tokenizer)


def _fitting(
    config: config_lib.Config, task: Task, documents: documents_lib.Documents, models: Mapping[str, Model]
) -> documents_lib.Documents:
    train = list({e.id: e for examples in documents.by_iteration.values() for e in examples}.values())
    # How much a model behind an endpoint reads is known to its server alone.
    of_train, of_held_out = ([d for method in methods(config) for d in of(method, task) if d.role in models]
                             for of in (_demands_in_training, _demands_in_evaluation))
    # Apart, for held-out documents from another file may have the same ids.
    kept = _settled(config, "documents", of_train, models, train)
    kept_held_out = _settled(config, "held-out documents", of_held_out, models, documents.held_out)
    by_iteration = {
        k: tuple(kept[e.id] for e in examples if e.id in kept) for k, examples in documents.by_iteration.items()}
    result = dataclasses.replace(documents, by_iteration=by_iteration, held_out=tuple(kept_held_out.values()))
    empty = next((k for k, examples in result.by_iteration.items() if not examples), None)
    if empty is not None:
        raise InputError(f"config.data.too_long='skip' leaves no document of iteration {empty}")
    if documents.held_out and not result.held_out:
        raise InputError("config.data.too_long='skip' leaves no held-out document")
    _check_targets(config, task, models,
                   list({e.id: e for examples in result.by_iteration.values() for e in examples}.values()))
    return result


def _settled(
    config: config_lib.Config, what: str, demands: Sequence[Demand], models: Mapping[str, Model],
    examples: Sequence[Example],
) -> dict[str, Example]:
    """The examples by id: those that are too long with shorter texts, or not at all."""
    policy = config.data.too_long
    found, looked_at = too_long(demands, models, examples, count_all=policy != "stop")
    by_id = {e.id: e for e in examples}
    if not found:
        return by_id
    first = next(iter(found.values()))
    count = f"{len(found)} of {looked_at} {what}"
    if policy == "stop":
        raise InputError(f"{count} leave no room in a prompt, the first: {first}. config.data.too_long='skip' leaves "
                         "such rows out, 'truncate' shortens their draft, feedback or title")
    progress.log(f"{count} {'left out' if policy == 'skip' else 'shortened'}: config.data.too_long={policy!r}; the "
                 f"first: {first}")
    if policy == "skip":
        return {i: e for i, e in by_id.items() if i not in found}
    return by_id | {i: shortened(demands, models, by_id[i]) for i in found}


def _check_targets(
    config: config_lib.Config, task: Task, models: Mapping[str, Model], examples: Sequence[Example]
) -> None:
    """Raises InputError if texts to imitate do not fit into config.finetune.max_length behind their prompts.

    What is not written yet is taken to be as short as can be; where it may turn out too long, that is logged.
    """
    if not examples:
        return
    for method in methods(config):
        policy = config.data.too_long
        known = _known_text(method)
        shortest: Callable[[Example], str] = _unwritten if known is None or policy == "truncate" else known
        demand = Demand("finetune", "policy", lambda e: [task.policy_prompt(e)], text=shortest,
                        training=("finetune", method.finetune))
        found, looked_at = too_long([demand], models, examples, count_all=policy != "stop")
        if found and (policy == "stop" or len(found) == len(examples)):
            raise InputError(f"{len(found)} of {looked_at} documents leave no room for what is to be learned, the "
                             f"first: {next(iter(found.values()))}. Raise config.finetune.max_length"
                             + ("" if len(found) == len(examples) else
                                "; config.data.too_long='skip' leaves such rows out of training, 'truncate' cuts the "
                                "text"))
        if found:
            progress.log(f"{len(found)} of {looked_at} documents will not be trained on: config.data.too_long="
                         f"{policy!r}; the first: {next(iter(found.values()))}")
        if known is None:
            _warn_of_long_outputs(method, demand, models, examples)


def _warn_of_long_outputs(
    config: config_lib.Config, demand: Demand, models: Mapping[str, Model], examples: Sequence[Example]
) -> None:
    written = config.draft.max_new_tokens if config.finetune.target == "initial" else config.refine.max_new_tokens
    context = models["policy"].context
    room = context - min(context, config.finetune.max_length) + written + 1
    longest = dataclasses.replace(demand, room=room, text=None, training=None)
    found, _ = too_long([longest], models, examples[:_LOOKED_AT], count_all=True)
    if found:
        progress.log(f"a text of {written} tokens, as long as one may get, will not fit into config.finetune.max_length"
                     f"={config.finetune.max_length} behind some prompts; config.data.too_long says what happens then")


def _unwritten(example: Example) -> str:
    del example
    return UNWRITTEN


def _known_text(config: config_lib.Config) -> Callable[[Example], str] | None:
    """The text that an example teaches; None where a model is yet to write it."""
    target = config.finetune.target
    if target in ("reference", "human_refinement"):
        return lambda e: getattr(e, target)
    return (lambda e: e.draft) if target == "initial" and uses_recorded_drafts(config) else None


def _demands_in_training(config: config_lib.Config, task: Task) -> list[Demand]:
    """The prompts about documents to learn from. What models are yet to write is as short as can be."""
    needed, recorded = needed_stages(config), uses_recorded_drafts(config)

    def draft(e: Example) -> str:
        return e.draft if recorded else UNWRITTEN

    def feedback(e: Example) -> str:
        if config.feedback.control:
            return {"withheld": "", "empty_praise": PRAISE}.get(config.feedback.control, UNWRITTEN)
        return {"recorded": e.feedback.strip(), "none": ""}.get(config.feedback.source, UNWRITTEN)

    demands = []
    if "draft" in needed and not recorded:
        reads = policy_prompt(task, config, config.iterations > 1)
        demands.append(Demand("draft", "policy", lambda e: [reads(e)], config.draft.max_new_tokens, writes=True))
    if "feedback" in needed and config.feedback.source == "critic":
        demands.append(Demand("feedback", "critic", lambda e: [task.critic_prompt(e, draft(e))],
                              config.feedback.max_new_tokens, writes=True))
    if "refine" in needed and config.refine.source == "policy":
        demands.append(Demand("refine", "policy", lambda e: [task.policy_prompt(e)], config.refine.max_new_tokens,
                              writes=True))
    elif "refine" in needed:
        demands.append(Demand("refine", "refiner", lambda e: [task.refine_prompt(e, draft(e), feedback(e))],
                              config.refine.max_new_tokens, writes=True))
    if "score" in needed and config.score.method == "instruct_rm":
        demands.append(Demand("score", "judge", lambda e: [q.prompt for q in task.judge_questions(
            e, draft(e), feedback(e), UNWRITTEN, config.score.prompts)], ANSWER_ROOM))
    if "score" in needed and config.score.win_rate:
        demands.append(Demand("score", "judge", lambda e: [task.compare_question(e, UNWRITTEN, draft(e)).prompt],
                              ANSWER_ROOM))
    if "score" in needed and config.score.method == "reward_model":
        demands.append(_reward_demand(config, task, "score", draft))
    return demands


def _demands_in_evaluation(config: config_lib.Config, task: Task) -> list[Demand]:
    """The prompts about held-out documents."""
    settings, rooms = config.evaluate, [config.evaluate.max_new_tokens]
    if config.finetune.target == "feedback_refinement" and config.iterations:
        rooms[0] += config.feedback.max_new_tokens
    if settings.kl and config.iterations:
        rooms.append(settings.kl_max_new_tokens)
    reads = policy_prompt(task, config, config.iterations > 0)
    demands = [Demand("evaluate", "policy", lambda e: [reads(e)], max(rooms), writes=True)]
    if settings.nll:
        demands += [Demand("evaluate", "policy", lambda e: [reads(e)], text=text)
                    for text in (lambda e: e.reference.strip(), lambda e: e.human_refinement.strip())]
    if settings.win_rate or settings.rank:
        demands.append(Demand("rank" if settings.rank else "evaluate", "judge", lambda e: [task.compare_question(
            e, UNWRITTEN, e.reference.strip() if settings.rank and e.reference.strip() else UNWRITTEN).prompt],
            ANSWER_ROOM))
    if settings.best_of_n > 1:
        demands.append(_reward_demand(config, task, "best_of_n", _unwritten))
    return demands


def _reward_demand(
    config: config_lib.Config, task: Task, stage: str, anchor: Callable[[Example], str]
) -> Demand:
    """What a reward model is shown about a text that is yet to be written; `anchor` is what it is compared with."""
    prompts: dict[str, Callable[[Example], list[Prompt]]] = {
        "scalar": lambda e: [task.policy_prompt(e)],
        "classification": lambda e: [task.rate_question(e, UNWRITTEN).prompt],
        "comparison": lambda e: [task.compare_question(e, UNWRITTEN, anchor(e)).prompt]}
    return Demand(stage, "reward_model", prompts[config.reward.kind], ANSWER_ROOM)


def warn_of_missing_numbers(config: config_lib.Config, task: Task, held_out: Sequence[Example]) -> None:
    """Logs it, before the run, if nothing will be measured on held-out documents but the length of outputs."""
    settings = config.evaluate
    measured = task.metrics or settings.win_rate or settings.rank or settings.best_of_n > 1 or (
        settings.kl and config.iterations)
    fields = [f for f in ("reference", "human_refinement") if any(getattr(e, f).strip() for e in held_out)]
    if held_out and not measured and not (fields and settings.nll) and not ("reference" in fields and settings.rouge):
        progress.log("nothing will be measured on held-out documents but how long outputs are: map references by "
                     "config.data.fields.reference, or set config.evaluate.win_rate=True to have a judge compare")
