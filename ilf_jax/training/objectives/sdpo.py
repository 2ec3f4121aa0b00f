"""Self-distillation: the policy's own draft, as the policy would have written it after reading the feedback."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax.config import Config
from ilf_jax.config_sections import Finetune, Training
from ilf_jax.errors import InputError
from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.transformer import Params
from ilf_jax.records import Target
from ilf_jax.training import packing
from ilf_jax.training.objectives import token_losses
from ilf_jax.training.objectives.objective import Encode, LearnedFrom, Objective, Sums, refuse_prompt_loss

TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class SelfDistillation(Objective):
    """sum_t KL(pi(. | c, x0_<t) || sg pi_T(. | c, f, x0_<t)) over the draft's tokens and its end.

    SDPO, arXiv 2601.20802. The divergence is that of k + 1 events: the teacher's k likeliest tokens, and all others
    together; k = V is the whole distribution. The teacher pi_T is the policy that training starts from, the current one
    or its moving average; no gradient goes through it. Drafts are the recorded ones, or the policy's own of this
    iteration.
    """

    top_k: int = 20

    beside = (TEACHER,)

    @classmethod
    def make(cls, architecture: ModelConfig, compute: ComputeOptions, settings: Training) -> "SelfDistillation":
        """Reads teacher and teacher_top_k of config.finetune."""
        assert isinstance(settings, Finetune)
        made = {"current": cls, "frozen": _FrozenTeacher, "ema": _AveragedTeacher}[settings.teacher]
        return made(architecture, compute, settings.remat, None, settings.teacher_top_k)

    @classmethod
    def check(cls, config: Config, model: ModelConfig) -> None:
        """See `Objective`."""
        refuse_prompt_loss(config)
        if config.finetune.teacher_top_k > model.vocab_size:
            raise InputError(f"config.finetune.teacher_top_k={config.finetune.teacher_top_k}: "
                             f"{config.policy.checkpoint} has a vocabulary of {model.vocab_size} tokens")

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """The draft, and what its teacher reads; nothing where there is no feedback."""
        assert isinstance(settings, Finetune) and learned.draft is not None and learned.feedback is not None
        draft, feedback = learned.draft.text, learned.feedback.text
        if not draft.strip() or not feedback.strip():
            return []
        return [Target(learned.example.id, learned.prompt, draft, "initial", context=settings.teacher_reads,
                       draft=draft, feedback=feedback)]

    @classmethod
    def training_example(cls, target: Target, encode: Encode) -> packing.TrainingExample:
        """The draft behind the policy's prompt, and beside it the same tokens behind the teacher's."""
        (student,), (teacher,) = encode([target.completion]), encode([target.completion], target.context)
        # Behind another prompt a text's first tokens may be others; the teacher is asked about the student's.
        prompt = teacher.tokens[: _prompt_length(teacher)]
        written = student.tokens[_prompt_length(student) :]
        weights = np.zeros(len(prompt) + len(written), np.float32)
        weights[len(prompt) :] = 1.0
        beside = packing.TrainingExample(np.concatenate([prompt, written]), weights)
        return dataclasses.replace(student.scaled(target.weight), beside={TEACHER: beside})

    def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
        """See `Objective`."""
        teacher = jax.lax.stop_gradient(params if self.reference == "none" else ref_params)
        theirs = self.hidden(teacher, packing.of_beside(batch, TEACHER))
        losses_RxT = divergence(self.architecture, params, self.hidden(params, batch), teacher,
                                jax.lax.stop_gradient(theirs), self.top_k, self.compute.num_devices)
        weights = batch["weights"]
        return jnp.sum(jnp.where(weights != 0, losses_RxT, 0.0) * weights), jnp.sum(weights), {}


class _FrozenTeacher(SelfDistillation):
    reference = "frozen"


class _AveragedTeacher(SelfDistillation):
    reference = "ema"


def divergence(
    config: ModelConfig, params: Params, hidden_RxTxD: jax.Array, teacher: Params, theirs_RxTxD: jax.Array,
    top_k: int, num_devices: int = 1,
) -> jax.Array:
    """KL(student || teacher) over the teacher's top tokens and the rest, in nats, R x T.

    Logits exist for a chunk of positions at a time.

    Args:
        config: architecture of both.
        params, hidden_RxTxD: of the student.
        teacher, theirs_RxTxD: params and hidden states of the teacher.
        top_k: tokens that are told apart.
        num_devices: devices that share the logits.
    """

    @jax.checkpoint
    def of_chunk(hidden: jax.Array, theirs: jax.Array) -> jax.Array:
        their_logits = transformer.unembed(config, teacher, theirs)
        _, top = jax.lax.top_k(their_logits, top_k)
        ours = _events(transformer.unembed(config, params, hidden), top)
        their = _events(their_logits, top)
        # 0 log 0 = 0: with k = V nothing is left for the rest, under either model.
        possible = jnp.isfinite(ours)
        difference = jnp.where(possible, ours, 0.0) - jnp.where(possible, their, 0.0)
        return jnp.sum(jnp.where(possible, jnp.exp(jnp.where(possible, ours, 0.0)), 0.0) * difference, axis=-1)

    chunk = token_losses.chunk_size(config, hidden_RxTxD.shape[1], 2, num_devices)
    pieces = [of_chunk(hidden_RxTxD[:, i : i + chunk], theirs_RxTxD[:, i : i + chunk])
              for i in range(0, hidden_RxTxD.shape[1], chunk)]
    return jnp.concatenate(pieces, axis=1)


def _events(logits: jax.Array, top: jax.Array) -> jax.Array:
    """Log-probabilities of the tokens `top`, and of all others together, ... x (k + 1)."""
    whole = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    of_top = jnp.take_along_axis(logits, top, axis=-1) - whole
    if top.shape[-1] == logits.shape[-1]:
        return of_top
    others = jnp.put_along_axis(logits, top, -jnp.inf, axis=-1, inplace=False)
    return jnp.concatenate([of_top, jax.nn.logsumexp(others, axis=-1, keepdims=True) - whole], axis=-1)


def _prompt_length(example: packing.TrainingExample) -> int:
    """Tokens before the first one that is predicted."""
    return int(np.flatnonzero(example.weights)[0])
