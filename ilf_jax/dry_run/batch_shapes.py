"""Array sizes of a run's steps: the largest batches, measured on the documents if they are available."""

import dataclasses
from collections.abc import Mapping, Sequence

from ilf_jax import config as config_lib
from ilf_jax.inference import answer_scoring, model_pool, target_tokens
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.look_ahead import text_size
from ilf_jax.models import padding
from ilf_jax.models.placement import Placement
from ilf_jax.models.row_planner import RowPlanner
from ilf_jax.records import Example
from ilf_jax.stages.context import Roles
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tasks.task import Task
from ilf_jax.training import batch_schedule, loop

# Number of documents measured, longest first.
_DOCUMENTS = 512
# Assumed length of feedback that is not written yet, and of the question after a refinement in a judge's prompt.
_FEEDBACK_TOKENS, _QUESTION_TOKENS = 64, 64
# Questions of the judge's ensemble where the task is not asked.
_QUESTIONS = 5
# Minimum length of a task's own feedback: on a placeholder draft it may be shorter than on a real one.
_ORACLE_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Array sizes. All lengths are tokens per padded row.

    Attributes:
        prompt: length of the refiner's prompt.
        prefix: length of the prefix that candidates share in the judge's prompt. Prefix, branch and questions follow
            the best layout for the texts measured here; the run may choose another for the texts that models write.
        branch: length of what each candidate adds.
        questions: questions asked per branch.
        row: length of a training row.
        rows: rows per micro-batch.
        accumulation: micro-batches per training step.
        targets: predicted tokens per training row.
        source: how the sizes were obtained, for messages.
        policy_prompt: length of the policy's prompt.
        groups: prefixes of each document in the judge's prompts.
        typical: mean length of the prompts of all documents, as a part of the longest one's.
        beside: predicted tokens per training row of the texts beside the examples, where they were measured.
    """

    prompt: int
    prefix: int
    branch: int
    questions: int
    row: int
    rows: int
    accumulation: int
    targets: int
    source: str
    policy_prompt: int = 0
    groups: int = 1
    typical: float = 1.0
    beside: Mapping[str, int] = dataclasses.field(default_factory=dict)


def assumed(config: config_lib.Config, placement: Placement) -> Shapes:
    """Sizes from config.finetune.max_length, for when documents or tokenizer are not available."""
    settings, model = config.finetune, placement.model
    row = padding.bucket(min(settings.max_length, model.max_positions), _multiple(config, placement))
    new_tokens = config.refine.max_new_tokens
    prompt = min(config.refiner.max_prompt_length or row, model.max_positions - new_tokens)
    micro = -(-settings.batch_size // settings.accumulation)
    targets = row if settings.prompt_loss_weight > 0 else padding.bucket(new_tokens + 1)
    return Shapes(
        prompt=prompt, prefix=prompt, branch=new_tokens + _QUESTION_TOKENS,
        questions=_QUESTIONS if config.score.prompts == "tree" else 1, row=row, rows=placement.padded(micro),
        accumulation=settings.accumulation, targets=targets,
        source=f"assumed: prompts of {prompt} tokens, training rows of {row} (config.finetune.max_length)",
        policy_prompt=prompt, groups=1 if config.score.prompts == "tree" else _QUESTIONS,
    )


def _multiple(config: config_lib.Config, placement: Placement) -> int:
    device = placement.mesh.devices.flat[0]
    return RowPlanner(placement.model, device, model_pool.compute_of(config, placement.mesh)).multiple


def measured(config: config_lib.Config, task: Task, roles: Roles, documents: Sequence[Example]) -> Shapes:
    """Sizes from the documents. Placeholders of maximal length stand for texts that models have yet to write.

    Raises:
        InputError: a prompt is too long; the run would raise the same error.
    """
    longest = sorted(documents, key=lambda e: -len(e.document))[:_DOCUMENTS]
    refiner, judge, policy = (roles.without_params(name) for name in ("refiner", "judge", "policy"))
    texts = {e.id: _texts(config, task, refiner, e) for e in longest}
    new_tokens = config.refine.max_new_tokens
    room = refiner.room(new_tokens)
    prompt = max(len(refiner.encode(e.id, [task.refine_prompt(e, *texts[e.id])], room)[0].ids) for e in longest)
    questions_by_document = []
    for e in longest:
        # The first candidate differs from the others at its first word, so that candidates share no prefix.
        first, other = _placeholder(refiner, e, new_tokens), _placeholder(refiner, e, new_tokens, skipped=1)
        candidates = [first, *[other] * (config.refine.num_candidates - 1)]
        questions = [task.judge_questions(e, *texts[e.id], text, config.score.prompts) for text in candidates]
        questions_by_document.append(answer_scoring.ask(judge, e.id, questions))
    layout = answer_scoring.choose_layout(judge, questions_by_document)
    settings = config.finetune
    examples = [target_tokens.encode_target(settings, task, policy, e, _completion(config, policy, e)) for e in longest]
    schedule = batch_schedule.make_plan(
        examples, epochs=1, batch_size=settings.batch_size, accumulation=settings.accumulation, shuffle=False, seed=0,
        **loop.row_shape(settings, policy.architecture, policy.placement, policy.compute, examples),
    )
    which = f"the {len(longest)} longest of" if len(longest) < len(documents) else "all"
    return Shapes(
        prompt=refiner.planner.row_lengths([prompt])[-1], prefix=layout.prefixes[-1], branch=layout.branches[-1],
        questions=len(questions_by_document[0].groups(layout.together)[0].branches[0].ends), row=schedule.row_length,
        rows=schedule.rows, accumulation=schedule.accumulation, targets=schedule.targets,
        source=f"measured on {which} {len(documents)} documents, with generated texts at their maximal length",
        policy_prompt=max(len(policy.encode_whole(e.id, task.policy_prompt(e)).ids) for e in longest),
        groups=len(questions_by_document[0].groups(layout.together)),
        typical=_typical(task.refine_prompt(longest[0], *texts[longest[0].id]), documents),
        beside=schedule.beside,
    )


def _typical(longest: Prompt, documents: Sequence[Example]) -> float:
    """Mean bytes of prompts like that about the longest document, as a part of its own."""
    around = text_size(longest.before, longest.after)
    sizes = [around + text_size(e.document) for e in documents]
    return sum(sizes) / len(sizes) / max(sizes)


def _texts(config: config_lib.Config, task: Task, lm: LanguageModel, example: Example) -> tuple[str, str]:
    """Draft and feedback; placeholders where none is recorded."""
    draft = example.draft or _placeholder(lm, example, config.draft.max_new_tokens)
    if config.feedback.source == "oracle":
        return draft, max(task.oracle_feedback(example, draft), _placeholder(lm, example, _ORACLE_TOKENS), key=len)
    length = config.feedback.max_new_tokens if config.feedback.source == "critic" else _FEEDBACK_TOKENS
    return draft, example.feedback or _placeholder(lm, example, length)


def _completion(config: config_lib.Config, policy: LanguageModel, example: Example) -> str:
    return getattr(example, config.finetune.target, "") or _placeholder(policy, example, config.refine.max_new_tokens)


def _placeholder(lm: LanguageModel, example: Example, tokens: int, skipped: int = 0) -> str:
    """A text of about `tokens` tokens: the document's words, repeated as needed, without the first `skipped` ones."""
    words = (example.document.split() or ["a"]) * (tokens + skipped + 1)
    ids = lm.tokenizer.encode(" ".join(words[skipped : skipped + tokens + 1]))
    return lm.tokenizer.decode(ids[:max(1, tokens)])
