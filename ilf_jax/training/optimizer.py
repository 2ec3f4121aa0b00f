"""AdamW by optax, and the learning rate that each of its steps is taken with."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from ilf_jax.config_sections import Training


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What is compiled into the train step; the learning rate is not."""

    weight_decay: float
    clip_norm: float  # 0: no clipping
    b1: float = 0.9
    b2: float = 0.999

    @classmethod
    def from_settings(cls, settings: Training) -> "OptimizerConfig":
        """What a section of the config says."""
        return cls(settings.weight_decay, settings.clip_norm, b2=settings.b2)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (Loshchilov & Hutter 2019) short of its last factor, -learning rate."""
    clip = [_clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(
        *clip, optax.scale_by_adam(b1=config.b1, b2=config.b2), optax.add_decayed_weights(config.weight_decay)
    )


def _clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """As optax's, but each gradient is multiplied by one number.

    XLA fuses that into what Adam does next; optax's division of every element it writes out, a second copy of all
    gradients.
    """

    def clip(grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None) -> tuple:
        factor = jnp.minimum(1.0, largest / jnp.maximum(optax.tree.norm(grads), 1e-30))
        return jax.tree.map(lambda g: g * factor, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up to the peak, then constant, or down to 0 linearly or as a cosine.

    The arithmetic of optax's linear_schedule and cosine_decay_schedule on the host, without a program on the device.
    """

    kind: str  # "constant", "linear" or "cosine"
    peak: float
    num_steps: int
    warmup_steps: int

    def __call__(self, step: int) -> float:
        """Learning rate of step 0, 1, ..."""
        if step < self.warmup_steps:
            # Starts above zero: a first step that changes nothing is a step lost.
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        done = min(1.0, (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps))
        left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.peak * left[self.kind]
