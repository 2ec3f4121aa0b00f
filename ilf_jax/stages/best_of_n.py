"""Best of N: N outputs for each held-out document, and the one that the reward model likes best (PAPER: N = 64)."""

import functools

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.evaluation import output_metrics, statistics
from ilf_jax.inference import answer_scoring, preferences
from ilf_jax.inference.generation import Sample
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.inference.policy_outputs import PolicyOutputs
from ilf_jax.inference.reward_scorer import RewardScorer
from ilf_jax.records import BestOfN, Example, Output
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.sampling import decode
from ilf_jax.scoring import selection
from ilf_jax.stages.context import Outcome, Records, StageContext, process_shards, run_stage


def best_of_n(context: StageContext, before_training: Records[Output] | None = None) -> Records[BestOfN]:
    """A BestOfN for each held-out document, where config.evaluate.best_of_n asks for more than one output.

    Args:
        before_training: the outputs of iteration 0, which win rates compare with.
    """
    if not context.held_out or context.config.evaluate.best_of_n == 1:
        return Records(BestOfN, None)
    return run_stage(context, "best_of_n", BestOfN, functools.partial(_best_of_n, context, before_training))


def _best_of_n(context: StageContext, before_training: Records[Output] | None, folder: StageFolder) -> Outcome:
    config, settings, examples = context.config, context.config.evaluate, context.held_out
    N, name = settings.best_of_n, f"best_of_n {context.iteration}"
    # config.evaluate.batch_size outputs are drawn together, and as many rewards computed together as in scoring.
    documents = max(1, settings.batch_size // N)
    prefixes = max(1, config.score.batch_size * config.refine.num_candidates // N)
    outputs = PolicyOutputs.make(context.roles.get("policy"), context.task, config, examples,
                                 trained=context.iteration > 0, batch_size=documents, most=2, purpose=name)
    model = RewardScorer(context.roles.get("reward_model"), context.task, config.reward.kind)
    layout = _layout(context, model, N, f"rewards of {name}")
    work: dict[str, performance.Work] = {}

    def start(batch: list[Example]) -> Pending[list[BestOfN]]:
        keys = decode.candidate_keys(config.seed, 0, "best_of_n", [e.id for e in batch], range(N))

        def choose(drawn: list[list[Sample]]) -> list[BestOfN]:
            texts = [[outputs.text(s.text) for s in samples] for samples in drawn]
            # A model that compares two texts compares each output with the first.
            questions = [model.ask(e, of_one, of_one[0]) for e, of_one in zip(batch, texts, strict=True)]
            rewards = model.start(questions, prefixes, layout).result()
            for e, samples, of_one in zip(batch, drawn, questions, strict=True):
                drawing = outputs.work(e.id, [len(s.tokens) for s in samples])
                work[e.id] = drawing.plus(model.work(of_one, layout))
            return [_pick(context, e, of_one, rewards_N)
                    for e, of_one, rewards_N in zip(batch, texts, rewards, strict=True)]

        return outputs.start(batch, keys).map(choose)

    done = process_shards(context, folder, examples, outputs.prompts.lengths, cls=BestOfN, start=start,
                          shard_size=outputs.generator.batch_size, work=lambda best: work[best.id])
    rows = done.records
    texts = {i: best.texts[best.chosen] for i, best in rows.items()}
    metrics = [
        *output_metrics.output_metrics(texts, examples, context.measure, with_rouge=settings.rouge,
                                       exact_match=settings.exact_match),
        statistics.mean("reward_chosen", [best.rewards[best.chosen] for best in rows.values()]),
        statistics.mean("reward_mean", [float(np.mean(best.rewards)) for best in rows.values()]),
        statistics.mean("unique_outputs", [len(set(best.texts)) / N for best in rows.values()]),
    ]
    if settings.win_rate and before_training is not None:
        before = {i: o.text for i, o in before_training.by_id().items()}
        metrics += preferences.win_rates(
            context.roles.judge(), context.task, examples, texts, before, config.score.batch_size)
    return Outcome(done.shards, len(rows), metrics, done.work)


def _layout(context: StageContext, model: RewardScorer, count: int, purpose: str) -> answer_scoring.PromptLayout:
    """How outputs that are not drawn yet will be shown to the reward model: as if each took all of its tokens."""
    tokens = context.config.evaluate.max_new_tokens

    def ask(example: Example) -> answer_scoring.TokenizedQuestions | None:
        words = example.document.split() or ["a"]
        longer = words * (tokens // len(words) + 2)
        # The first differs from the others at its first word, so that they share no prefix.
        texts = [" ".join(longer[i : i + tokens]) for i in range(min(2, count))]
        try:
            return model.ask(example, texts, texts[0]).with_texts(count)
        except InputError:  # shorter ones may fit
            return None

    asked = LookAhead(context.held_out, key=lambda e: e.id, encode=ask, size=lambda e: text_size(e.document),
                      tokens=lambda questions: questions.together.num_tokens if questions else 0)
    return model.choose_layout([questions for questions in asked.sample if questions], asked.share, most=2,
                               purpose=purpose)


def _pick(context: StageContext, example: Example, texts: list[str], rewards_N: np.ndarray) -> BestOfN:
    usable = [context.task.is_usable(example, text) for text in texts]
    chosen = selection.pick(rewards_N, usable)
    settings = context.config.evaluate
    values = output_metrics.values_of(example, texts[chosen], context.task.measure, with_rouge=settings.rouge,
                                      exact_match=settings.exact_match)
    return BestOfN(example.id, texts, [float(r) for r in rewards_N], chosen, values)
