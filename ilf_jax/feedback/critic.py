"""Feedback by a model: config.critic."""

from collections.abc import Sequence

from ilf_jax.feedback.source import DraftedDocument, FeedbackSource, SourceContext
from ilf_jax.inference.generation import Generator
from ilf_jax.records import Feedback
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling


class Critic(FeedbackSource):
    """What the critic writes about each draft."""

    sharded = True

    def __init__(self, context: SourceContext) -> None:
        super().__init__(context)
        self._lm = context.roles.get("critic")
        settings = context.config.feedback
        self._prompts = {
            d.example.id: self._lm.encode(
                d.example.id, [context.task.critic_prompt(d.example, d.draft)],
                self._lm.room(settings.max_new_tokens))[0]
            for d in context.documents}
        self._generator = Generator(
            self._lm, make_sampling(settings.temperature, 0, 1.0), settings.max_new_tokens, settings.batch_size,
            context.task.stop, self._lm.row_lengths(len(p.ids) for p in self._prompts.values()))

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Sets the device to work and returns."""
        ids = [d.example.id for d in documents]
        keys = decode.candidate_keys(self.context.config.seed, self.context.iteration, "feedback", ids, [0])
        samples = self._generator.start([self._prompts[i] for i in ids], keys)
        return samples.map(
            lambda drawn: [Feedback(i, s.text.strip(), "critic") for i, (s,) in zip(ids, drawn, strict=True)])

    def length(self, document: DraftedDocument) -> int:
        """Tokens of the prompt."""
        return len(self._prompts[document.example.id].ids)

    def work(self, feedback: Feedback) -> performance.Work:
        """Prompt and feedback through the critic."""
        return self._generator.work(
            self._prompts[feedback.id], [len(self._lm.tokenizer.encode(feedback.text)) + 1])
