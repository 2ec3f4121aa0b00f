"""The protocol of objectives: what is minimised, and what a document teaches.

An objective returns sums, not means, so that gradient accumulation and sharding are exact.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Protocol

import jax

from ilf_jax.config import Config
from ilf_jax.config_sections import Training
from ilf_jax.errors import InputError
from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import FLOAT32, ComputeOptions
from ilf_jax.models.transformer import Params
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored, Target
from ilf_jax.training.objectives import token_losses
from ilf_jax.training.packing import TrainingExample

CONTEXTS = ("policy", "feedback", "demonstration", "refine", "critic")


class Encode(Protocol):
    """Puts texts about one document into tokens."""

    def __call__(self, texts: Sequence[str], context: str = "policy") -> list[TrainingExample]:
        """Each text behind the same prompt and followed by the end token. All fit into max_length.

        Args:
            texts: what is to be learned.
            context: of `CONTEXTS`, what the prompt holds: "policy": the document; "feedback": document and the
                target's feedback; "demonstration": document and refinement; "refine": the refiner's prompt; "critic":
                that which asks for feedback on the draft.

        Returns:
            Loss weights are 1 on the text, and prompt_loss_weight on the policy's prompt.
        """


Sums = tuple[jax.Array, jax.Array, dict[str, jax.Array]]
REFERENCES = ("none", "logprobs", "frozen", "ema")


@dataclasses.dataclass(frozen=True)
class LearnedFrom:
    """What the stages before finetuning recorded about one document; None where the run has no such stage.

    Attributes:
        prompt: the policy's prompt.
        text: what config.finetune.target picked; "" teaches nothing.
        source: as of `records.Target`.
        usable: for each candidate, whether the task can use it.
        feedback_prompt: the policy's prompt with the feedback in it.
        overruled: `text` is a reviewer's refinement, which this iteration neither sampled nor scored.
    """

    example: Example
    prompt: str
    text: str
    source: str
    draft: Draft | None = None
    feedback: Feedback | None = None
    candidates: Candidates | None = None
    scored: Scored | None = None
    usable: tuple[bool, ...] = ()
    feedback_prompt: str = ""
    overruled: bool = False


@dataclasses.dataclass(frozen=True)
class Objective:
    """Base class of objectives. A subclass needs only `__call__`; by default a document teaches the picked text.

    Objects are static arguments of the train step: equal ones compile once. A subclass that adds fields is a frozen
    dataclass itself.

    Class attributes:
        reference: which second model `ref_params` are.
            "none": `ref_params` are {}.
            "logprobs": `ref_params` are {}; the batch holds `reference_logprobs`, R x T, the log-probabilities of the
                targets under the model that training starts from. They are computed once per example.
            "frozen": a copy of the params that training starts from.
            "ema": an exponential moving average of the trained params. It is part of the training checkpoint.
        ema_decay: with "ema", how much of the average a step keeps.
        beside: names of the texts that examples have beside them, see `packing.TrainingExample`.
        advantages: whether examples have an advantage.

    Attributes:
        architecture: of the model that is trained.
        compute: precision and kernels.
        remat: see `transformer.Transformer`.
        settings: the section of the config that describes this training.
    """

    architecture: ModelConfig
    compute: ComputeOptions = FLOAT32
    remat: str = "none"
    settings: Training | None = None

    reference: ClassVar[str] = "none"
    ema_decay: ClassVar[float] = 0.99
    beside: ClassVar[tuple[str, ...]] = ()
    advantages: ClassVar[bool] = False

    def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
        """The loss of a batch.

        Args:
            params: of the whole model; gradients are taken by those of them that are trained.
            ref_params: of the reference, whole too; {} without one.
            batch: arrays of `packing.assemble`.

        Returns:
            (Sum of the loss, in nats; sum of the weights; sums to log: each is divided by the sum of the weights.)
        """
        raise NotImplementedError

    @classmethod
    def make(cls, architecture: ModelConfig, compute: ComputeOptions, settings: Training) -> "Objective":
        """The objective of a training."""
        return cls(architecture, compute, settings.remat, settings)

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """What one document teaches, by default the picked text. An empty list teaches nothing."""
        if not learned.text.strip():
            return []
        return [Target(learned.example.id, learned.prompt, learned.text, learned.source)]

    @classmethod
    def check(cls, config: Config, model: ModelConfig) -> None:
        """Raises InputError if a run's configuration lacks what this objective needs; called before any work.

        Args:
            config: of the run, or of one of its baselines.
            model: architecture of the policy.
        """
        del config, model

    @classmethod
    def counted(cls, learned: LearnedFrom, settings: Training) -> str | None:
        """The metric that counts this document among those from which nothing, or less, is learned."""
        del learned, settings
        return None

    @classmethod
    def training_example(cls, target: Target, encode: Encode) -> TrainingExample:
        """The tokens and loss weights of a target.

        Called more than once for a target, until all that it encodes has been tokenized together with other targets';
        so what it asks of `encode` follows from its arguments.
        """
        (example,) = encode([target.completion], target.context)
        return example.scaled(target.weight)

    def logprobs(self, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        """Log-probability of each target in nats, R x T, float32; 0 on padding."""
        return token_losses.sequence_logprobs(
            self.architecture, params, batch, compute=self.compute, remat=self.remat)

    def logits(self, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        """Logits of the distributions that predict the targets, R x T x V, float32; undefined on padding.

        They take R x T x V x 4 bytes, and as much again in the backward pass; `logprobs` takes a small part of that.
        """
        hidden = self.hidden(params, batch)
        return transformer.unembed(self.architecture, params, hidden)

    def hidden(self, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        """Hidden states that predict the targets, R x T x D; undefined on padding."""
        return token_losses.hidden_at_targets(self.architecture, params, batch, self.compute, self.remat)


def refuse_prompt_loss(config: Config) -> None:
    """Raises InputError if prompts are to be trained by a loss that is about outputs."""
    if config.finetune.prompt_loss_weight:
        raise InputError(f"config.finetune.prompt_loss_weight={config.finetune.prompt_loss_weight} does not go with "
                         f"objective={config.finetune.objective!r}, a loss about outputs; set it to 0")
