"""Feedback by a model: config.critic, in memory or behind an endpoint."""

import abc
from collections.abc import Sequence

import numpy as np

from ilf_jax.evaluation import statistics
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource, SourceContext
from ilf_jax.inference.generation import Generator, prompt_lengths
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.inference.written_texts import LEFT_OUT, WrittenTexts
from ilf_jax.models import padding
from ilf_jax.records import Feedback
from ilf_jax.remote.remote_model import RemoteModel
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.tasks import answers, prompts
from ilf_jax.tasks.task import Task

_SECOND_TEMPERATURE = 0.7


def _comment(task: Task, written: str, stopped: bool) -> str:
    text = answers.clean(written)
    if task.free_text:
        text = answers.clean(answers.without_preamble(text))
    return text if stopped else answers.whole_sentences(text)


class AnyCritic(FeedbackSource):
    """What a model writes about each draft: whole sentences.

    Where it only repeats its prompt, it is asked once more, at a temperature of at least 0.7.
    """

    sharded = True

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Sets the device, or the server, to work and returns."""
        prompted = [d for d in documents if self._fits(d)]

        def finish(drawn: list[str]) -> list[Feedback]:
            echoes = [d for d, text in zip(prompted, drawn, strict=True) if self._is_echo(d, text)]
            again = self._draw(echoes, again=True).result()
            redrawn = {d.example.id: text for d, text in zip(echoes, again, strict=True)}
            given = {i: Feedback(i, redrawn.get(i, text), "critic", i in redrawn)
                     for i, text in zip((d.example.id for d in prompted), drawn, strict=True)}
            return [given.get(d.example.id) or Feedback(d.example.id, "", LEFT_OUT) for d in documents]

        return self._draw(prompted, again=False).map(finish)

    def _temperature(self, again: bool) -> float:
        first = self.context.config.feedback.temperature
        return max(first, _SECOND_TEMPERATURE) if again else first

    def _is_echo(self, document: DraftedDocument, text: str) -> bool:
        if not self.context.task.free_text:
            return False
        of = (document.draft, document.example.document)
        return answers.is_echo(text, of, prompts.without_gaps(self.context.task.prompts.critic))

    def _keys(self, documents: Sequence[DraftedDocument], again: bool) -> np.ndarray:
        """B x 1 x 2; those of the two tries for one document differ."""
        ids = [d.example.id for d in documents]
        return decode.candidate_keys(self.context.config.seed, self.context.iteration, "feedback", ids, [int(again)])

    @abc.abstractmethod
    def _fits(self, document: DraftedDocument) -> bool:
        """Whether the draft leaves room in the prompt."""

    @abc.abstractmethod
    def _draw(self, documents: Sequence[DraftedDocument], again: bool) -> Pending[list[str]]:
        """A text for each document; `again` tells the second try from the first."""


class RemoteCritic(AnyCritic):
    """A critic behind an endpoint."""

    def __init__(self, context: SourceContext, critic: RemoteModel) -> None:
        super().__init__(context)
        self._critic = critic

    def _fits(self, document: DraftedDocument) -> bool:
        del document  # only the server knows
        return True

    def _draw(self, documents: Sequence[DraftedDocument], again: bool) -> Pending[list[str]]:
        task, settings = self.context.task, self.context.config.feedback
        replies = self._critic.write(
            [task.critic_prompt(d.example, d.draft).text for d in documents],
            [int(key) for key in self._keys(documents, again)[:, 0, -1]] if documents else [],
            temperature=self._temperature(again), top_p=1.0, max_new_tokens=settings.max_new_tokens, stop=task.stop)
        return replies.map(lambda written: [_comment(task, reply.text, reply.stopped) for reply in written])


class Critic(AnyCritic):
    """A critic in memory."""

    def __init__(self, context: SourceContext) -> None:
        super().__init__(context)
        self._lm = lm = context.roles.get("critic")
        settings = context.config.feedback
        self._written = written = WrittenTexts("feedback", context.config.data.too_long)
        # Not through `self`: a cycle would keep the critic's params until the garbage is collected.
        self._prompts = LookAhead(
            context.documents, key=lambda d: d.example.id, tokens=lambda prompt: len(prompt.ids) if prompt else 0,
            encode=lambda d: written.fit(d.example.id, (d.draft,), lambda draft: lm.encode(
                d.example.id, [context.task.critic_prompt(d.example, draft)], lm.room(settings.max_new_tokens))[0]),
            size=lambda d: text_size(d.example.document, d.example.title, d.draft))
        self._lengths = dict(zip((d.example.id for d in context.documents), self._prompts.lengths, strict=True))
        lengths = prompt_lengths(lm, self._prompts, f"feedback {context.iteration}")
        self._first, self._second = (
            Generator(self._lm, make_sampling(self._temperature(again), 0, 1.0), settings.max_new_tokens,
                      padding.batch_size(settings.batch_size, len(context.documents)), context.task.stop, lengths)
            for again in (False, True))

    def _fits(self, document: DraftedDocument) -> bool:
        return self._prompts.encoded(document) is not None

    def metrics(self) -> list[statistics.Metric]:
        """How many drafts are too long for the critic's prompt, if any are."""
        return self._written.metrics(self.context.documents, lambda d: d.example.id, self._prompts.encoded)

    def _draw(self, documents: Sequence[DraftedDocument], again: bool) -> Pending[list[str]]:
        if not documents:
            return Pending.ready([])
        encoded = [prompt for d in documents if (prompt := self._prompts.encoded(d)) is not None]
        drawn = (self._second if again else self._first).start(encoded, self._keys(documents, again))
        return drawn.map(lambda samples: [_comment(self.context.task, s.text, s.stopped) for (s,) in samples])

    def length(self, document: DraftedDocument) -> int:
        """Tokens of the prompt, or, of many documents, bytes of the texts."""
        return self._lengths[document.example.id]

    def work(self, feedback: Feedback) -> performance.Work:
        """Prompt and feedback through the critic."""
        written = 0 if feedback.source == LEFT_OUT else len(self._lm.tokenizer.encode(feedback.text)) + 1
        return self._first.work(self._prompts.num_tokens(feedback.id), [written])
