"""What a task is: prompts, post-processing, metrics, and, where a program can judge, an oracle."""

import dataclasses
import re

from ilf_jax.config import Config
from ilf_jax.records import Example
from ilf_jax.tasks import answers
from ilf_jax.tasks import prompts as prompts_lib


@dataclasses.dataclass(frozen=True)
class MetricInfo:
    """A number that `Task.measure` gives.

    Attributes:
        direction: "lower" or "higher": which is better.
        label: what it is, in words.
        share: whether a text has it (1) or not (0), so that its mean is a share of texts.
    """

    name: str
    direction: str
    label: str
    share: bool = False


class Task:
    """Text side of a task. Subclasses give `prompts`, and override what they know better.

    Attributes:
        name: as in `config.task`.
        prompts: the templates.
        stop: a generation is cut at the first of these strings.
        has_oracle: whether the methods oracle_... are defined.
        metrics: what `measure` gives; the first one leads the report.
        token_units: regular expression of what one token of a tokenizer trained for the task may span; "" means words.
        free_text: outputs are prose: what announces an answer is cut off, and an echo of the prompt is no answer.
        refinement_cue: stands between feedback and refinement where the policy writes both.
        favourable: feedback on an output that leaves nothing to be desired.
    """

    name: str
    prompts: prompts_lib.PromptSet
    stop: tuple[str, ...] = ("\n",)
    has_oracle: bool = False
    metrics: tuple[MetricInfo, ...] = ()
    token_units: str = ""
    free_text: bool = True
    refinement_cue: str = "Improved:"
    favourable: str = "Excellent. Nothing needs to be changed."

    @classmethod
    def from_config(cls, config: Config) -> "Task":
        """The task of a run; a subclass may read settings from the configuration."""
        del config
        return cls()

    def directions(self) -> dict[str, str]:
        """Metric name -> "lower" or "higher"."""
        return {metric.name: metric.direction for metric in self.metrics}

    def policy_prompt(self, example: Example) -> prompts_lib.Prompt:
        """What the policy sees."""
        return prompts_lib.fill(self.prompts.policy, _values(example))

    def conditioned_prompt(self, example: Example, feedback: str) -> prompts_lib.Prompt:
        """What a policy sees that writes so that the feedback holds of its output; without feedback, its own prompt."""
        if not feedback:
            return self.policy_prompt(example)
        template = self.prompts.conditioned or f"Feedback on the answer: {{feedback}}\n\n{self.prompts.policy}"
        return prompts_lib.fill(template, _values(example, feedback=feedback))

    def demonstrated_prompt(self, example: Example, refinement: str) -> prompts_lib.Prompt:
        """What a policy sees that has read a good output before it writes its own."""
        template = self.prompts.demonstrated or f"A good answer: {{refinement}}\n\n{self.prompts.policy}"
        return prompts_lib.fill(template, _values(example, refinement=refinement))

    def refine_prompt(self, example: Example, draft: str, feedback: str) -> prompts_lib.Prompt:
        """What the refiner sees."""
        template = self.prompts.refine if feedback else self.prompts.refine_alone
        return prompts_lib.fill(template, _values(example, draft=draft, feedback=feedback))

    def critic_prompt(self, example: Example, draft: str) -> prompts_lib.Prompt:
        """What a model that writes feedback sees."""
        return prompts_lib.fill(self.prompts.critic, _values(example, draft=draft))

    def judge_questions(
        self, example: Example, draft: str, feedback: str, refinement: str, layout: str = "paper"
    ) -> list[prompts_lib.Question]:
        """The InstructRM ensemble: does the refinement take in the feedback? `layout` as config.score.prompts."""
        values = _values(example, draft=draft, feedback=feedback, refinement=refinement)
        ensemble = self.prompts.judge_tree if layout == "tree" else self.prompts.judge
        return [prompts_lib.Question(prompts_lib.fill(t, values), (yes, no)) for t, yes, no in ensemble]

    def compare_question(self, example: Example, first: str, second: str) -> prompts_lib.Question:
        """Which of two outputs is better? "A" stands for the first."""
        prompt = prompts_lib.fill(self.prompts.compare, _values(example, first=first, second=second))
        return prompts_lib.Question(prompt, ("A", "B"))

    def rate_question(self, example: Example, output: str) -> prompts_lib.Question:
        """Is this output good?"""
        template, good, bad = self.prompts.rate
        return prompts_lib.Question(prompts_lib.fill(template, _values(example, draft=output)), (good, bad))

    def join_feedback(self, feedback: str, refinement: str) -> str:
        """Feedback and refinement as one text on one line, for a policy that writes both."""
        return " ".join([*feedback.split(), self.refinement_cue, refinement])

    def split_feedback(self, text: str) -> tuple[str, str]:
        """(Feedback, refinement) of a text that such a policy wrote; without the cue, all of it is the refinement."""
        feedback, cue, refinement = text.partition(self.refinement_cue)
        return (answers.clean(feedback), refinement) if cue else ("", text)

    def read_output(self, generated: str) -> str:
        """The answer in a generated text: what is trained, scored and measured."""
        text = answers.clean(generated)
        return self.postprocess(answers.without_preamble(text) if self.free_text else text)

    def has_preamble(self, generated: str) -> bool:
        """Whether `read_output` cuts off a clause that announces the answer."""
        text = answers.clean(generated)
        return self.free_text and answers.without_preamble(text) != text

    def is_echo(self, text: str, example: Example, feedback: str) -> bool:
        """Whether a refinement repeats the document, the feedback or the prompt's own words."""
        template = self.prompts.refine if feedback else self.prompts.refine_alone
        return self.free_text and answers.is_echo(
            text, (example.document, feedback), prompts_lib.without_gaps(template))

    def postprocess(self, text: str) -> str:
        """Generated text made fit for use; called by `read_output`."""
        return re.sub(r"\s+", " ", text).strip()

    def is_usable(self, example: Example, text: str) -> bool:
        """Whether a candidate may be picked; empty ones may not."""
        del example
        return bool(text)

    def oracle_feedback(self, example: Example, draft: str) -> str:
        """Feedback by program. Raises TypeError where the task has no oracle."""
        raise TypeError(f"task {self.name} has no oracle")

    def oracle_refinement(self, example: Example, draft: str, feedback: str) -> str:
        """The right refinement. Raises TypeError where the task has no oracle."""
        raise TypeError(f"task {self.name} has no oracle")

    def oracle_incorporates(self, example: Example, draft: str, feedback: str, refinement: str) -> bool:
        """Whether the refinement takes in the feedback. Raises TypeError where the task has no oracle."""
        raise TypeError(f"task {self.name} has no oracle")

    def measure(self, example: Example, text: str) -> dict[str, float]:
        """Numbers about one output, averaged by the evaluate stage under the same names."""
        del example, text
        return {}


def _values(example: Example, **more: str) -> dict[str, str]:
    return {"title": example.title, "document": example.document, **more}
