"""Group-relative policy optimisation: the control that knows a scalar reward, and no words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax.config import Config
from ilf_jax.config_sections import Finetune, Training
from ilf_jax.errors import InputError
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.transformer import Params
from ilf_jax.records import Target
from ilf_jax.training import packing
from ilf_jax.training.objectives.objective import Encode, LearnedFrom, Objective, Sums, refuse_prompt_loss

EQUAL = "groups_of_equal_rewards"
_LEAST_SPREAD = 1e-4  # added to the standard deviation, as TRL does


def group_advantages(rewards: np.ndarray) -> np.ndarray:
    """(r - mean) / (std + 1e-4) of one document's drafts, with the unbiased std; 0 where all rewards are equal."""
    rewards = np.asarray(rewards, np.float64)
    if np.ptp(rewards) == 0:
        return np.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + _LEAST_SPREAD)


@dataclasses.dataclass(frozen=True)
class Grpo(Objective):
    """1/|y| sum_t -min(r_t A, clip(r_t, 1 - e, 1 + e) A) + k (exp(d_t) - d_t - 1), summed over fresh drafts y.

    Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300, eq. 3 and 4): r_t = pi / pi_old of token t,
    d_t = log ref - log pi, and A the reward normalised within the group of one document's N drafts. pi_old and ref are
    the policy that the iteration's training starts from, as in the paper's algorithm with one draw an iteration. A
    draft weighs 1. Tokens are those of the text as it is read; of a draft that was cut at the limit, the end is not
    learned, for it was never drawn.
    """

    clip_ratio: float = 0.2
    kl_weight: float = 0.0

    reference = "logprobs"
    advantages = True

    @classmethod
    def make(cls, architecture: ModelConfig, compute: ComputeOptions, settings: Training) -> "Grpo":
        """Reads clip_ratio and kl_weight of config.finetune."""
        assert isinstance(settings, Finetune)
        return cls(architecture, compute, settings.remat, None, settings.clip_ratio, settings.kl_weight)

    @classmethod
    def check(cls, config: Config, model: ModelConfig) -> None:
        """See `Objective`."""
        refuse_prompt_loss(config)
        if config.refine.source != "policy" or config.finetune.target != "refinement":
            raise InputError("config.finetune.objective='grpo' learns from fresh drafts of the policy: it needs "
                             "config.refine.source='policy' and config.finetune.target='refinement'")
        if config.refine.num_candidates == 1:
            raise InputError("config.refine.num_candidates=1 with config.finetune.objective='grpo': a group of one has "
                             "no advantage; draw 2 or more")
        if config.iterations > 1 and (config.finetune.init, config.finetune.data) != ("previous", "new"):
            raise InputError("config.finetune.objective='grpo' is on-policy: with config.iterations above 1 it needs "
                             "config.finetune.init='previous' and data='new'")

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """The drafts, each with its advantage."""
        assert learned.candidates is not None and learned.scored is not None
        advantages = group_advantages(np.array(learned.scored.scores))
        return [Target(learned.example.id, learned.prompt, text, "policy", advantage=float(advantage), ended=stopped)
                for text, stopped, advantage in zip(learned.candidates.texts, learned.candidates.stopped, advantages,
                                                    strict=True) if text.strip()]

    @classmethod
    def counted(cls, learned: LearnedFrom, settings: Training) -> str | None:
        """Groups in which all rewards are equal."""
        assert learned.scored is not None
        return EQUAL if len(set(learned.scored.scores)) == 1 else None

    @classmethod
    def training_example(cls, target: Target, encode: Encode) -> packing.TrainingExample:
        """See `Objective`. Each token weighs 1/|y|."""
        (example,) = encode([target.completion])
        if not target.ended:
            example = packing.TrainingExample(example.tokens[:-1], example.weights[:-1])
        return dataclasses.replace(example.scaled(target.weight / example.num_targets), advantage=target.advantage)

    def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
        """See `Objective`. Logs the divergence from the reference, and the share of clipped tokens."""
        weights, advantages = batch["weights"], batch["advantages"]
        log_ratio = self.logprobs(params, batch) - batch["reference_logprobs"]
        ratio = jnp.exp(log_ratio)
        clipped = jnp.clip(ratio, 1 - self.clip_ratio, 1 + self.clip_ratio)
        gain = jnp.minimum(ratio * advantages, clipped * advantages)
        divergence = jnp.exp(-log_ratio) + log_ratio - 1
        loss = jnp.sum((self.kl_weight * divergence - gain) * weights)
        return loss, jnp.sum(weights), {"kl_start": jnp.sum(divergence * weights),
                                        "clipped": jnp.sum((clipped != ratio) * weights)}
