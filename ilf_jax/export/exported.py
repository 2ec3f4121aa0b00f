"""What an export is made of: a finished policy, its prompt, and how it generates."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from ilf_jax import tasks
from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.export import chat_template
from ilf_jax.export.chat_template import TaskPrompt
from ilf_jax.inference import model_pool
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import layer_stack
from ilf_jax.models.transformer import Params
from ilf_jax.policy.finished import Finished
from ilf_jax.reporting import workfolder
from ilf_jax.reporting.workfolder import WorkFolder
from ilf_jax.runtime import progress
from ilf_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Exported:
    """A policy that is written in a format of other programs.

    Attributes:
        finished: the iteration of the run.
        roles: its models.
        lm: the policy without its params.
        task: what it was trained for; None where it is not to be had here.
        prompt: its prompt as a chat template; None where there is none.
        why_no_prompt: the reason, else "".
    """

    finished: Finished
    roles: model_pool.Roles
    lm: LanguageModel
    task: Task | None
    prompt: TaskPrompt | None
    why_no_prompt: str

    @classmethod
    def of(cls, finished: Finished) -> "Exported":
        """The policy of a finished iteration. Says in the log where its prompt cannot be exported.

        Raises:
            InputError: its checkpoint or tokenizer cannot be read.
        """
        roles = finished.roles()
        lm = roles.without_params("policy")
        task: Task | None = None
        prompt: TaskPrompt | None = None
        try:
            task = made = tasks.make_task(finished.config)
            prompt, reason = chat_template.make(lm, made, finished.config, finished.iteration > 0)
        except InputError as e:
            if task is not None:
                raise
            reason = f"the task cannot be loaded: {e}"
        if prompt is None:
            progress.log(f"the export does not hold the policy's prompt: {reason}. Documents need it around them")
        return cls(finished, roles, lm, task, prompt, reason)

    @property
    def config(self) -> Config:
        """Of the run, or of the baseline."""
        return self.finished.config

    @functools.cached_property
    def params(self) -> Params:
        """The policy's params, float32."""
        return self.load("policy")

    def load(self, role: str) -> Params:
        """The params of a model that plays a role, float32, layer by layer."""
        return layer_stack.one_by_one(self.roles.take(role))

    @functools.cached_property
    def work(self) -> WorkFolder:
        """The run's records and metrics."""
        return workfolder.read(self.finished.root)

    @property
    def writes_feedback(self) -> bool:
        """Whether it writes feedback first, and then what it is asked for."""
        return self.finished.iteration > 0 and self.config.finetune.target == "feedback_refinement"

    @property
    def max_new_tokens(self) -> int:
        """Of an output, thoughts included."""
        tokens = self.config.evaluate.max_new_tokens
        if self.writes_feedback:
            tokens += self.config.feedback.max_new_tokens
        return self.lm.room(tokens)

    def stop_tokens(self) -> list[int]:
        """Tokens that hold a whole stop string of the task, where its prompt is exported, too; in order.

        A policy that thinks first may write them in its thoughts.
        """
        if self.prompt is None or self.task is None or self.lm.thinking_tokens:
            return []
        size = min(self.lm.architecture.vocab_size, self.lm.tokenizer.vocab_size)
        return [i for i, text in enumerate(self.lm.tokenizer.token_texts[:size])
                if any(string in text for string in self.task.stop)]

    def token_ids(self) -> dict[str, Any]:
        """bos_token_id and eos_token_id, one or a list, as config.json has them."""
        ends = list(self.lm.end_ids)
        ids = {"bos_token_id": self.lm.tokenizer.bos_id, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}
        return {name: value for name, value in ids.items() if value is not None}

    def generation(self) -> Mapping[str, Any]:
        """generation_config.json: how the policy draws its outputs, as config.evaluate says.

        Stop strings are among the end tokens, for pipelines pass generation no tokenizer to look for strings with.
        """
        settings, ends = self.config.evaluate, list(dict.fromkeys([*self.lm.end_ids, *self.stop_tokens()]))
        sampling: dict[str, Any] = {"do_sample": False}
        if settings.temperature > 0:
            sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": settings.top_k,
                        "top_p": settings.top_p}
        padding = {"pad_token_id": ends[0]} if ends else {}
        return {**self.token_ids(), **({"eos_token_id": ends} if len(ends) > 1 else {}), **padding, **sampling,
                "max_new_tokens": self.max_new_tokens}
