"""The paper's controlled task: a sentence calls somebody names; feedback says which words to leave out.

A sentence reads "NAME is a fool, a gem and a goose."; one of the words is kind, the others are mild insults. Feedback
names one to three of the insults, and the right refinement is the sentence less those words. Everything is a program,
so every step of the loop can be marked.
"""

import functools
import importlib.resources
import re

from ilf_jax.records import Example
from ilf_jax.tasks import prompts, task

KIND_WORDS = (
    "a friend", "a gem", "a treasure", "a joy", "a star", "a hero", "a delight", "a marvel", "a champion", "an angel",
    "a helper", "a wonder",
)
MAX_NAMED = 3
"""Feedback names at most this many words."""

TOKEN_UNITS = r" an? [\w-]+| ?[\w-]+|[^\w\s]|\s"
"""An article and its noun make one unit, so that a short list of nouns is a short list of tokens."""

MODEL_SIZES = {
    "word_removal_100k": (32, 4), "word_removal_300k": (64, 4), "word_removal_1m": (128, 4),
    "word_removal_3m": (192, 6), "word_removal_10m": (288, 9),
}
"""Width and number of layers of the models trained on this task, by the name in `init:NAME`."""

# The feedback stands first: while it reads the text, a small model already knows which words to drop.
_GIVEN = "Feedback: {feedback}\nText: {draft}\nBetter text:"
_SHOWN = _GIVEN + " {refinement}\n"

_JUDGE = (
    (_SHOWN + "Does the better text follow the feedback? Yes or No:", "Yes", "No"),
    (_SHOWN + "Were just the named words left out? Yes or No:", "Yes", "No"),
    (_SHOWN + "Would the reviewer be content? Yes or No:", "Yes", "No"),
    (_SHOWN + "The better text does as it was told. True or False:", "True", "False"),
    (_SHOWN + "The feedback was heeded and the rest kept. True or False:", "True", "False"),
)

PROMPTS = prompts.PromptSet(
    policy="Describe {document}.\nText:",
    refine=_GIVEN,
    refine_alone="Text: {draft}\nBetter text:",
    critic="Text: {draft}\nFeedback:",
    judge=_JUDGE,
    judge_tree=_JUDGE,  # they begin alike as it is
    compare="First: {first}\nSecond: {second}\nWhich is nicer? A for first, B for second:",
    rate=("Text: {draft}\nIs this kind? Yes or No:", "Yes", "No"),
    conditioned="Feedback: {feedback}\nDescribe {document}.\nText:",
    demonstrated="Better text: {refinement}\nDescribe {document}.\nText:",
)


@functools.cache
def insults() -> tuple[str, ...]:
    """The mild insults, each with its article."""
    text = importlib.resources.files("ilf_jax.assets").joinpath("mild_insults.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def listing(words: list[str], conjunction: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def sentence(name: str, words: list[str]) -> str:
    """The sentence that calls `name` those words."""
    return f"{name} is {listing(words)}."


def parse(text: str) -> tuple[str, list[str]] | None:
    """The (name, words) of a well-formed sentence, else None."""
    match = re.fullmatch(r"(.+?) is ((?:an?|the) .+)\.", text.strip())
    if match is None:
        return None
    return match[1], re.split(r", | and ", match[2])


def named_words(feedback: str) -> list[str]:
    """The words that a feedback sentence names."""
    return [word for word in insults()
            if word in feedback and re.search(rf"\b{re.escape(word)}(?![\w-])", feedback)]


def feedback_on(words: list[str], wording: int) -> str:
    """Feedback naming `words`, in one of three wordings."""
    if not words:
        return "Nothing to remove."
    if wording % 3 == 0:
        return f"Remove {listing(words)}."
    if wording % 3 == 1:
        return f"Do not say {listing(words, 'or')}."
    return f"Please leave out {listing(words)}."


class WordRemoval(task.Task):
    """Prompts and oracle of the word-removal task. The document is the name of whoever is described."""

    name = "word_removal"
    prompts = PROMPTS
    has_oracle = True
    free_text = False
    token_units = TOKEN_UNITS
    refinement_cue = "Better text:"
    favourable = "Nothing to remove."
    metrics = (
        task.MetricInfo("insult_rate", "lower", "share of texts with an insult", share=True),
        task.MetricInfo("insults_per_text", "lower", "insults in a text"),
        task.MetricInfo("well_formed", "higher", "share of texts of the form `NAME is a ..., a ... and a ....` with "
                        "the right name", share=True),
    )

    def __init__(self) -> None:
        self._insults = frozenset(insults())

    def is_usable(self, example: Example, text: str) -> bool:
        """A sentence of the right form."""
        del example
        return parse(text) is not None

    def oracle_feedback(self, example: Example, draft: str) -> str:
        """Names the first insults of the draft, three at most."""
        del example
        parsed = parse(draft)
        named = [] if parsed is None else [w for w in dict.fromkeys(parsed[1]) if w in self._insults]
        return feedback_on(named[:MAX_NAMED], len(draft))

    def oracle_refinement(self, example: Example, draft: str, feedback: str) -> str:
        """The draft less the words that the feedback names; a draft of another form is left as it is."""
        del example
        parsed = parse(draft)
        if parsed is None:
            return draft
        name, words = parsed
        named = set(named_words(feedback))
        kept = [word for word in words if word not in named]
        return sentence(name, kept) if kept else f"{name} is a person."

    def oracle_incorporates(self, example: Example, draft: str, feedback: str, refinement: str) -> bool:
        """Whether a well-formed refinement holds none of the words that the feedback names."""
        del example, draft
        parsed = parse(refinement)
        return parsed is not None and not set(named_words(feedback)) & set(parsed[1])

    def measure(self, example: Example, text: str) -> dict[str, float]:
        """insult_rate: 1 if the text contains an insult; insults_per_text; well_formed: right form and name."""
        parsed = parse(text)
        words = [] if parsed is None else parsed[1]
        count = len(named_words(text)) if parsed is None else sum(word in self._insults for word in words)
        well_formed = parsed is not None and parsed[0] == example.document
        return {"insult_rate": float(count > 0), "insults_per_text": float(count), "well_formed": float(well_formed)}
