"""Refine: N candidates x1 ~ pi_psi(. | c, x0, f), drawn once more where they are equal or unusable."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.evaluation import diversity, statistics
from ilf_jax.inference import sampler_agreement
from ilf_jax.inference.generation import Generator, Sample, prompt_lengths
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.inference.sampler_agreement import Agreement
from ilf_jax.inference.written_texts import LEFT_OUT, WrittenTexts
from ilf_jax.models import padding
from ilf_jax.records import Candidates, Draft, Example, Feedback
from ilf_jax.remote.remote_model import RemoteModel
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages.context import Outcome, Records, StageContext, process_shards, run_stage
from ilf_jax.tasks.task import Task

# Documents, and samples of each, on which the sampler's log-probabilities are compared with the trainer's.
_CHECKED_DOCUMENTS, _CHECKED_SAMPLES = 2, 2
# What the manifest notes of the comparison.
_AGREEMENT = "sampler_agreement"


def refine(context: StageContext, drafts: Records[Draft], feedback: Records[Feedback]) -> Records[Candidates]:
    """The Candidates of each document of the iteration."""
    return run_stage(context, "refine", Candidates, functools.partial(_refine, context, drafts, feedback))


def _refine(context: StageContext, drafts: Records[Draft], feedback: Records[Feedback], folder: StageFolder) -> Outcome:
    settings, examples, task = context.config.refine, context.examples, context.task
    remote = context.roles.remote("refiner") if settings.source == "refiner" else None
    if remote is not None:
        return _refine_remotely(context, remote, drafts, feedback, folder)
    noted = folder.manifest().get(_AGREEMENT)
    agreement = None if noted is None else Agreement(**noted)
    draft_texts = {i: row.text for i, row in drafts.by_id().items()}
    given, of_policy = feedback.by_id(), settings.source == "policy"
    # The policy's fresh drafts are about no draft and no feedback.
    feedback_texts = {e.id: "" if of_policy else given[e.id].text for e in examples}
    refiner = context.roles.get(settings.source)
    written = WrittenTexts("refine", context.config.data.too_long)

    def encode(e: Example) -> Encoded | None:
        room = refiner.room(settings.max_new_tokens)
        if of_policy:
            return refiner.encode(e.id, [task.policy_prompt(e)], room)[0]
        if given[e.id].source == LEFT_OUT:
            return None
        return written.fit(e.id, (draft_texts[e.id], feedback_texts[e.id]), lambda *texts: refiner.encode(
            e.id, [task.refine_prompt(e, *texts)], room)[0])

    prompts = LookAhead(
        examples, key=lambda e: e.id, tokens=lambda prompt: len(prompt.ids) if prompt else 0, encode=encode,
        size=lambda e: text_size(e.document, e.title, draft_texts.get(e.id, ""), feedback_texts[e.id]))
    refills = settings.batches_per_shard > 1
    # Beside the programs that sample there is the one that scores samples again.
    lengths = prompt_lengths(refiner, prompts, f"refine {context.iteration}", refills=refills, others=1)
    batch_size = padding.batch_size(settings.batch_size, len(examples), refills=refills)
    generator = _generator(context.config, task, refiner, batch_size, lengths, refills)

    def draw(batch: Sequence[Example], candidates: Sequence[int]) -> Pending[list[list[_Answer]]]:
        return sample(batch, candidates).map(lambda samples: [
            _read(task, e, feedback_texts[e.id], of_one) for e, of_one in zip(batch, samples, strict=True)])

    def sample(batch: Sequence[Example], candidates: Sequence[int]) -> Pending[list[list[Sample]]]:
        if not batch:
            return Pending.ready([])
        keys = _keys(context.config, context.iteration, batch, candidates)
        return generator.start([prompt for e in batch if (prompt := prompts.encoded(e)) is not None], keys)

    N = settings.num_candidates

    def start(batch: list[Example]) -> Pending[list[Candidates]]:
        prompted = [e for e in batch if prompts.encoded(e) is not None]

        def make_candidates(samples: list[list[Sample]]) -> list[Candidates]:
            nonlocal agreement
            # Before anything is written, on the longest documents. The device is already at work on the next shard.
            if agreement is None and prompted:
                checked = [(prompt, of_one) for e, of_one in zip(prompted, samples, strict=True)
                           if (prompt := prompts.encoded(e)) is not None][:_CHECKED_DOCUMENTS]
                agreement = sampler_agreement.measure(
                    refiner, checked, _CHECKED_SAMPLES,
                    _CHECKED_DOCUMENTS * _CHECKED_SAMPLES, settings.max_logprob_gap_mean)
                folder.begin(**{_AGREEMENT: dataclasses.asdict(agreement)})
            first = [_read(task, e, feedback_texts[e.id], of_one) for e, of_one in zip(prompted, samples, strict=True)]
            return _redrawn(context, batch, prompted, first, draw)

        return sample(prompted, range(N)).map(make_candidates)

    done = process_shards(
        context, folder, examples, prompts.lengths, cls=Candidates, start=start,
        shard_size=batch_size * settings.batches_per_shard,
        work=lambda c: generator.work(prompts.num_tokens(c.id), c.num_tokens))
    too_long = written.metrics(examples, lambda e: e.id, prompts.encoded)
    if agreement is None and all(not any(row.num_tokens) for row in done.records.values()):
        raise InputError(f"iteration {context.iteration}: no draft and feedback leave room in the refiner's prompt")
    if agreement is None:  # all shards exist, but what was noted before the first of them does not
        raise InputError(f"{folder.path}/manifest.json: has no {_AGREEMENT} although all shards exist; restore it, or "
                         "delete the stage's folder to run the stage again")
    metrics = [
        *_metrics(context, done.records, draft_texts, feedback_texts),
        statistics.plain("logprob_gap", agreement.largest), statistics.plain("logprob_gap_mean", agreement.mean),
        statistics.plain("logprob_gap_beyond", agreement.share), *too_long]
    return Outcome(done.shards, len(done.records), metrics, done.work, {_AGREEMENT: dataclasses.asdict(agreement)})


_Draw = Callable[[Sequence[Example], Sequence[int]], Pending[list[list["_Answer"]]]]


def _redrawn(
    context: StageContext, batch: Sequence[Example], prompted: Sequence[Example], first: Sequence[list["_Answer"]],
    draw: _Draw,
) -> list[Candidates]:
    """The candidates of a shard: where some of a document are equal or unusable, it gets as many once more.

    Args:
        batch: the shard's documents.
        prompted: those that were asked about.
        first: N answers for each of them.
        draw: gives those of further numbers.
    """
    settings, N = context.config.refine, context.config.refine.num_candidates
    may_redraw = settings.redraw and settings.temperature > 0 and N > 1
    read = dict(zip((e.id for e in prompted), first, strict=True))
    again = [e for e in prompted if may_redraw and _degenerate(context, e, read[e.id])]
    for e, more in zip(again, draw(again, range(N, 2 * N)).result(), strict=True):
        read[e.id] = read[e.id] + more
    return [_candidates(context, e, read[e.id], N) if e.id in read else _no_candidates(e, N) for e in batch]


def _refine_remotely(
    context: StageContext, refiner: RemoteModel, drafts: Records[Draft], feedback: Records[Feedback],
    folder: StageFolder,
) -> Outcome:
    """By a refiner that is not in memory: nothing is known of its log-probabilities."""
    settings, examples, task = context.config.refine, context.examples, context.task
    draft_texts = {i: row.text for i, row in drafts.by_id().items()}
    given = feedback.by_id()
    feedback_texts = {e.id: given[e.id].text for e in examples}
    N = settings.num_candidates

    def draw(batch: Sequence[Example], candidates: Sequence[int]) -> Pending[list[list[_Answer]]]:
        seeds = [int(key) for keys_C in _keys(context.config, context.iteration, batch, candidates)[..., -1]
                 for key in keys_C] if batch else []
        texts = [task.refine_prompt(e, draft_texts[e.id], feedback_texts[e.id]).text for e in batch for _ in candidates]
        written = refiner.write(texts, seeds, temperature=settings.temperature, top_p=settings.top_p,
                                max_new_tokens=settings.max_new_tokens, stop=task.stop)
        return written.map(lambda replies: [
            [_answer(task, e, feedback_texts[e.id], reply.text, reply.stopped, reply.tokens)
             for reply in replies[i * len(candidates) : (i + 1) * len(candidates)]] for i, e in enumerate(batch)])

    def start(batch: list[Example]) -> Pending[list[Candidates]]:
        prompted = [e for e in batch if given[e.id].source != LEFT_OUT]
        return draw(prompted, range(N)).map(lambda first: _redrawn(context, batch, prompted, first, draw))

    done = process_shards(
        context, folder, examples, [text_size(e.document, e.title, draft_texts[e.id]) for e in examples],
        cls=Candidates, start=start, shard_size=settings.batch_size * settings.batches_per_shard,
        work=lambda c: performance.Work())
    return Outcome(done.shards, len(done.records), _metrics(context, done.records, draft_texts, feedback_texts))


def _generator(
    config: Config, task: Task, refiner: LanguageModel, batch_size: int, row_lengths: Sequence[int],
    refills: bool = False,
) -> Generator:
    settings = config.refine
    sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
    return Generator(refiner, sampling, settings.max_new_tokens, batch_size, task.stop, row_lengths, refills)


def _keys(config: Config, iteration: int, batch: Sequence[Example], candidates: Sequence[int]) -> np.ndarray:
    return decode.candidate_keys(config.seed, iteration, "refine", [e.id for e in batch], candidates)


def encode_prompt(
    config: Config, task: Task, refiner: LanguageModel, example: Example, draft: str, feedback: str
) -> Encoded:
    """The prompt that the stage gives the refiner. Raises TooLongError: it does not fit."""
    room = refiner.room(config.refine.max_new_tokens)
    return refiner.encode(example.id, [task.refine_prompt(example, draft, feedback)], room)[0]


def first_draws(
    config: Config, task: Task, refiner: LanguageModel, iteration: int, example: Example, prompt: Encoded, feedback: str
) -> Iterator[str]:
    """The N texts that the stage draws first for one document, with its keys, each as soon as it has ended.

    Args:
        config: of the run.
        task: its own.
        refiner: of the iteration.
        iteration: its number.
        example: the document.
        prompt: see `encode_prompt`.
        feedback: what it says, for an echo of it counts as empty.
    """
    length = refiner.planner.bucket(min(padding.power_of_two(len(prompt.ids)), refiner.architecture.max_positions))
    generator = _generator(config, task, refiner, 1, [length])
    (keys_Cx2,) = _keys(config, iteration, [example], range(config.refine.num_candidates))
    for sample in generator.stream(prompt, keys_Cx2):
        (answer,) = _read(task, example, feedback, [sample])
        yield answer.text


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The refinement in what a model wrote; an echo of the prompt counts as empty. `logprob` is None if unknown."""

    text: str
    preamble: bool
    echo: bool
    stopped: bool
    num_tokens: int
    logprob: float | None


