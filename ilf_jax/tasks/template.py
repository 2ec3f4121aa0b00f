"""A task made of the user's own templates; what is not given has a general wording."""

import dataclasses
import re
from typing import Any

from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.tasks import answers, prompts
from ilf_jax.tasks.task import Task

_REFINE = """\
Improve the answer below so that it follows the feedback. Reply with the improved answer only.

Title: {title}

Input: {document}

Answer: {draft}

Feedback on the answer: {feedback}

Improved answer:"""

_REFINE_ALONE = """\
Improve the answer below. Reply with the improved answer only.

Title: {title}

Input: {document}

Answer: {draft}

Improved answer:"""

_CRITIC = """\
Read the input and the answer. Say in one or two sentences what should be changed to make the answer better. \
Do not write a new answer.

Title: {title}

Input: {document}

Answer: {draft}

Feedback on the answer:"""

_COMPARE = """\
Here are an input and two answers to it. Decide which answer is better.

Title: {title}

Input: {document}

Answer A: {first}

Answer B: {second}

Which answer is better? Reply with the letter A or B.
Reply:"""

_RATE = """\
Here are an input and an answer to it. Decide whether the answer is good.

Title: {title}

Input: {document}

Answer: {draft}

Is this a good answer? Reply Yes or No.
Reply:"""

_JUDGE_HEAD = """\
Title: {title}

Input: {document}

First answer: {draft}

Feedback on the first answer: {feedback}

Second answer: {refinement}

"""

_JUDGE = (
    (_JUDGE_HEAD + "Does the second answer do what the feedback asks? Reply Yes or No.\nReply:", "Yes", "No"),
    (_JUDGE_HEAD + "Has the second answer put right what the feedback criticises? Reply Yes or No.\nReply:",
     "Yes", "No"),
    (_JUDGE_HEAD + "Would whoever gave the feedback be content with the second answer? Reply Yes or No.\nReply:",
     "Yes", "No"),
    (_JUDGE_HEAD + "Claim: the second answer takes the feedback into account. True or False?\nReply:",
     "True", "False"),
    (_JUDGE_HEAD + "Claim: the change that the feedback calls for is found in the second answer. True or False?"
     "\nReply:", "True", "False"),
)


class TemplateTask(Task):
    """Any task that templates can say. Gaps are those of `prompts.GAPS`.

    Args (config.template.*):
        policy: what the policy sees; has {document}.
        refine: what the refiner sees; has {draft} and {feedback}. Empty: a general wording, as for those below.
        critic: asks for feedback on {draft}.
        judge: (template, favourable answer, other answer) for each prompt of the ensemble; has {refinement}.
        compare: asks which of {first} and {second} is better; answered "A" or "B".
        rate: asks whether {draft} is good; answered "Yes" or "No".
        stop: an output is cut at the first of these strings. Where a newline is none of them, outputs keep their
            line breaks (programs, lists).
        token_units: see Task.

    Raises:
        InputError: a template or an entry is not as described; names the config key.
    """

    name = "template"

    @classmethod
    def from_config(cls, config: Config) -> "TemplateTask":
        """Made from config.template."""
        return cls(**dataclasses.asdict(config.template))

    def __init__(
        self,
        policy: str,
        refine: str = "",
        critic: str = "",
        judge: tuple[tuple[str, str, str], ...] = (),
        compare: str = "",
        rate: str = "",
        stop: tuple[str, ...] = ("\n",),
        token_units: str = "",
    ) -> None:
        if isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
            raise InputError(f"config.template.stop: {stop!r} given; must be a tuple of strings, none of them empty")
        self.stop = tuple(stop)
        try:
            re.compile(token_units)
        except re.error as e:
            raise InputError(f"config.template.token_units: {token_units!r} is not a regular expression: {e}") from e
        self.token_units = token_units
        ensemble = _checked_judge(judge) or _JUDGE
        self.prompts = prompts.PromptSet(
            policy=_checked("config.template.policy", policy, ("document",)),
            refine=_checked("config.template.refine", refine or _REFINE, ("draft", "feedback")),
            refine_alone=_REFINE_ALONE,
            critic=_checked("config.template.critic", critic or _CRITIC, ("draft",)),
            judge=ensemble,
            judge_tree=ensemble,  # what the prompts share is found in their tokens, whoever wrote them
            compare=_checked("config.template.compare", compare or _COMPARE, ("first", "second")),
            rate=(_checked("config.template.rate", rate or _RATE, ("draft",)), "Yes", "No"),
        )

    def postprocess(self, text: str) -> str:
        """Text cut at the first stop string, less the blanks around it; on one line if newline is a stop string."""
        text = answers.clean(text)
        for mark in self.stop:
            text = text.partition(mark)[0]
        return answers.clean(re.sub(r"\s+", " ", text) if "\n" in self.stop else text)


def _checked_judge(judge: Any) -> tuple[tuple[str, str, str], ...]:
    where = "config.template.judge"
    if isinstance(judge, str) or not isinstance(judge, list | tuple):
        raise InputError(f"{where}: must be a tuple of (template, favourable answer, other answer)")
    entries = []
    for i, entry in enumerate(judge):
        at = f"{where}[{i}]"
        if not (isinstance(entry, list | tuple) and len(entry) == 3 and all(isinstance(s, str) for s in entry)):
            raise InputError(f"{at}: must be three strings: (template, favourable answer, other answer)")
        template, yes, no = entry
        if not yes.strip() or not no.strip() or yes == no:
            raise InputError(f"{at}: answers {yes!r} and {no!r} given; must be two different, non-empty strings")
        entries.append((_checked(at, template, ("refinement",)), yes, no))
    return tuple(entries)


def _checked(where: str, template: Any, required: tuple[str, ...]) -> str:
    if not isinstance(template, str):
        raise InputError(f"{where}: {type(template).__name__} given; must be a string")
    if not template.strip():
        raise InputError(f"{where}: the template is empty; it needs {', '.join(f'{{{gap}}}' for gap in required)}")
    prompts.check_template(where, template, required)
    # A trial: prompts.fill looks for the gap as it is plainly written, and str.format also knows other spellings.
    values = {gap: f"<{gap}>" for gap in prompts.GAPS}
    try:
        whole, prompt = template.format(**values), prompts.fill(template, values)
    except ValueError as e:
        raise InputError(f"{where}: {e}; gaps must be written plainly, like {{document}}") from e
    if prompt.text != whole or (values["document"] in whole) != bool(prompt.document):
        raise InputError(f"{where}: gaps must be written plainly, like {{document}}, without '!' or ':'")
    return template
