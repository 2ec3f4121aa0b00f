"""How large the arrays of a run's steps are: its worst batches, from its documents where they are at hand."""

import dataclasses
from collections.abc import Sequence

from ilf_jax import config as config_lib
from ilf_jax.inference import answer_scoring
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import padding
from ilf_jax.models.placement import Placement
from ilf_jax.records import Example
from ilf_jax.stages import finetune
from ilf_jax.stages.context import Roles
from ilf_jax.tasks.task import Task
from ilf_jax.training import batch_schedule, loop

# So many of the longest documents are looked at.
_DOCUMENTS = 512
# Feedback of unknown length, and what stands behind a refinement in a judge's prompt.
_FEEDBACK_TOKENS, _QUESTION_TOKENS = 64, 64
# A program may have little to say of a stand-in.
_ORACLE_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Shapes:
    """All lengths are those of padded rows, in tokens.

    Attributes:
        prompt: of the refiner.
        prefix, branch, questions: of the judge: what candidates share, what each adds, how many questions that asks;
            arranged as is best for what is looked at here, which another arrangement may be for what models will write.
        row, rows, accumulation, targets: of a training step: tokens a row, rows a micro-batch, micro-batches,
            predicted tokens a row.
        told: where all this was taken from.
    """

    prompt: int
    prefix: int
    branch: int
    questions: int
    row: int
    rows: int
    accumulation: int
    targets: int
    told: str


def assumed(config: config_lib.Config, placement: Placement) -> Shapes:
    """By config.finetune.max_length, where there are no documents or no tokenizer to look at."""
    settings, model = config.finetune, placement.model
    row = padding.bucket(min(settings.max_length, model.max_positions))
    new_tokens = config.refine.max_new_tokens
    prompt = min(config.refiner.max_prompt_length or row, model.max_positions - new_tokens)
    micro = -(-settings.batch_size // settings.accumulation)
    targets = row if settings.prompt_loss_weight > 0 else padding.bucket(new_tokens + 1)
    return Shapes(
        prompt=prompt, prefix=prompt, branch=new_tokens + _QUESTION_TOKENS,
        questions=5 if config.score.prompts == "tree" else 1, row=row, rows=placement.padded(micro),
        accumulation=settings.accumulation, targets=targets,
        told=f"assumed: prompts of {prompt} tokens, training rows of {row} (config.finetune.max_length)",
    )


def measured(config: config_lib.Config, task: Task, roles: Roles, documents: Sequence[Example]) -> Shapes:
    """By the documents, with stand-ins as long as allowed for what models are still to write.

    Raises:
        InputError: a prompt is too long, as the run would.
    """
    chosen = sorted(documents, key=lambda e: -len(e.document))[:_DOCUMENTS]
    refiner, judging, policy = (roles.without_params(name) for name in ("refiner", "judge", "policy"))
    texts = {e.id: _texts(config, task, refiner, e) for e in chosen}
    new_tokens = config.refine.max_new_tokens
    prompt = max(len(refiner.encode(e.id, [task.refine_prompt(e, *texts[e.id])], new_tokens)[0].ids) for e in chosen)
    asked = []
    for e in chosen:
        # They differ from the first word on, so nothing of one is shared with another.
        unlike = _stand_in(refiner, e, new_tokens), _stand_in(refiner, e, new_tokens, skipped=1)
        candidates = [unlike[0], *[unlike[1]] * (config.refine.num_candidates - 1)]
        questions = [task.judge_questions(e, *texts[e.id], text, config.score.prompts) for text in candidates]
        asked.append(answer_scoring.ask(judging, e.id, questions))
    arrangement = answer_scoring.arrange(judging, asked)
    settings = config.finetune
    examples = [finetune.training_example(settings, task, policy, e, _completion(config, policy, e)) for e in chosen]
    planned = batch_schedule.make_plan(
        examples, epochs=1, batch_size=settings.batch_size, accumulation=settings.accumulation, shuffle=False, seed=0,
        **loop.row_shape(settings, policy.architecture, policy.placement, policy.compute, examples),
    )
    longest = f"the {len(chosen)} longest of" if len(chosen) < len(documents) else "all"
    return Shapes(
        prompt=refiner.row_lengths([prompt])[-1], prefix=arrangement.prefixes[-1], branch=arrangement.branches[-1],
        questions=len(asked[0].groups(arrangement.together)[0].branches[0].ends), row=planned.row_length,
        rows=planned.rows, accumulation=planned.accumulation, targets=planned.targets,
        told=f"measured on {longest} {len(documents)} documents, texts still to be written as long as allowed",
    )


def _texts(config: config_lib.Config, task: Task, lm: LanguageModel, example: Example) -> tuple[str, str]:
    """Draft and feedback, stand-ins where they are not recorded."""
    draft = example.draft or _stand_in(lm, example, config.draft.max_new_tokens)
    if config.feedback.source == "oracle":
        return draft, max(task.oracle_feedback(example, draft), _stand_in(lm, example, _ORACLE_TOKENS), key=len)
    length = config.feedback.max_new_tokens if config.feedback.source == "critic" else _FEEDBACK_TOKENS
    return draft, example.feedback or _stand_in(lm, example, length)


def _completion(config: config_lib.Config, policy: LanguageModel, example: Example) -> str:
    return getattr(example, config.finetune.target, "") or _stand_in(policy, example, config.refine.max_new_tokens)


def _stand_in(lm: LanguageModel, example: Example, tokens: int, skipped: int = 0) -> str:
    """A text of about so many tokens: the document's own words, as often as it takes, some skipped at the beginning."""
    words = (example.document.split() or ["a"]) * (tokens + skipped + 1)
    ids = lm.tokenizer.encode(" ".join(words[skipped : skipped + tokens + 1]))
    return lm.tokenizer.decode(ids[:max(1, tokens)])
