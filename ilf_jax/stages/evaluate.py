"""Evaluate: what the policy writes for held-out examples, and numbers about it. Iteration 0 is before training."""

from collections.abc import Callable, Sequence

import numpy as np

from ilf_jax import performance
from ilf_jax.evaluation import diversity, kl, likelihood, rouge, statistics, win_rate
from ilf_jax.records import Example, Output
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages import batching, judge
from ilf_jax.stages import run as run_lib
from ilf_jax.stages.generation import Generator
from ilf_jax.stages.role import Role

_LIKELIHOOD_BATCH = 8


def run(run: run_lib.Run) -> None:
    """Writes an Output for each held-out example, and the metrics."""
    folder, settings, meter = run.folder("evaluate"), run.config.evaluate, performance.Meter()
    folder.begin()
    policy = run.roles.get("policy")
    sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
    prompts = {e.id: policy.encode(e.id, [run.task.policy_prompt(e)], settings.max_new_tokens)[0]
               for e in run.held_out}
    generator = Generator(policy, sampling, settings.max_new_tokens, settings.batch_size, run.task.stop,
                          policy.row_lengths(len(p.ids) for p in prompts.values()))

    def start(batch: list[Example]) -> Callable[[], list[Output]]:
        # The same keys in every iteration: runs differ by their policy, not by luck.
        keys = decode.candidate_keys(run.config.seed, 0, "evaluate", [e.id for e in batch], [0])
        samples = generator.start([prompts[e.id] for e in batch], keys)
        return lambda: [
            Output(e.id, run.task.postprocess(s.text), len(s.tokens), s.stopped, float(s.logprobs.sum()))
            for e, (s,) in zip(batch, samples(), strict=True)
        ]

    done = run_lib.process_shards(
        run, "evaluate", run.held_out, [len(prompts[e.id].ids) for e in run.held_out],
        settings.batch_size * settings.batches_per_shard, Output, start,
        lambda o: generator.work(prompts[o.id], [o.num_tokens]),
    )
    outputs = done.records
    texts = {i: o.text for i, o in outputs.items()}
    numbers = [
        *run.measure(texts, run.held_out),
        statistics.proportion("stop_rate", [o.stopped for o in outputs.values()]),
        statistics.mean("mean_words", [len(text.split()) for text in texts.values()]),
        statistics.mean("mean_tokens", [o.num_tokens for o in outputs.values()]),
        *_text_numbers(run, texts),
    ]
    if settings.nll:
        numbers += _likelihoods(run, policy)
    if settings.kl and run.iteration > 0:
        base = run.roles.get("base")
        numbers += _divergence(run, "kl_base_policy", base, policy) + _divergence(run, "kl_policy_base", policy, base)
    if settings.win_rate and run.iteration > 0:
        before = {i: o.text for i, o in run.folder("evaluate", 0).read(Output).items()}
        numbers += _win_rates(run, texts, before)
    cost = meter.cost(done.work, run.config.precision)
    folder.finish(
        shards=done.shards, count=len(outputs), cost=cost, metrics=run.summarise("evaluate", numbers)
    )


def _text_numbers(run: run_lib.Run, texts: dict[str, str]) -> list[statistics.Metric]:
    """ROUGE against references, and how much the outputs repeat each other."""
    numbers = []
    with_reference = [e for e in run.held_out if e.reference.strip()]
    if run.config.evaluate.rouge and with_reference:
        numbers += rouge.rouge([texts[e.id] for e in with_reference], [e.reference for e in with_reference])
    if len(texts) > 1:
        _, equal, _ = diversity.diversity([list(texts.values())])
        numbers.append(statistics.Metric("equal_outputs", equal.value, float("nan"), len(texts)))
    return numbers


def _likelihoods(run: run_lib.Run, policy: Role) -> list[statistics.Metric]:
    """Negative log-likelihood of held-out references and human refinements under the policy."""
    numbers = []
    for field in ("reference", "human_refinement"):
        examples = [e for e in run.held_out if getattr(e, field).strip()]
        if not examples:
            continue
        rows = []
        for example in examples:
            text = getattr(example, field).strip()
            room = len(policy.tokenizer.encode(text)) + 2
            (prompt,) = policy.encode(example.id, [run.task.policy_prompt(example)], room)
            rows.append((prompt.ids, [*policy.continuation(prompt, text), policy.end_id]))
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        lengths = [len(prompt) + len(text) for prompt, text in rows]
        for batch in batching.batches_by_length(lengths, _LIKELIHOOD_BATCH):
            for i, logprobs in zip(batch, policy.logprobs([rows[i] for i in batch], _LIKELIHOOD_BATCH), strict=True):
                found[i] = logprobs
        numbers.append(likelihood.negative_log_likelihood(f"nll_{field}", found))
    return numbers


def _divergence(run: run_lib.Run, name: str, own: Role, other: Role) -> list[statistics.Metric]:
    """KL(own || other), from one sample of `own` for each held-out example."""
    settings = run.config.evaluate
    prompts = [own.encode(e.id, [run.task.policy_prompt(e)], settings.kl_max_new_tokens)[0] for e in run.held_out]
    lengths = [len(prompt.ids) for prompt in prompts]
    generator = Generator(own, make_sampling(1.0, 0, 1.0), settings.kl_max_new_tokens, settings.batch_size, (),
                          own.row_lengths(lengths))
    drawn, found = [], []
    for batch in batching.batches_by_length(lengths, settings.batch_size):
        keys = decode.candidate_keys(run.config.seed, run.iteration, name, [prompts[i].id for i in batch], [0])
        samples = [sample for (sample,) in generator.start([prompts[i] for i in batch], keys)()]
        drawn += [sample.logprobs for sample in samples]
        pairs = [(prompts[i].ids, sample.tokens.tolist()) for i, sample in zip(batch, samples, strict=True)]
        for start in range(0, len(pairs), _LIKELIHOOD_BATCH):
            found += other.logprobs(pairs[start : start + _LIKELIHOOD_BATCH], _LIKELIHOOD_BATCH)
    return kl.divergence(name, drawn, found)


def _win_rates(run: run_lib.Run, ours: dict[str, str], others: dict[str, str]) -> list[statistics.Metric]:
    """Ours against others, judged in both orders."""
    ids = [e.id for e in run.held_out]
    model = run.roles.get("judge")
    orders = [_preferences(run, model, *pair) for pair in ((ours, others), (others, ours))]
    results = win_rate.outcomes(*orders)
    lengths = [[float(len(texts[i].split())) for i in ids] for texts in (ours, others)]
    return [win_rate.win_rate(*orders), win_rate.length_controlled_win_rate(results.tolist(), *lengths)]


def _preferences(run: run_lib.Run, model: Role, first: dict[str, str], second: dict[str, str]) -> Sequence[float]:
    """The judge's probability that the text shown first is better; 0.5 where both are equal, without asking."""
    differ = [e for e in run.held_out if first[e.id] != second[e.id]]
    asked = [judge.ask(model, e.id, [[run.task.compare_question(e, first[e.id], second[e.id])]]) for e in differ]
    found = judge.favourable_probabilities(model, asked, run.config.score.batch_size)
    by_id = {e.id: p.item() for e, p in zip(differ, found, strict=True)}
    return [by_id.get(e.id, 0.5) for e in run.held_out]
