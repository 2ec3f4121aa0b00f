"""A reward model at work: a number for each of C outputs of a document; what they share is computed once."""

import dataclasses
from collections.abc import Callable, Collection, Sequence

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.inference import answer_scoring
from ilf_jax.inference.answer_scoring import PromptLayout, TokenizedQuestions
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.records import Comparison, Example
from ilf_jax.runtime import performance
from ilf_jax.scoring import reward_model
from ilf_jax.tasks.prompts import Question
from ilf_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Rewarder:
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
            (prompt,) = self.lm.encode(example.id, [self.task.policy_prompt(example)], room)
            return answer_scoring.continuations(prompt.ids, [self.lm.continuation(prompt, text) for text in texts])
        asked = answer_scoring.ask(self.lm, example.id, [self.questions(example, text, anchor) for text in texts])
        if not asked.exact:
            raise InputError(f"config.reward.kind={self.kind!r}: an answer is more than one token for the tokenizer of "
                             f"{self.lm.settings.checkpoint}; config.reward.kind='scalar' needs no answers")
        return asked

    def questions(self, example: Example, text: str, anchor: str) -> list[Question]:
        """The questions about one text whose answers make its reward; the favourable answer speaks for the text."""
        if self.kind == "classification":
            return [self.task.rate_question(example, text)]
        shown_second = self.task.compare_question(example, anchor, text)
        return [dataclasses.replace(shown_second, answers=shown_second.answers[::-1]),
                self.task.compare_question(example, text, anchor)]

    def arrange(self, asked: Collection[TokenizedQuestions]) -> PromptLayout:
        """See `judge.arrange`."""
        return answer_scoring.arrange(self.lm, asked)

    def start(
        self, asked: Sequence[TokenizedQuestions], batch_size: int, arrangement: PromptLayout
    ) -> Callable[[], list[np.ndarray]]:
        """The C rewards of each document. Returns while the device is at work; what it returns waits."""
        found = answer_scoring.start_asking(self.lm, asked, batch_size, arrangement, reward_model.READ[self.kind])
        return lambda: [reward_model.over_questions(rewards_CxQ) for rewards_CxQ in found()]

    def work(self, asked: TokenizedQuestions, arrangement: PromptLayout) -> performance.Work:
        """What rewarding one document takes."""
        return asked.work(self.lm.architecture, arrangement.together)

    def preferences(self, comparisons: Sequence[Comparison], batch_size: int) -> np.ndarray:
        """Probability that the first text of each comparison is the better one."""
        if self.kind == "comparison":
            asked = [self.ask(c.example, [c.first], c.second) for c in comparisons]
            rewards = np.array([found[0] for found in self.start(asked, batch_size, self.arrange(asked))()])
            return reward_model.preference(rewards, np.zeros_like(rewards))
        asked = [self.ask(c.example, [c.first, c.second], "") for c in comparisons]
        rewards = np.stack(self.start(asked, batch_size, self.arrange(asked))())
        return reward_model.preference(rewards[:, 0], rewards[:, 1])
