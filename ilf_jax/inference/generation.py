"""Prompts in, samples out: batches on the device, and slots refilled where there are more prompts than slots."""

import collections
import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ilf_jax.inference import finite, thinking
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.inference.look_ahead import LookAhead
from ilf_jax.models import flops, padding
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import Sampling
from ilf_jax.steps import refine_step

# A free slot waits until one in so many slots is free, so that prompts are prefilled together.
_REFILLED_PART = 4


def refine_program(placement: Placement) -> jax.stages.Wrapped:
    """`steps.refine_step.refine_step`, jitted."""
    return placement.jit(refine_step.refine_step, static_argnames=("config", "max_new_tokens", "compute"))


def start_program(placement: Placement) -> jax.stages.Wrapped:
    """`steps.refine_step.start_step`, jitted; slots stay where the mesh has them."""
    return placement.jit(refine_step.start_step, static_argnames=("config", "max_new_tokens", "compute"),
                         out_shardings=None)


def refill_program(placement: Placement) -> jax.stages.Wrapped:
    """`steps.refine_step.refill_step`, jitted, in the memory of the slots before."""
    return placement.jit(refine_step.refill_step, static_argnames=("config", "compute"), donate_argnames="slots",
                         out_shardings=None)


def prefill_program(placement: Placement) -> jax.stages.Wrapped:
    """`sampling.decode.start`, jitted; slots stay where the mesh has them."""
    return placement.jit(decode.start, static_argnames=("config", "max_new_tokens", "compute"), out_shardings=None)


def decode_program(placement: Placement) -> jax.stages.Wrapped:
    """`sampling.decode.run`, jitted, in the memory of the slots before."""
    return placement.jit(decode.run, static_argnames=("config", "of_candidates", "compute"), donate_argnames="slots",
                         out_shardings=None)


# Programs that a length costs where slots are refilled: one that starts them, one that refills them. A model that
# thinks first writes with the like of it.
_REFILLING = 2


