"""Prompts in, samples out: batches on the device, and places refilled where there are more prompts than those."""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.models import flops, padding
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import Sampling
from ilf_jax.steps import refine_step

# A free place waits until this part of a batch's places is free, so that prompts are prefilled together.
_REFILLED_PART = 4


def refine_program(placement: Placement) -> jax.stages.Wrapped:
    """`steps.refine.refine_step`, jitted."""
    return placement.jit(refine_step.refine_step, static_argnames=("config", "max_new_tokens", "compute"))


def start_program(placement: Placement) -> jax.stages.Wrapped:
    """`steps.refine.start_step`, jitted; slots stay where the mesh has them."""
    return placement.jit(refine_step.start_step, static_argnames=("config", "max_new_tokens", "compute"),
                         out_shardings=None)


def refill_program(placement: Placement) -> jax.stages.Wrapped:
    """`steps.refine.refill_step`, jitted, in the memory of the slots before."""
    return placement.jit(refine_step.refill_step, static_argnames=("config", "compute"), donate_argnames="slots",
                         out_shardings=None)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generation: token ids (the end token included), their log-probabilities in nats, and how it ended."""

    text: str
    tokens: np.ndarray
    logprobs: np.ndarray
    stopped: bool


@dataclasses.dataclass(frozen=True)
class Generator:
    """Samples from one language model with one way of sampling.

    Attributes:
        batch_size: documents that are worked on together.
        stop: an output is cut at the first of these strings.
        row_lengths: what prompts are padded to, see `LanguageModel.row_lengths`; without them, each batch is padded to
            its bucket.
        forced_length: nothing ends an output before max_new_tokens (for measurements).
    """

    lm: LanguageModel
    sampling: Sampling
    max_new_tokens: int
    batch_size: int
    stop: Sequence[str]
    row_lengths: Sequence[int] = ()
    forced_length: bool = False

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Tokens that end a row, V: end tokens, and tokens that hold a whole stop string."""
        ends = np.zeros(self.lm.architecture.vocab_size, bool)
        if not self.forced_length:
            ends[list(self.lm.tokenizer.stop_ids)] = True
            for token, text in enumerate(self.lm.tokenizer.token_texts):
                if any(string in text for string in self.stop):
                    ends[token] = True
        return ends

    def start(self, prompts: Sequence[Encoded], keys_BxCx2: np.ndarray) -> Pending[list[list[Sample]]]:
        """Sets the device to work on C samples for each prompt and returns; what it returns waits for the samples.

        Of more than `batch_size` prompts, the next one takes the place of the first that is finished; what a prompt
        gets does not depend on that.
        """
        work = self._batch if len(prompts) <= self.batch_size else self._refilling
        generated = work([p.ids for p in prompts], keys_BxCx2)

        def samples() -> list[list[Sample]]:
            out = performance.fetch(generated)
            return [
                [self._sample(out.tokens_BxCxL[b, c][mask], out.logprobs_BxCxL[b, c][mask], bool(out.stopped_BxC[b, c]))
                 for c, mask in enumerate(masks_CxL)]
                for b, masks_CxL in enumerate(out.mask_BxCxL[: len(prompts)])
            ]

        return Pending(samples)

    def work(self, prompt: Encoded, new_tokens: Sequence[int]) -> performance.Work:
        """What it takes to sample so many tokens for each of a prompt's candidates."""
        rows, tokens = len(new_tokens), sum(new_tokens)
        return performance.Work(len(prompt.ids) + tokens, flops.generation(
            self.lm.architecture, prompts=1, candidates=rows, prompt_tokens=len(prompt.ids), new_tokens=tokens / rows))

    def _sample(self, tokens: np.ndarray, logprobs: np.ndarray, stopped: bool) -> Sample:
        tokenizer = self.lm.tokenizer
        ended = stopped and int(tokens[-1]) in tokenizer.stop_ids
        text = tokenizer.decode(tokens[:-1].tolist() if ended else tokens.tolist())
        cuts = [at for string in self.stop if (at := text.find(string)) >= 0]
        return Sample(text[: min(cuts)] if cuts else text, tokens, logprobs, stopped or bool(cuts))

    def _batch(self, ids: Sequence[Sequence[int]], keys_BxCx2: np.ndarray) -> decode.Generated:
        """One batch, filled up where there are fewer prompts. The device may still be at work."""
        length = padding.row_length(max(map(len, ids)), self.row_lengths)
        arrays = self._arrays(ids, keys_BxCx2, self.lm.placement.padded(self.batch_size), length)
        return refine_program(self.lm.placement)(
            self.lm.architecture, self.lm.params, *arrays, self.sampling, self.ends, max_new_tokens=self.max_new_tokens,
            compute=self.lm.compute,
        )

    def _refilling(self, ids: Sequence[Sequence[int]], keys_BxCx2: np.ndarray) -> decode.Generated:
        """More prompts than places, longest first; freed places are given out some at a time."""
        lm = self.lm
        order = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i))
        places, at_once = map(lm.placement.padded, (self.batch_size, max(1, self.batch_size // _REFILLED_PART)))
        length = padding.row_length(len(ids[order[0]]), self.row_lengths)
        held: list[int | None] = [*order[:places], *[None] * (places - len(order))]
        waiting = collections.deque(order[places:])
        found: dict[int, decode.Generated] = {}

        def arrays(which: Sequence[int], batch: int) -> tuple[jax.Array, ...]:
            return self._arrays([ids[i] for i in which], keys_BxCx2[list(which)], batch, length)

        def until() -> np.int32:
            """How many places must be free before the host looks again; where they are, no step is made."""
            return np.int32(min(at_once, len(waiting)) if waiting else places)

        slots = start_program(lm.placement)(
            lm.architecture, lm.params, *arrays(order[:places], places), self.sampling, self.ends, until(),
            max_new_tokens=self.max_new_tokens, compute=lm.compute,
        )
        while True:
            finished, out = performance.fetch((slots.finished, slots.out))
            for place, i in enumerate(held):
                if i is not None and finished[place]:
                    found[i] = jax.tree.map(lambda rows, place=place: rows[place], out)
                    held[place] = None
            if len(found) == len(ids):
                return jax.tree.map(lambda *rows: np.stack(rows), *(found[i] for i in range(len(ids))))
            free = [place for place, i in enumerate(held) if i is None][: min(at_once, len(waiting))]
            new = [waiting.popleft() for _ in free]
            for place, i in zip(free, new, strict=True):
                held[place] = i
            at = np.array([*free, *[-1] * (at_once - len(free))], np.int32)
            slots = refill_program(lm.placement)(
                lm.architecture, lm.params, slots, *arrays(new, at_once), lm.placement.batch(at), self.sampling,
                self.ends, until(), compute=lm.compute,
            )

    def _arrays(
        self, ids: Sequence[Sequence[int]], keys: np.ndarray, batch: int, length: int
    ) -> tuple[jax.Array, ...]:
        """Tokens, lengths and keys of a batch; rows that only fill it up have length 0."""
        tokens, lengths = self.lm.pad(ids, batch, length)
        keys = np.concatenate([keys, np.zeros((batch - len(ids), *keys.shape[1:]), np.uint32)])
        return self.lm.placement.batch((tokens, lengths, keys))
