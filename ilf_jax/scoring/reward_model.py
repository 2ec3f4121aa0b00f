"""Scores by a reward model, config.reward_model. It knows nothing of the feedback."""

from collections.abc import Sequence

from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.inference.reward_scorer import RewardScorer
from ilf_jax.runtime.pending import Pending
from ilf_jax.scoring.scorer import RefinedDocument, Scorer, ScorerContext, Scores


class RewardModel(Scorer):
    """The reward of each candidate; a model that compares two texts compares each candidate with the draft."""

    def __init__(self, context: ScorerContext) -> None:
        super().__init__(context)
        # Below not through `self`: a cycle would keep the model's params until the garbage is collected.
        self._model = model = RewardScorer(context.roles.get("reward_model"), context.task, context.config.reward.kind)
        self._questions = LookAhead(
            context.documents, key=lambda d: d.example.id, tokens=lambda asked: asked.together.num_tokens,
            encode=lambda d: model.ask(d.example, d.candidates, d.draft),
            size=lambda d: text_size(d.example.document, d.draft, *d.candidates))
        self._layout = self._model.choose_layout(
            self._questions.sample, self._questions.share, purpose=f"score {context.iteration}")

    def start(self, documents: Sequence[RefinedDocument]) -> Pending[list[Scores]]:
        """Sets the device to work and returns."""
        questions = [self._questions.encoded(d) for d in documents]
        pending = self._model.start(questions, self.context.config.score.batch_size, self._layout)
        work = [self._model.work(of_one, self._layout) for of_one in questions]
        return pending.map(lambda rewards: [
            Scores(rewards_C, work=of_one) for rewards_C, of_one in zip(rewards, work, strict=True)])
