"""Refine: N candidates x1 ~ pi_psi(. | c, x0, f), drawn again once where they are equal or unusable."""

from collections.abc import Callable, Sequence

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.evaluation import diversity, statistics
from ilf_jax.inference.generation import Generator, Sample
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.records import Candidates, Draft, Example, Feedback
from ilf_jax.runtime import performance
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages import context as run_lib

# The check that sampler and trainer agree looks at this many documents.
_CHECKED_DOCUMENTS = 2


def run(run: run_lib.Run) -> None:
    """Writes the Candidates of each example of the iteration."""
    folder, settings, meter = run.folder("refine"), run.config.refine, performance.Meter()
    gap: float | None = folder.manifest().get("logprob_gap")
    if gap is None:
        folder.begin()
    drafts, feedback = run.folder("draft").read(Draft), run.folder("feedback").read(Feedback)
    refiner = run.roles.get("refiner")
    prompts = {
        e.id: refiner.encode(
            e.id, [run.task.refine_prompt(e, drafts[e.id].text, feedback[e.id].text)], settings.max_new_tokens
        )[0]
        for e in run.examples
    }
    generator = Generator(refiner, make_sampling(settings.temperature, settings.top_k, settings.top_p),
                          settings.max_new_tokens, settings.batch_size, run.task.stop,
                          refiner.row_lengths(len(p.ids) for p in prompts.values()))

    def draw(batch: Sequence[Example], candidates: Sequence[int]) -> Callable[[], list[list[Sample]]]:
        keys = decode.candidate_keys(run.config.seed, run.iteration, "refine", [e.id for e in batch], candidates)
        return generator.start([prompts[e.id] for e in batch], keys)

    N = settings.num_candidates
    may_redraw = settings.redraw and settings.temperature > 0 and N > 1

    def start(batch: list[Example]) -> Callable[[], list[Candidates]]:
        samples = draw(batch, range(N))

        def finish() -> list[Candidates]:
            nonlocal gap
            drawn = dict(zip((e.id for e in batch), samples(), strict=True))
            # Before anything is written, on the longest documents. The device is already at work on the next ones.
            if gap is None:
                gap = _logprob_gap(run, refiner, [(prompts[e.id], drawn[e.id]) for e in batch[:_CHECKED_DOCUMENTS]])
                folder.begin(logprob_gap=gap)
            again = [e for e in batch if may_redraw and _degenerate(run, e, drawn[e.id])]
            more = dict(zip((e.id for e in again), draw(again, range(N, 2 * N))(), strict=True)) if again else {}
            return [_candidates(run, e, drawn[e.id], more.get(e.id, []), N) for e in batch]

        return finish

    done = run_lib.process_shards(
        run, "refine", run.examples, [len(prompts[e.id].ids) for e in run.examples],
        settings.batch_size * settings.batches_per_shard, Candidates, start,
        lambda c: generator.work(prompts[c.id], c.num_tokens),
    )
    if gap is None:  # all shards were there, and what was noted before the first of them was not
        raise InputError(f"{folder.path}/manifest.json: says no logprob_gap although all shards are there; restore it, "
                         "or delete the stage's folder to do it again")
    metrics = run.summarise("refine", _numbers(run, done.records, drafts, feedback))
    metrics.append(run.metric("refine", "logprob_gap", gap))
    cost = meter.cost(done.work, run.config.precision)
    folder.finish(shards=done.shards, count=len(done.records), cost=cost, metrics=metrics, logprob_gap=gap)


def _logprob_gap(run: run_lib.Run, refiner: LanguageModel, drawn: Sequence[tuple[Encoded, Sequence[Sample]]]) -> float:
    """Largest difference, in nats, between a sampled token's log-probability then and in the training forward pass.

    Raises:
        InputError: it is above config.refine.max_logprob_gap, so training would learn from another distribution than
            the one that was sampled.
    """
    settings = run.config.refine
    checked = [(prompt, sample) for prompt, samples in drawn for sample in samples[:2]]
    # As many rows whatever there is to check, so that one program does it.
    again = refiner.logprobs([(prompt.ids, sample.tokens.tolist()) for prompt, sample in checked],
                             2 * _CHECKED_DOCUMENTS)
    gap = max(float(np.max(np.abs(logprobs - sample.logprobs)))
              for logprobs, (_, sample) in zip(again, checked, strict=True))
    if not gap <= settings.max_logprob_gap:
        raise InputError(f"sampler and trainer disagree by {gap:.3g} nats on a token; allowed is "
                         f"config.refine.max_logprob_gap={settings.max_logprob_gap} (bfloat16 needs more than float32)")
    return gap


def _texts(run: run_lib.Run, samples: Sequence[Sample]) -> list[str]:
    return [run.task.postprocess(sample.text) for sample in samples]


def _degenerate(run: run_lib.Run, example: Example, samples: Sequence[Sample]) -> bool:
    texts = _texts(run, samples)
    return len(set(texts)) < len(texts) or not all(run.task.is_usable(example, text) for text in texts)


def _candidates(
    run: run_lib.Run, example: Example, first: Sequence[Sample], more: Sequence[Sample], count: int
) -> Candidates:
    """Picks `count` of what was drawn: unique usable ones first, then usable duplicates, then anything."""
    samples = [*first, *more]
    texts = _texts(run, samples)
    seen: set[str] = set()
    ranks = []
    for text in texts:
        usable = run.task.is_usable(example, text)
        ranks.append(0 if usable and text not in seen else 1 if usable else 2)
        seen.add(text)
    picked = sorted(range(len(samples)), key=lambda i: (ranks[i], i))[:count]
    return Candidates(
        id=example.id, texts=[texts[i] for i in picked],
        logprobs=[float(samples[i].logprobs.sum()) for i in picked],
        num_tokens=[len(samples[i].tokens) for i in picked],
        stopped=[samples[i].stopped for i in picked], redrawn=bool(more),
    )


def _numbers(
    run: run_lib.Run, found: dict[str, Candidates], drafts: dict[str, Draft], feedback: dict[str, Feedback]
) -> list[statistics.Metric]:
    rows = [found[e.id] for e in run.examples]
    stopped = [float(np.mean(row.stopped)) for row in rows]
    numbers = [
        statistics.mean("stop_rate", stopped),
        statistics.mean("truncation_rate", [1 - s for s in stopped]),
        statistics.mean("redrawn_rate", [row.redrawn for row in rows]),
        *diversity.diversity([row.texts for row in rows]),
    ]
    if run.task.has_oracle:
        matches = []
        for example, row in zip(run.examples, rows, strict=True):
            right = run.task.oracle_refinement(example, drafts[example.id].text, feedback[example.id].text)
            matches.append(float(np.mean([text == right for text in row.texts])))
        numbers.append(statistics.mean("exact_match", matches))
    return numbers
