"""Refine: N candidates x1 ~ pi_psi(. | c, x0, f), drawn once more where they are equal or unusable."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.evaluation import diversity, statistics
from ilf_jax.inference.generation import Generator, Sample
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.records import Candidates, Draft, Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.workdir import StageFolder
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages.context import Outcome, Records, StageContext, encode_prompts, process_shards, run_stage
from ilf_jax.tasks.task import Task

# Documents on which the sampler's log-probabilities are compared with the trainer's.
_CHECKED_DOCUMENTS = 2


def refine(context: StageContext, drafts: Records[Draft], feedback: Records[Feedback]) -> Records[Candidates]:
    """The Candidates of each document of the iteration."""
    return run_stage(context, "refine", Candidates, functools.partial(_refine, context, drafts, feedback))


def _refine(context: StageContext, drafts: Records[Draft], feedback: Records[Feedback], folder: StageFolder) -> Outcome:
    settings, examples, task = context.config.refine, context.examples, context.task
    gap: float | None = folder.manifest().get("logprob_gap")
    draft_texts = {i: row.text for i, row in drafts.by_id().items()}
    feedback_texts = {i: row.text for i, row in feedback.by_id().items()}
    refiner = context.roles.get("refiner")
    prompts = encode_prompts(refiner, examples,
                             lambda e: task.refine_prompt(e, draft_texts[e.id], feedback_texts[e.id]),
                             settings.max_new_tokens)
    lengths = [len(prompts[e.id].ids) for e in examples]
    generator = _generator(context.config, task, refiner, settings.batch_size, refiner.row_lengths(lengths))

    def draw(batch: Sequence[Example], candidates: Sequence[int]) -> Pending[list[list[Sample]]]:
        return generator.start([prompts[e.id] for e in batch], _keys(context.config, context.iteration, batch,
                                                                     candidates))

    N, by_id = settings.num_candidates, {e.id: e for e in examples}
    may_redraw = settings.redraw and settings.temperature > 0 and N > 1

    def start(batch: list[Example]) -> Pending[list[Candidates]]:
        def make_candidates(samples: list[list[Sample]]) -> list[Candidates]:
            nonlocal gap
            drawn = dict(zip((e.id for e in batch), samples, strict=True))
            # Before anything is written, on the longest documents. The device is already at work on the next shard.
            if gap is None:
                checked = [(prompts[e.id], drawn[e.id]) for e in batch[:_CHECKED_DOCUMENTS]]
                gap = _logprob_gap(context, refiner, checked)
                folder.begin(logprob_gap=gap)
            read = {i: _read(task, by_id[i], feedback_texts[i], samples) for i, samples in drawn.items()}
            again = [e for e in batch if may_redraw and _degenerate(context, e, read[e.id])]
            if again:
                for e, more in zip(again, draw(again, range(N, 2 * N)).result(), strict=True):
                    read[e.id] += _read(task, e, feedback_texts[e.id], more)
            return [_candidates(context, e, read[e.id], N) for e in batch]

        return draw(batch, range(N)).map(make_candidates)

    done = process_shards(
        context, folder, examples, lengths, shard_size=settings.batch_size * settings.batches_per_shard, cls=Candidates,
        start=start, work=lambda c: generator.work(prompts[c.id], c.num_tokens))
    if gap is None:  # all shards exist, but what was noted before the first of them does not
        raise InputError(f"{folder.path}/manifest.json: has no logprob_gap although all shards exist; restore it, or "
                         "delete the stage's folder to run the stage again")
    metrics = [*_metrics(context, done.records, draft_texts, feedback_texts), statistics.plain("logprob_gap", gap)]
    return Outcome(done.shards, len(done.records), metrics, done.work, {"logprob_gap": gap})


def _generator(
    config: Config, task: Task, refiner: LanguageModel, batch_size: int, row_lengths: Sequence[int] = ()
) -> Generator:
    settings = config.refine
    sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
    return Generator(refiner, sampling, settings.max_new_tokens, batch_size, task.stop, row_lengths)


def _keys(config: Config, iteration: int, batch: Sequence[Example], candidates: Sequence[int]) -> np.ndarray:
    return decode.candidate_keys(config.seed, iteration, "refine", [e.id for e in batch], candidates)


def first_draws(
    config: Config, task: Task, refiner: LanguageModel, iteration: int, example: Example, draft: str, feedback: str
) -> Iterator[str]:
    """The N texts that the stage draws first for one document, with its keys, as they come: one, then the others.

    Raises:
        TooLongError: the prompt does not fit.
    """
    settings = config.refine
    prompt = encode_prompts(refiner, [example], lambda e: task.refine_prompt(e, draft, feedback),
                            settings.max_new_tokens)[example.id]
    # Powers of two, so that hardly any prompt takes programs of its own.
    length = min(1 << max(5, (len(prompt.ids) - 1).bit_length()), refiner.architecture.max_positions)
    generator = _generator(config, task, refiner, 1, [length])
    for numbers in (range(1), range(1, settings.num_candidates)):
        if numbers:
            (samples,) = generator.start([prompt], _keys(config, iteration, [example], numbers)).result()
            yield from (answer.text for answer in _read(task, example, feedback, samples))


def _logprob_gap(
    context: StageContext, refiner: LanguageModel, drawn: Sequence[tuple[Encoded, Sequence[Sample]]]
) -> float:
    """Largest difference, in nats, between a sampled token's log-probability then and in the training forward pass.

    Raises:
        InputError: it is above config.refine.max_logprob_gap, so training would learn from another distribution than
            the one that was sampled.
    """
    settings = context.config.refine
    checked = [(prompt, sample) for prompt, samples in drawn for sample in samples[:2]]
    # Always the same number of rows, so that one program is enough.
    again = refiner.logprobs([([*prompt.ids, *sample.thought], sample.tokens.tolist()) for prompt, sample in checked],
                             2 * _CHECKED_DOCUMENTS)
    gap = max(float(np.max(np.abs(logprobs - sample.logprobs)))
              for logprobs, (_, sample) in zip(again, checked, strict=True))
    if not gap <= settings.max_logprob_gap:
        raise InputError(f"sampler and trainer disagree by {gap:.3g} nats on a token; allowed is "
                         f"config.refine.max_logprob_gap={settings.max_logprob_gap} (bfloat16 needs more than float32)")
    return gap


@dataclasses.dataclass(frozen=True)
class _Answer:
    """A sample, and the refinement in it; an echo of the prompt counts as empty."""

    sample: Sample
    text: str
    preamble: bool
    echo: bool


def _read(task: Task, example: Example, feedback: str, samples: Sequence[Sample]) -> list[_Answer]:
    answers = []
    for sample in samples:
        text = task.read_output(sample.text)
        echo = task.is_echo(text, example, feedback)
        answers.append(_Answer(sample, "" if echo else text, task.has_preamble(sample.text), echo))
    return answers


def _degenerate(context: StageContext, example: Example, answers: Sequence[_Answer]) -> bool:
    texts = [answer.text for answer in answers]
    return len(set(texts)) < len(texts) or not all(context.task.is_usable(example, text) for text in texts)


def _candidates(context: StageContext, example: Example, answers: Sequence[_Answer], count: int) -> Candidates:
    """Picks `count` of what was drawn: unique usable ones first, then usable duplicates, then anything."""
    seen: set[str] = set()
    ranks = []
    for answer in answers:
        usable = context.task.is_usable(example, answer.text)
        ranks.append(0 if usable and answer.text not in seen else 1 if usable else 2)
        seen.add(answer.text)
    picked = [answers[i] for i in sorted(range(len(answers)), key=lambda i: (ranks[i], i))[:count]]
    return Candidates(
        id=example.id, texts=[a.text for a in picked], logprobs=[float(a.sample.logprobs.sum()) for a in picked],
        num_tokens=[len(a.sample.tokens) for a in picked], stopped=[a.sample.stopped for a in picked],
        redrawn=len(answers) > count, preambles=sum(a.preamble for a in answers), echoes=sum(a.echo for a in answers),
    )


def _metrics(
    context: StageContext, candidates: Mapping[str, Candidates], drafts: Mapping[str, str], feedback: Mapping[str, str]
) -> list[statistics.Metric]:
    rows = [candidates[e.id] for e in context.examples]
    stopped = [float(np.mean(row.stopped)) for row in rows]
    metrics = [
        statistics.mean("stop_rate", stopped),
        statistics.mean("truncation_rate", [1 - s for s in stopped]),
        statistics.mean("redrawn_rate", [row.redrawn for row in rows]),
        *_problems(context, rows),
        *diversity.diversity([row.texts for row in rows]),
    ]
    if context.task.has_oracle:
        matches = []
        for example, row in zip(context.examples, rows, strict=True):
            right = context.task.oracle_refinement(example, drafts[example.id], feedback[example.id])
            matches.append(float(np.mean([text == right for text in row.texts])))
        metrics.append(statistics.mean("exact_match", matches))
    return metrics


def _problems(context: StageContext, rows: Sequence[Candidates]) -> list[statistics.Metric]:
    """Shares of all that was drawn, where outputs are prose."""
    if not context.task.free_text:
        return []
    drawn = [len(row.texts) * (1 + row.redrawn) for row in rows]
    return [
        statistics.mean("preamble_rate", [row.preambles / n for row, n in zip(rows, drawn, strict=True)]),
        statistics.mean("echo_rate", [row.echoes / n for row, n in zip(rows, drawn, strict=True)]),
    ]
