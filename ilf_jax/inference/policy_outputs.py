"""What a policy writes for held-out documents: how it is drawn, and the text that a generation holds."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ilf_jax.config import Config
from ilf_jax.inference.generation import Generator, Sample, prompt_lengths
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.models import padding
from ilf_jax.records import Example
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tasks.task import Task


def policy_prompt(task: Task, config: Config, trained: bool) -> Callable[[Example], Prompt]:
    """What the policy reads before it writes: with config.finetune.objective='fcp' a favourable comment, too.

    Args:
        trained: whether it has been finetuned by this run; before that, it knows nothing of comments.
    """
    if config.finetune.objective != "fcp" or not trained:
        return task.policy_prompt
    comment = config.finetune.favourable or task.favourable
    return lambda example: task.conditioned_prompt(example, comment)


def prompts_of(
    lm: LanguageModel, reads: Callable[[Example], Prompt], examples: Sequence[Example], max_new_tokens: int
) -> LookAhead[Example, Encoded]:
    """What a model reads about these documents, as tokens that leave room for outputs of `max_new_tokens`."""
    return LookAhead(examples, key=lambda e: e.id,
                     encode=lambda e: lm.encode(e.id, [reads(e)], lm.room(max_new_tokens))[0],
                     tokens=lambda prompt: len(prompt.ids), size=lambda e: text_size(e.document, e.title))


@dataclasses.dataclass(frozen=True)
class PolicyOutputs:
    """Draws outputs as config.evaluate says.

    Attributes:
        writes_feedback: the policy has learned to write feedback first and then the refinement.
        generator: of batches of `batch_size` documents.
        prompts: of the documents, as tokens.
    """

    task: Task
    writes_feedback: bool
    generator: Generator
    prompts: LookAhead[Example, Encoded]

    @classmethod
    def make(
        cls, lm: LanguageModel, task: Task, config: Config, examples: Sequence[Example], *, trained: bool,
        batch_size: int, refills: bool = False, most: int = padding.MOST_PROGRAMS, purpose: str = "",
    ) -> "PolicyOutputs":
        """Begins to encode the prompts of `examples`.

        Args:
            lm: the policy.
            task: writes the prompts.
            config: of the run; its evaluate section says how outputs are drawn.
            examples: the documents.
            trained: whether it has been finetuned by this run.
            batch_size: documents a batch, at most.
            refills: see `Generator`.
            most: programs that sampling may have.
            purpose: of the outputs, for the log.

        Raises:
            InputError: a prompt does not fit into the context.
        """
        settings, max_new_tokens = config.evaluate, config.evaluate.max_new_tokens
        writes_feedback = config.finetune.target == "feedback_refinement" and trained
        if writes_feedback:
            max_new_tokens += config.feedback.max_new_tokens
        prompts = prompts_of(lm, policy_prompt(task, config, trained), examples, max_new_tokens)
        sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
        row_lengths = prompt_lengths(lm, prompts, purpose, refills=refills, most=most)
        batch_size = padding.batch_size(batch_size, len(examples), refills=refills)
        generator = Generator(lm, sampling, max_new_tokens, batch_size, task.stop, row_lengths, refills)
        return cls(task, writes_feedback, generator, prompts)

    def start(self, examples: Sequence[Example], keys_BxCx2: np.ndarray) -> Pending[list[list[Sample]]]:
        """Begins to draw C outputs for each of these documents, see `Generator.start`."""
        return self.generator.start([self.prompts.encoded(e) for e in examples], keys_BxCx2)

    def work(self, example_id: str, new_tokens: Sequence[int]) -> performance.Work:
        """What drawing took for a document, given the number of tokens of each output."""
        return self.generator.work(self.prompts.num_tokens(example_id), new_tokens)

    def text(self, generated: str) -> str:
        """The output that a generation holds: all of it, or the refinement behind the feedback."""
        return self.task.read_output(self.task.split_feedback(generated)[1] if self.writes_feedback else generated)
