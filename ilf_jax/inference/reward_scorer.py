"""A reward model at work: a number for each of C outputs of a document; what they share is computed once."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import scipy.special

from ilf_jax.errors import InputError
from ilf_jax.inference import answer_scoring
from ilf_jax.inference.answer_scoring import PromptLayout, TokenizedQuestions
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.models import padding
from ilf_jax.records import Comparison, Example
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.prompts import Question
from ilf_jax.tasks.task import Task


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log p(favourable) - log p(other) from logits with those on the last axis: a language model's reward, in nats.

    The probability itself would not tell texts apart of which the model is all but sure.
    """
    return logits[..., 0].astype(np.float64) - logits[..., 1]


def head_value(logits: np.ndarray) -> np.ndarray:
    """The scalar head's reward; it stands alone on the last axis."""
    return logits[..., 0].astype(np.float64)


def preference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probability that the first of two rewarded texts is the better one: sigmoid(r1 - r2) (Bradley & Terry 1952).

    Of log-odds this is p1 (1 - p2) / (p1 (1 - p2) + p2 (1 - p1)): one is good and the other is not.
    """
    return scipy.special.expit(np.asarray(first, np.float64) - second)


def over_questions(rewards_xQ: np.ndarray) -> np.ndarray:
    """Mean over the questions that were asked about a text (last axis).

    A pair is shown in both orders, so that a bias towards one position cancels out.
    """
    return rewards_xQ.mean(axis=-1)


READ = {"comparison": log_odds, "classification": log_odds, "scalar": head_value}
"""What a reward is read from, by config.reward.kind."""


@dataclasses.dataclass(frozen=True)
class RewardScorer:
    """Rewards texts by a model of one of three kinds, see `config.reward.kind`.

    A comparison model rates no text alone: its reward is the log-odds, over both orders, that it prefers the text to an
    `anchor`.
    """

    lm: LanguageModel
    task: Task
    kind: str

    def ask(self, example: Example, texts: Sequence[str], anchor: str) -> TokenizedQuestions:
        """Tokenises what the model is shown for C texts.

        Raises:
            InputError: there is no room for a text even with the document cut away, or an answer is several tokens.
        """
        if self.kind == "scalar":
            room = max(len(self.lm.tokenizer.encode(text)) for text in texts) + 2
            (prompt,) = self.lm.encode(example.id, [self.task.policy_prompt(example)], room, answered=True)
            return answer_scoring.continuations(prompt.ids, [self.lm.continuation(prompt, text) for text in texts])
        questions = answer_scoring.ask(self.lm, example.id, [self.questions(example, text, anchor) for text in texts])
        if not questions.exact:
            raise InputError(f"config.reward.kind={self.kind!r}: an answer is more than one token for the tokenizer of "
                             f"{self.lm.settings.checkpoint}; config.reward.kind='scalar' needs no answers")
        return questions

    def questions(self, example: Example, text: str, anchor: str) -> list[Question]:
        """The questions about one text whose answers make its reward; the favourable answer speaks for the text."""
        if self.kind == "classification":
            return [self.task.rate_question(example, text)]
        shown_second = self.task.compare_question(example, anchor, text)
        return [dataclasses.replace(shown_second, answers=shown_second.answers[::-1]),
                self.task.compare_question(example, text, anchor)]

    def choose_layout(
        self, questions: Collection[TokenizedQuestions], share: float, *, most: int = padding.MOST_PROGRAMS,
        purpose: str = "",
    ) -> PromptLayout:
        """See `answer_scoring.choose_layout`."""
        return answer_scoring.choose_layout(self.lm, questions, share, most=most, purpose=purpose)

    def start(
        self, questions: Sequence[TokenizedQuestions], batch_size: int, layout: PromptLayout
    ) -> Pending[list[np.ndarray]]:
        """Starts to reward texts, and returns at once. The result is the C rewards of each document.

        Args:
            questions: see `ask`; one entry a document.
            batch_size: prefixes that are computed together.
            layout: see `choose_layout`.
        """
        rewards = answer_scoring.start_scoring(self.lm, questions, batch_size, layout, READ[self.kind])
        return rewards.map(lambda rewards: [over_questions(rewards_CxQ) for rewards_CxQ in rewards])

    def work(self, questions: TokenizedQuestions, layout: PromptLayout) -> performance.Work:
        """What rewarding one document takes."""
        return questions.work(self.lm.architecture, layout.together)

    def preferences(self, comparisons: Sequence[Comparison], batch_size: int) -> np.ndarray:
        """Probability that the first text of each comparison is the better one."""
        compared = self.kind == "comparison"

        def ask(c: Comparison) -> TokenizedQuestions:
            return self.ask(c.example, [c.first], c.second) if compared else self.ask(
                c.example, [c.first, c.second], "")

        questions = LookAhead(comparisons, key=lambda c: c.id, encode=ask,
                              tokens=lambda asked: asked.together.num_tokens,
                              size=lambda c: text_size(c.document, c.first, c.second))
        rewards_xCxQ = answer_scoring.answer_all(self.lm, questions, comparisons, batch_size, read=READ[self.kind])
        rewards = np.stack([over_questions(rewards_CxQ) for rewards_CxQ in rewards_xCxQ])
        return preference(rewards[:, 0], np.zeros(len(rewards)) if compared else rewards[:, 1])
