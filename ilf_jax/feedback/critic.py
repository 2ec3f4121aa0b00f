"""Feedback by a model: config.critic."""

from collections.abc import Sequence

from ilf_jax.evaluation import statistics
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource, SourceContext
from ilf_jax.inference.generation import Generator, Sample, prompt_lengths
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.inference.written_texts import LEFT_OUT, WrittenTexts
from ilf_jax.records import Feedback
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.tasks import answers, prompts
from ilf_jax.tasks.task import Task

_SECOND_TEMPERATURE = 0.7


def _comment(task: Task, sample: Sample) -> str:
    text = answers.clean(sample.text)
    if task.free_text:
        text = answers.clean(answers.without_preamble(text))
    return text if sample.stopped else answers.whole_sentences(text)


class Critic(FeedbackSource):
    """What the critic writes about each draft: whole sentences.

    Where it only repeats its prompt, it is asked once more, at a temperature of at least 0.7.
    """

    sharded = True

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
            Generator(self._lm, make_sampling(temperature, 0, 1.0), settings.max_new_tokens, settings.batch_size,
                      context.task.stop, lengths)
            for temperature in (settings.temperature, max(settings.temperature, _SECOND_TEMPERATURE)))

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Sets the device to work and returns."""
        prompted = [d for d in documents if self._prompts.encoded(d) is not None]

        def finish(drawn: list[str]) -> list[Feedback]:
            echoes = [d for d, text in zip(prompted, drawn, strict=True) if self._is_echo(d, text)]
            again = self._draw(self._second, echoes, 1).result()
            redrawn = {d.example.id: text for d, text in zip(echoes, again, strict=True)}
            given = {i: Feedback(i, redrawn.get(i, text), "critic", i in redrawn)
                     for i, text in zip((d.example.id for d in prompted), drawn, strict=True)}
            return [given.get(d.example.id) or Feedback(d.example.id, "", LEFT_OUT) for d in documents]

        return self._draw(self._first, prompted, 0).map(finish)

    def metrics(self) -> list[statistics.Metric]:
        """How many drafts are too long for the critic's prompt, if any are."""
        return self._written.metrics(self.context.documents, lambda d: d.example.id, self._prompts.encoded)

    def _draw(self, generator: Generator, documents: Sequence[DraftedDocument], number: int) -> Pending[list[str]]:
        """A text for each document; `number` tells apart what is drawn for the same one."""
        if not documents:
            return Pending.ready([])
        ids, prompts = zip(*((d.example.id, self._prompts.encoded(d)) for d in documents), strict=True)
        keys = decode.candidate_keys(self.context.config.seed, self.context.iteration, "feedback", ids, [number])
        drawn = generator.start([prompt for prompt in prompts if prompt is not None], keys)
        return drawn.map(lambda samples: [_comment(self.context.task, s) for (s,) in samples])

    def _is_echo(self, document: DraftedDocument, text: str) -> bool:
        if not self.context.task.free_text:
            return False
        of = (document.draft, document.example.document)
        return answers.is_echo(text, of, prompts.without_gaps(self.context.task.prompts.critic))

    def length(self, document: DraftedDocument) -> int:
        """Tokens of the prompt, or, of many documents, bytes of the texts."""
        return self._lengths[document.example.id]

    def work(self, feedback: Feedback) -> performance.Work:
        """Prompt and feedback through the critic."""
        written = 0 if feedback.source == LEFT_OUT else len(self._lm.tokenizer.encode(feedback.text)) + 1
        return self._first.work(self._prompts.num_tokens(feedback.id), [written])
