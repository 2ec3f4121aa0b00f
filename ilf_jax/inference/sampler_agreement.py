"""Whether the sampler and the trainer are the same model: sampled tokens, scored again by the training forward pass.

Both compute log p of the same tokens, one token by token behind a cache, the other whole rows at once. What they differ
by is rounding, unless one of them has a wrong mask, wrong positions or other weights.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.inference.generation import Sample
from ilf_jax.inference.language_model import Encoded, LanguageModel


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Absolute differences of log-probabilities over the sampled tokens.

    Attributes:
        mean: nats.
        share: of tokens that differ by more than `Limits.token`.
        largest: nats. Reported only: in bfloat16 a few tokens in a hundred lie far off in a right program, too.
    """

    mean: float
    share: float
    largest: float


@dataclasses.dataclass(frozen=True)
class Limits:
    """What rounding explains.

    Attributes:
        token: nats; no more than `share` of the tokens may differ by more.
        mean: nats, over all tokens.
        share: of tokens.
    """

    token: float
    mean: float
    share: float


LIMITS = {"float32": Limits(token=1e-3, mean=1e-3, share=0.05), "bfloat16": Limits(token=0.3, mean=0.06, share=0.02)}
"""By precision. benchmarks/RESULTS.md, "Sampler and trainer", has what a right program and faulty ones measure."""


def measure(
    lm: LanguageModel, drawn: Sequence[tuple[Encoded, Sequence[Sample]]], samples_each: int, batch_size: int,
    max_mean: float | None = None,
) -> Agreement:
    """Scores samples again and compares.

    Args:
        lm: the model that they were drawn from.
        drawn: prompts and their samples.
        samples_each: how many of each prompt's samples are compared.
        batch_size: rows of the one program; at least as many as there are samples to compare.
        max_mean: takes the place of the precision's limits.

    Raises:
        InputError: they differ by more than rounding does, so training would learn from another distribution than the
            one that was sampled.
    """
    compared = [(prompt, sample) for prompt, samples in drawn for sample in samples[:samples_each]]
    again = lm.logprobs([([*prompt.ids, *sample.thought], sample.tokens.tolist()) for prompt, sample in compared],
                        batch_size)
    gaps = np.concatenate([np.abs(logprobs - sample.logprobs)
                           for logprobs, (_, sample) in zip(again, compared, strict=True)])
    precision = str(np.dtype(lm.compute.dtype))
    limits = LIMITS[precision]
    found = Agreement(float(gaps.mean()), float(np.mean(gaps > limits.token)), float(gaps.max()))
    if max_mean is not None:
        # Written so that NaN is refused, too.
        if not found.mean <= max_mean:
            raise InputError(f"sampler and trainer disagree by {found.mean:.3g} nats on average; allowed is "
                             f"config.refine.max_logprob_gap_mean={max_mean}")
    elif not (found.mean <= limits.mean and found.share <= limits.share):
        raise InputError(
            f"sampler and trainer disagree by {found.mean:.3g} nats on average, and by more than {limits.token} on "
            f"{found.share:.1%} of the tokens; {precision} explains {limits.mean} and {limits.share:.0%}. If that is "
            "right for this model, set config.refine.max_logprob_gap_mean")
    return found
