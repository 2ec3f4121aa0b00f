"""A trained policy at work. `ilf_jax.load` gives one."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from ilf_jax import config as config_lib
from ilf_jax import tasks
from ilf_jax.errors import InputError
from ilf_jax.inference import answer_scoring, model_pool
from ilf_jax.inference.policy_outputs import PolicyOutputs
from ilf_jax.inference.reward_scorer import RewardScorer
from ilf_jax.models import padding
from ilf_jax.policy.finished import Finished
from ilf_jax.records import Example
from ilf_jax.sampling import decode
from ilf_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Policy:
    """The policy of one iteration. It writes for new documents what the evaluate stage would write for them.

    Attributes:
        config: of the run; its evaluate section says how outputs are drawn.
        task: writes prompts and reads outputs.
        roles: the models.
        iteration: after which the policy is used; 0 is the policy before training.
        has_reward_model: whether the run has one, for `generate(best_of=...)`.
    """

    config: config_lib.Config
    task: Task
    roles: model_pool.Roles
    iteration: int
    has_reward_model: bool

    def generate(
        self, documents: Sequence[str | Example], n: int = 1, *, best_of: int = 1, temperature: float | None = None,
        max_new_tokens: int | None = None, seed: int | None = None,
    ) -> list[list[str]]:
        """Outputs for each document. The same arguments give the same outputs.

        Args:
            documents: texts; or Examples, where the task's prompts read more than the document. A text's random keys
                follow from what it says, an Example's from its id, as in the run.
            n: outputs a document.
            best_of: draw so many a document and return the n that the run's reward model likes best, best first.
            temperature: instead of config.evaluate.temperature; 0 is greedy.
            max_new_tokens: instead of config.evaluate.max_new_tokens.
            seed: instead of config.seed.

        Raises:
            InputError: an argument is out of range, the run has no reward model, or a document leaves no room in the
                model's context.
        """
        texts = [documents] if isinstance(documents, str) else list(documents)
        examples = [d if isinstance(d, Example) else _example(d) for d in texts]
        config = self._with(temperature, max_new_tokens, seed)
        drawn_each = max(n, best_of)
        if n < 1 or best_of < 1 or drawn_each > 256:
            raise InputError(f"generate: n={n} and best_of={best_of}; allowed are 1 to 256")
        if best_of > 1 and not self.has_reward_model:
            raise InputError("generate: best_of needs a reward model: a run with config.reward.source or "
                             "config.reward_model.checkpoint")
        if best_of > 1 and best_of < n:
            raise InputError(f"generate: n={n} of best_of={best_of}; draw at least as many as are to be returned")
        outputs = PolicyOutputs.make(
            self.roles.get("policy"), self.task, config, examples, trained=self.iteration > 0,
            batch_size=max(1, config.evaluate.batch_size // drawn_each))
        purpose = "best_of_n" if best_of > 1 else "evaluate"
        texts_of: dict[int, list[str]] = {}
        for batch in padding.batches_by_length(outputs.prompts.lengths, outputs.generator.batch_size):
            keys = decode.candidate_keys(config.seed, 0, purpose, [examples[i].id for i in batch], range(drawn_each))
            drawn = outputs.start([examples[i] for i in batch], keys).result()
            for i, samples in zip(batch, drawn, strict=True):
                texts_of[i] = [outputs.text(s.text) for s in samples]
        if best_of > 1:
            texts_of = self._ranked(examples, texts_of)
        return [texts_of[i][:n] for i in range(len(examples))]

    def _with(self, temperature: float | None, max_new_tokens: int | None, seed: int | None) -> config_lib.Config:
        given = {"evaluate.temperature": temperature, "evaluate.max_new_tokens": max_new_tokens, "seed": seed}
        return config_lib.with_overrides(self.config, {key: v for key, v in given.items() if v is not None})

    def _ranked(self, examples: Sequence[Example], texts_of: dict[int, list[str]]) -> dict[int, list[str]]:
        """The texts of each document, the one with the highest reward first; unusable ones come last."""
        scorer = RewardScorer(self.roles.get("reward_model"), self.task, self.config.reward.kind)
        ranked = {}
        for i, texts in texts_of.items():
            # A model that compares two texts compares each with the first.
            questions = [scorer.ask(examples[i], texts, texts[0])]
            (rewards_N,) = scorer.start(questions, 1, answer_scoring.choose_layout_for_part(questions)).result()
            usable = np.array([self.task.is_usable(examples[i], text) for text in texts])
            order = np.argsort(-np.where(usable, rewards_N, -np.inf), kind="stable")
            ranked[i] = [texts[c] for c in order]
        return ranked


def of(finished: Finished) -> Policy:
    """The policy of a finished iteration.

    Raises:
        InputError: its task cannot be made.
    """
    roles = finished.roles()
    return Policy(finished.config, tasks.make_task(finished.config), roles, finished.iteration,
                  finished.trains_reward or finished.config.reward_model.checkpoint != "policy")


def _example(text: str) -> Example:
    if not isinstance(text, str):
        raise InputError(f"generate: a document is a str or an ilf_jax.records.Example, not {type(text).__name__}")
    return Example(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16], text)
