"""Direct preference optimisation: the target rather than the draft, or than the worst candidate."""

import dataclasses

import jax
import jax.numpy as jnp

from ilf_jax.config import Config
from ilf_jax.config_sections import Finetune, Training
from ilf_jax.errors import InputError
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.transformer import Params
from ilf_jax.records import Target
from ilf_jax.training import packing
from ilf_jax.training.objectives.objective import Encode, LearnedFrom, Objective, Sums, refuse_prompt_loss
from ilf_jax.training.objectives.sequences import sums_by_text, weights_by_text

SAME = "draft_equals_refinement"


@dataclasses.dataclass(frozen=True)
class Dpo(Objective):
    """-(1 - s) log sigmoid(m) - s log sigmoid(-m), m = beta [log pi/ref(x1 | c) - log pi/ref(x0 | c)].

    Rafailov et al. 2023 (arXiv 2305.18290, eq. 7), with label smoothing s (Mitchell 2023, conservative DPO). x1 is the
    target, x0 the draft or the candidate with the lowest score, ref the policy that training starts from. The
    probability of a text includes that of its end. Sums over pairs; a pair weighs 1.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    reference = "logprobs"

    @classmethod
    def make(cls, architecture: ModelConfig, compute: ComputeOptions, settings: Training) -> "Dpo":
        """Reads beta and label_smoothing of config.finetune."""
        assert isinstance(settings, Finetune)
        return cls(architecture, compute, settings.remat, None, settings.beta, settings.label_smoothing)

    @classmethod
    def check(cls, config: Config, model: ModelConfig) -> None:
        """See `Objective`."""
        settings = config.finetune
        if settings.beta == 0:
            raise InputError("config.finetune.beta=0 with objective='dpo': all pairs would have the same loss; 0.1 is "
                             "usual")
        refuse_prompt_loss(config)
        if settings.rejected == "worst" and settings.target != "refinement":
            raise InputError("config.finetune.rejected='worst' compares candidates: it needs config.finetune.target="
                             f"'refinement', not {settings.target!r}")
        if settings.rejected == "worst" and config.refine.num_candidates == 1:
            raise InputError("config.finetune.rejected='worst' with config.refine.num_candidates=1: the best candidate "
                             "is the worst; draw 2 or more")
        if config.data.fields.preferred and (settings.target, settings.rejected) != ("human_refinement", "draft"):
            raise InputError("config.finetune.objective='dpo' with config.data.fields.preferred learns from recorded "
                             "comparisons by config.finetune.target='human_refinement' and rejected='draft', not "
                             f"target={settings.target!r} and rejected={settings.rejected!r}")
        if settings.rejected == "draft" and settings.target == "initial":
            raise InputError("config.finetune.objective='dpo' with target='initial' would prefer the draft to itself; "
                             "use another config.finetune.target")
        if settings.rejected == "draft" and config.refine.source == "policy":
            raise InputError("config.finetune.rejected='draft' with config.refine.source='policy': no draft is written "
                             "beside the candidates; use rejected='worst'")

    @classmethod
    def targets(cls, learned: LearnedFrom, settings: Training) -> list[Target]:
        """The pair; none where both texts are equal or one is empty."""
        rejected = cls._rejected(learned, settings)
        if not learned.text.strip() or not rejected.strip() or learned.text == rejected:
            return []
        return [Target(learned.example.id, learned.prompt, learned.text, learned.source, rejected=rejected)]

    @classmethod
    def counted(cls, learned: LearnedFrom, settings: Training) -> str | None:
        """Pairs of equal texts are left out, and counted."""
        return SAME if learned.text == cls._rejected(learned, settings) else None

    @classmethod
    def _rejected(cls, learned: LearnedFrom, settings: Training) -> str:
        assert isinstance(settings, Finetune)
        if settings.rejected == "draft":
            assert learned.draft is not None
            return learned.draft.text
        assert learned.candidates is not None and learned.scored is not None
        scores = learned.scored.scores
        return learned.candidates.texts[min(range(len(scores)), key=scores.__getitem__)]

    @classmethod
    def training_example(cls, target: Target, encode: Encode) -> packing.TrainingExample:
        """Both texts behind the same prompt, in one row."""
        better, worse = encode([target.completion, target.rejected])
        return packing.pair(better, worse).scaled(target.weight)

    def __call__(self, params: Params, ref_params: Params, batch: dict[str, jax.Array]) -> Sums:
        """See `Objective`. Logs the mean margin, and how often it is positive."""
        ratios_RxS = sums_by_text(batch, self.logprobs(params, batch) - batch["reference_logprobs"])
        margins = self.beta * (ratios_RxS[:, 0::2] - ratios_RxS[:, 1::2])
        weights = weights_by_text(batch)[:, 0::2]
        losses = ((1 - self.label_smoothing) * jax.nn.softplus(-margins)
                  + self.label_smoothing * jax.nn.softplus(margins))
        return jnp.sum(losses * weights), jnp.sum(weights), {
            "margin": jnp.sum(margins * weights), "pair_accuracy": jnp.sum((margins > 0) * weights)}