def _read(task: Task, example: Example, feedback: str, samples: Sequence[Sample]) -> list[_Answer]:
    return [_answer(task, example, feedback, s.text, s.stopped, len(s.tokens), float(s.logprobs.sum()))
            for s in samples]


def _answer(
    task: Task, example: Example, feedback: str, written: str, stopped: bool, num_tokens: int,
    logprob: float | None = None,
) -> _Answer:
    text = task.read_output(written)
    echo = task.is_echo(text, example, feedback)
    return _Answer("" if echo else text, task.has_preamble(written), echo, stopped, num_tokens, logprob)


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
        id=example.id, texts=[a.text for a in picked],
        logprobs=[a.logprob for a in picked if a.logprob is not None],
        num_tokens=[a.num_tokens for a in picked], stopped=[a.stopped for a in picked],
        redrawn=len(answers) > count, preambles=sum(a.preamble for a in answers), echoes=sum(a.echo for a in answers),
    )


def _no_candidates(example: Example, count: int) -> Candidates:
    """Of a document whose draft and feedback are too long: empty texts, of which nothing is learned."""
    return Candidates(example.id, texts=[""] * count, logprobs=[0.0] * count, num_tokens=[0] * count,
                      stopped=[True] * count)


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
    if context.task.has_oracle and context.config.refine.source == "refiner":
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
