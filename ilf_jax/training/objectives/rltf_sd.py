"""Refinements by what they gain: the second turn's reward over the first turn's, distilled into the first turn."""

import dataclasses

import jax
import jax.numpy as jnp

from ilf_jax.config import Config
from ilf_jax.config_sections import Training
from ilf_jax.errors import InputError
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.transformer import Params
from ilf_jax.records import Target
from ilf_jax.training import packing
from ilf_jax.training.objectives.nll import NextToken
from ilf_jax.training.objectives.objective import Encode, LearnedFrom, Sums, refuse_prompt_loss

UNREWARDED = "reviewers_refinement_has_no_reward"


class SelfDistilledReward(NextToken):
    """-(R(y1) - R(y0)) log pi(y1 | c), summed over the tokens of all refinements y1 of the draft y0.

    RLTF-SD, arXiv 2602.02482: the baseline is the mean reward of the first turn, of which a document has one draft
    here. R is config.score.method. Sums over tokens, each of weight 1, whatever its advantage. A reviewer's refinement
    has no reward, and is not learned.
    """

    advantages = True

    @classmethod
    def check(cls, config: Config, model: ModelConfig) -> None:
        """See `Objective`."""
        refuse_prompt_loss(config)
        if config.finetune.target != "refinement" or config.refine.source == "policy":
            raise InputError("config.finetune.objective='rltf_sd' learns from all refinements: it needs "
                             "config.finetune.target='refinement' and config.refine.source='refiner'")
        if not config.score.draft:
            raise InputError("config.finetune.objective='rltf_sd' needs the draft's reward beside its refinements': "
                             "set config.score.draft=True")

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """The refinements, each with what it gains on the draft; the reward speaks for those of no use, too."""
        assert learned.candidates is not None and learned.scored is not None and learned.scored.draft_score is not None
        return [Target(learned.example.id, learned.prompt, text, "refinement",
                       advantage=score - learned.scored.draft_score)
                for text, score in zip(learned.candidates.texts, learned.scored.scores, strict=True) if text.strip()]

    @classmethod
    def counted(cls, learned: LearnedFrom, settings: Training) -> str | None:
        """Documents with a reviewer's refinement."""
        return UNREWARDED if learned.overruled else None

    @classmethod
    def training_example(cls, target: Target, encode: Encode) -> packing.TrainingExample:
        """See `Objective`."""
        (example,) = encode([target.completion])
        return dataclasses.replace(example.scaled(target.weight), advantage=target.advantage)

    def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
        """See `Objective`. Logs the mean advantage."""
        gains = batch["weights"] * batch["advantages"]
        weight = jnp.sum(batch["weights"])
        return -jnp.sum(self.logprobs(params, batch) * gains), weight, {"advantage": jnp.sum(gains)}
