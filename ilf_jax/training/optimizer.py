"""AdamW with a warm-up and a schedule, by optax."""

import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Hyperparameters; `num_steps` is how long the schedule runs."""

    learning_rate: float
    schedule: str  # "constant", "linear" or "cosine"
    num_steps: int
    warmup_steps: int
    weight_decay: float
    clip_norm: float  # 0: no clipping
    b1: float = 0.9
    b2: float = 0.999


def learning_rate_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Linear warm-up to the peak, then constant, or down to 0 linearly or as a cosine."""
    peak, rest = config.learning_rate, max(1, config.num_steps - config.warmup_steps)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }[config.schedule]
    if config.warmup_steps == 0:
        return after
    # Starts above zero: a first step that changes nothing is a step lost.
    rise = optax.linear_schedule(peak / (config.warmup_steps + 1), peak, config.warmup_steps)
    return optax.join_schedules([rise, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW."""
    adamw = optax.adamw(
        learning_rate_schedule(config), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay
    )
    if config.clip_norm == 0:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
