"""What a policy writes for held-out examples: how it is drawn, and the numbers about it, alone or the best of N."""

import dataclasses
from collections.abc import Mapping, Sequence

from ilf_jax.evaluation import diversity, rouge, statistics, win_rate
from ilf_jax.inference import answer_scoring
from ilf_jax.inference.generation import Generator
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.records import Example, Output
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages import context as run_lib


def generator(run: run_lib.Run, policy: LanguageModel, batch_size: int) -> tuple[Generator, dict[str, Encoded]]:
    """What draws outputs as config.evaluate has it, and the held-out prompts by example id."""
    settings, longest = run.config.evaluate, run.config.evaluate.max_new_tokens
    if _writes_feedback(run):
        longest += run.config.feedback.max_new_tokens
    prompts = {e.id: policy.encode(e.id, [run.task.policy_prompt(e)], longest)[0] for e in run.held_out}
    sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
    lengths = policy.row_lengths(len(p.ids) for p in prompts.values())
    return Generator(policy, sampling, longest, batch_size, run.task.stop, lengths), prompts


def _writes_feedback(run: run_lib.Run) -> bool:
    """Whether the policy has learned to write feedback and then the refinement."""
    return run.config.finetune.target == "feedback_refinement" and run.iteration > 0


def text_of(run: run_lib.Run, generated: str) -> str:
    """The output that a generation holds: all of it, or the refinement behind the feedback."""
    return run.task.postprocess(run.task.split_feedback(generated)[1] if _writes_feedback(run) else generated)


def numbers(run: run_lib.Run, texts: Mapping[str, str]) -> list[statistics.Metric]:
    """The task's own numbers, lengths, and how the outputs compare with references and with one another."""
    found = [*_of_examples(run, texts, run.held_out),
             statistics.mean("mean_words", [len(text.split()) for text in texts.values()])]
    for group in dict.fromkeys(e.group for e in run.held_out if e.group):
        of_group = [e for e in run.held_out if e.group == group]
        found += [dataclasses.replace(m, name=f"{m.name}[{group}]") for m in _of_examples(run, texts, of_group)]
    if len(texts) > 1:
        _, equal, _ = diversity.diversity([list(texts.values())])
        found.append(statistics.Metric("equal_outputs", equal.value, float("nan"), len(texts)))
    return found


def _of_examples(
    run: run_lib.Run, texts: Mapping[str, str], examples: Sequence[Example]
) -> list[statistics.Metric]:
    """The task's own numbers, and those against references where there are any."""
    found = run.measure(texts, examples)
    pairs = [(texts[e.id], e.reference.strip()) for e in examples if e.reference.strip()]
    if run.config.evaluate.rouge and pairs:
        found += rouge.rouge(*zip(*pairs, strict=True))
    if run.config.evaluate.exact_match and pairs:
        found.append(statistics.proportion("exact_match", [text == reference for text, reference in pairs]))
    return found


def win_rates(run: run_lib.Run, texts: Mapping[str, str]) -> list[statistics.Metric]:
    """Against what the initial policy writes, judged in both orders."""
    before = {i: o.text for i, o in run.folder("evaluate", 0).read(Output).items()}
    model = run.roles.get("judge")
    orders = both_orders(run, model, run.held_out, texts, before)
    results = win_rate.outcomes(*orders)
    lengths = [[float(len(side[e.id].split())) for e in run.held_out] for side in (texts, before)]
    return [win_rate.win_rate(*orders), win_rate.length_controlled_win_rate(results.tolist(), *lengths)]


def both_orders(
    run: run_lib.Run, model: LanguageModel, examples: Sequence[Example], ours: Mapping[str, str],
    others: Mapping[str, str],
) -> tuple[list[float], list[float]]:
    """The judge's probability of "A" for each example: where A is ours, and where A is the other's."""
    return _preferences(run, model, examples, ours, others), _preferences(run, model, examples, others, ours)


def _preferences(
    run: run_lib.Run, model: LanguageModel, examples: Sequence[Example], first: Mapping[str, str],
    second: Mapping[str, str],
) -> list[float]:
    """The judge's probability that the text shown first is better; 0.5 where both are equal, without asking."""
    differ = [e for e in examples if first[e.id] != second[e.id]]
    questions = [run.task.compare_question(e, first[e.id], second[e.id]) for e in differ]
    asked = [answer_scoring.ask(model, e.id, [[question]]) for e, question in zip(differ, questions, strict=True)]
    found = answer_scoring.favourable_probabilities(model, asked, run.config.score.batch_size)
    by_id = {e.id: p.item() for e, p in zip(differ, found, strict=True)}
    return [by_id.get(e.id, 0.5) for e in examples]