def prompt_lengths(
    lm: LanguageModel, prompts: LookAhead, purpose: str, *, refills: bool = False, others: int = 0,
    most: int = padding.MOST_PROGRAMS,
) -> tuple[int, ...]:
    """What the prompts of a stage are padded to: so few lengths that sampling has no more programs than are allowed.

    Args:
        lm: the model that samples.
        prompts: of the stage.
        purpose: of the samples, for the log.
        refills: whether slots are refilled, see `Generator`.
        others: programs that the stage compiles beside these.
        most: programs of the stage.
    """
    others += _REFILLING if lm.thinking_tokens else 0
    return lm.planner.row_lengths(prompts.sampled_tokens, prompts.share, most=most - others,
                                  each=_REFILLING if refills else 1, purpose=purpose)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generation.

    Attributes:
        text: what was written.
        tokens: its ids, the end token included.
        logprobs: theirs, in nats.
        stopped: whether it ended by itself.
        thought: ids between the prompt and the tokens, of a model that thinks first.
    """

    text: str
    tokens: np.ndarray
    logprobs: np.ndarray
    stopped: bool
    thought: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Generator:
    """Samples from one language model with one way of sampling.

    Attributes:
        lm: the language model.
        sampling: temperature, top-k and top-p.
        max_new_tokens: of each sample.
        batch_size: prompts that are worked on together.
        stop: an output is cut at the first of these strings.
        row_lengths: what prompts are padded to, see `prompt_lengths`; without them, each batch is padded to its bucket.
        refills: whether slots are refilled; without it, only where there are more prompts than slots.
        forced_length: nothing ends an output before max_new_tokens (for measurements).
        thinks: what is sampled are thoughts, which end where their block is closed.
    """

    lm: LanguageModel
    sampling: Sampling
    max_new_tokens: int
    batch_size: int
    stop: Sequence[str]
    row_lengths: Sequence[int] = ()
    refills: bool = False
    forced_length: bool = False
    thinks: bool = False

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """What tokens do to a row, V: 1 ends it, as end tokens and those that hold a whole stop string do.

        -1 is never drawn: models have embeddings without a token, to fill their matrices up.
        """
        tokenizer, size = self.lm.tokenizer, self.lm.architecture.vocab_size
        ends = np.zeros(size, np.int8)
        if not self.forced_length:
            ends[list(self.lm.end_ids)] = 1
            for token, text in enumerate(tokenizer.token_texts[:size]):
                if any(string in text for string in self.stop) or (self.thinks and thinking.closes(text)):
                    ends[token] = 1
        ends[tokenizer.vocab_size :] = -1
        ends[[i for i in tokenizer.unknown_ids if i < size]] = -1
        return ends

    def start(self, prompts: Sequence[Encoded], keys_BxCx2: np.ndarray) -> Pending[list[list[Sample]]]:
        """Starts C samples for each prompt and returns at once.

        With more than `batch_size` prompts, a slot whose samples have all ended gets the next prompt. The host decides
        which, inside `result()`; until then the slots and their caches stay in device memory. What a prompt gets does
        not depend on it.

        Args:
            prompts: B of them.
            keys_BxCx2: see `decode.candidate_keys`.

        Returns:
            The C samples of each prompt, in the order of the prompts. Of a model that thinks first, the samples are
            drawn behind its thoughts, for which the host waits in `result()`.
        """
        if self.lm.thinking_tokens and not self.forced_length:
            return self._start_thinking(prompts, keys_BxCx2)
        return self._start_samples(prompts, keys_BxCx2)

    def stream(self, prompt: Encoded, keys_Cx2: np.ndarray) -> Iterator[Sample]:
        """C samples of one prompt, each as soon as it has ended, the same that `start` gives in the order of the keys.

        The prompt is prefilled once and all samples are decoded side by side: a step reads the model's weights once for
        all of them, so that on most devices it takes hardly longer than for one.

        Args:
            prompt: of all samples.
            keys_Cx2: see `decode.candidate_keys`.
        """
        if not self.lm.thinking_tokens or self.forced_length:
            yield from (sample for _, sample in self._stream_samples(prompt, keys_Cx2))
            return
        thinker, writer = self._thinker_and_writer()
        keys_of_outputs = thinking.output_keys(keys_Cx2)
        for c, thoughts in thinker._stream_samples(prompt, keys_Cx2):
            behind = thinking.answer_prompt(self.lm, prompt, thoughts.tokens.tolist())
            for _, sample in writer._stream_samples(behind, keys_of_outputs[c]):
                yield dataclasses.replace(sample, thought=tuple(behind.ids[len(prompt.ids) :]))

    def _stream_samples(self, prompt: Encoded, keys_Cx2: np.ndarray) -> Iterator[tuple[int, Sample]]:
        """(Number, sample) of each candidate, in the order in which they end."""
        lm, rows = self.lm, self.lm.placement.padded(1)
        arrays = self._arrays([prompt.ids], keys_Cx2[None], rows, self._row_length(len(prompt.ids)))
        slots = prefill_program(lm.placement)(
            lm.architecture, lm.params, *arrays, self.sampling, self.ends, max_new_tokens=self.max_new_tokens,
            compute=lm.compute)
        ended: set[int] = set()
        while len(ended) < len(keys_Cx2):
            # Rows that only fill up the batch have ended from the start.
            until = np.int32((rows - 1) * len(keys_Cx2) + len(ended) + 1)
            slots = decode_program(lm.placement)(
                lm.architecture, lm.params, slots, self.sampling, self.ends, until, of_candidates=True,
                compute=lm.compute)
            done_BxC, out = performance.fetch((slots.done_BxC, slots.out))
            for c in sorted(set(np.flatnonzero(done_BxC[0]).tolist()) - ended):
                ended.add(c)
                yield c, self._sample_of(out, 0, c)

    def _thinker_and_writer(self) -> tuple["Generator", "Generator"]:
        """What samples a model's thoughts, and what samples the outputs behind them."""
        thinker = dataclasses.replace(self, max_new_tokens=self.lm.thinking_tokens, stop=(), thinks=True)
        # Thoughts make prompts longer by up to this; one length for all keeps the number of programs down.
        longest = [self.lm.planner.bucket(n + self.lm.room(0)) for n in self.row_lengths[-1:]]
        return thinker, dataclasses.replace(self, row_lengths=longest, refills=True)

    def _start_thinking(self, prompts: Sequence[Encoded], keys_BxCx2: np.ndarray) -> Pending[list[list[Sample]]]:
        thinker, writer = self._thinker_and_writer()

        def write(thoughts: list[list[Sample]]) -> list[list[Sample]]:
            behind = [thinking.answer_prompt(self.lm, prompt, sample.tokens.tolist())
                      for prompt, samples in zip(prompts, thoughts, strict=True) for sample in samples]
            written = iter(writer._start_samples(behind, thinking.output_keys(keys_BxCx2)).result())
            longer = iter(behind)
            return [[dataclasses.replace(next(written)[0], thought=tuple(next(longer).ids[len(prompt.ids) :]))
                     for _ in samples] for prompt, samples in zip(prompts, thoughts, strict=True)]

        return thinker._start_samples(prompts, keys_BxCx2).map(write)

    def _start_samples(self, prompts: Sequence[Encoded], keys_BxCx2: np.ndarray) -> Pending[list[list[Sample]]]:
        refills = self.refills or len(prompts) > self.batch_size
        start = self._start_refilling if refills else self._start_batch
        generated = start([prompt.ids for prompt in prompts], keys_BxCx2)

        def samples(out: decode.Generated) -> list[list[Sample]]:
            return [[self._sample_of(out, b, c) for c in range(out.stopped_BxC.shape[1])] for b in range(len(prompts))]

        return generated.map(samples)

    def work(self, prompt_tokens: int, new_tokens: Sequence[int]) -> performance.Work:
        """What sampling takes for one prompt, given the number of tokens of each of its candidates."""
        rows, tokens = len(new_tokens), sum(new_tokens)
        return performance.Work(prompt_tokens + tokens, flops.generation(
            self.lm.architecture, prompts=1, candidates=rows, prompt_tokens=prompt_tokens, new_tokens=tokens / rows))

    def _sample_of(self, out: decode.Generated, b: int, c: int) -> Sample:
        """That of prompt b's candidate c, from arrays on the host."""
        mask = out.mask_BxCxL[b, c]
        return self._sample(out.tokens_BxCxL[b, c][mask], out.logprobs_BxCxL[b, c][mask], bool(out.stopped_BxC[b, c]))

    def _sample(self, tokens: Any, logprobs: Any, stopped: bool) -> Sample:
        finite.check(self.lm, logprobs, "log-probabilities")
        ended = stopped and int(tokens[-1]) in self.lm.end_ids
        text = self.lm.decode(tokens[:-1].tolist() if ended else tokens.tolist())
        if self.lm.uses_chat and not self.thinks:
            text = thinking.without_thoughts(text)
        cuts = [at for string in self.stop if (at := text.find(string)) >= 0]
        return Sample(text[: min(cuts)] if cuts else text, tokens, logprobs, stopped or bool(cuts))

    def _start_batch(self, ids: Sequence[Sequence[int]], keys_BxCx2: np.ndarray) -> Pending[decode.Generated]:
        """One batch, filled up where there are fewer prompts. The result is on the host."""
        length = self._row_length(max(map(len, ids)))
        arrays = self._arrays(ids, keys_BxCx2, self.lm.placement.padded(self.batch_size), length)
        out = refine_program(self.lm.placement)(
            self.lm.architecture, self.lm.params, *arrays, self.sampling, self.ends, max_new_tokens=self.max_new_tokens,
            compute=self.lm.compute,
        )
        return Pending(functools.partial(performance.fetch, out))

    def _start_refilling(self, ids: Sequence[Sequence[int]], keys_BxCx2: np.ndarray) -> Pending[decode.Generated]:
        """More prompts than slots, longest first; free slots are refilled some at a time. The result is on the host."""
        lm = self.lm
        order = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i))
        num_slots = lm.placement.padded(self.batch_size)
        refill_size = lm.placement.padded(max(1, self.batch_size // _REFILLED_PART))
        length = self._row_length(len(ids[order[0]]))
        # Which prompt each slot works on. All of this lives outside `finish`, so that it resumes after an interrupt.
        prompt_in_slot: list[int | None] = [*order[:num_slots], *[None] * (num_slots - len(order))]
        waiting = collections.deque(order[num_slots:])
        outputs: dict[int, decode.Generated] = {}

        def arrays(prompts: Sequence[int], batch: int) -> tuple[jax.Array, ...]:
            return self._arrays([ids[i] for i in prompts], keys_BxCx2[list(prompts)], batch, length)

        def until(num_waiting: int) -> np.int32:
            """How many slots must be free before the host looks again; where they are, no step is made."""
            return np.int32(min(refill_size, num_waiting) if num_waiting else num_slots)

        slots = start_program(lm.placement)(
            lm.architecture, lm.params, *arrays(order[:num_slots], num_slots), self.sampling, self.ends,
            until(len(waiting)), max_new_tokens=self.max_new_tokens, compute=lm.compute,
        )

        def finish() -> decode.Generated:
            nonlocal slots
            while True:
                finished, out = performance.fetch((slots.finished, slots.out))
                for slot, i in enumerate(prompt_in_slot):
                    if i is not None and finished[slot]:
                        outputs[i] = jax.tree.map(operator.itemgetter(slot), out)
                        prompt_in_slot[slot] = None
                if len(outputs) == len(ids):
                    return jax.tree.map(lambda *rows: np.stack(rows), *(outputs[i] for i in range(len(ids))))
                free = [slot for slot, i in enumerate(prompt_in_slot) if i is None][: min(refill_size, len(waiting))]
                new = list(itertools.islice(waiting, len(free)))
                at = np.array([*free, *[-1] * (refill_size - len(free))], np.int32)
                slots = refill_program(lm.placement)(
                    lm.architecture, lm.params, slots, *arrays(new, refill_size), lm.placement.batch(at), self.sampling,
                    self.ends, until(len(waiting) - len(new)), compute=lm.compute,
                )
                # Only once the slots have the prompts: an interrupt before that leaves both as they were.
                for slot in free:
                    prompt_in_slot[slot] = waiting.popleft()

        return Pending(finish)

    def _row_length(self, longest: int) -> int:
        return padding.row_length(longest, self.row_lengths, self.lm.planner.multiple)

    def _arrays(
        self, ids: Sequence[Sequence[int]], keys: np.ndarray, batch: int, length: int
    ) -> tuple[jax.Array, ...]:
        """Tokens, lengths and keys of a batch; rows that only fill it up have length 0."""
        tokens, lengths = self.lm.pad(ids, batch, length)
        keys = np.concatenate([keys, np.zeros((batch - len(ids), *keys.shape[1:]), np.uint32)])
        return self.lm.placement.batch((tokens, lengths, keys))
