"""A loaded model playing a part (policy, refiner, judge, critic): text in, text or numbers out."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from ilf_jax import config_sections
from ilf_jax.errors import InputError
from ilf_jax.models import flops, padding, transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import performance
from ilf_jax.steps import score_step
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizers.tokenizer import Tokenizer
from ilf_jax.training import packing
from ilf_jax.training.objectives import sequence_logprobs

_STATIC = ("config", "compute")

# What could be computed while a layer of a program compiles, or is traced and loaded: a tenth of a second at 300
# GFLOP/s, measured for SmolLM2-135M on two CPU cores (30 layers, compiled in 5 to 8 s, loaded in 1.5 to 2.5 s).
_LAYER_FLOPS = 3e10


def answer_logits_program(placement: Placement) -> jax.stages.Wrapped:
    """`steps.score.answer_logits_step`, jitted."""
    return placement.jit(score_step.answer_logits_step, static_argnames=_STATIC)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A prompt as the model is given it: after the chat template and shortening, as text and as token ids."""

    id: str
    text: str
    ids: list[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """What follows a shared prefix: a stem, then Q questions side by side.

    Attributes:
        tokens: int32, and all that is stored of each token, for those of all documents are in memory at once.
        stem: how many of the tokens stand before the first question.
        ends: index of each question's last token.
        answers: token ids of (favourable, other) for each question.
    """

    tokens: np.ndarray
    stem: int
    ends: tuple[int, ...]
    answers: tuple[tuple[int, int], ...]

    def tree(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each token: its position behind the prefix, and 0 on the stem or 1..Q on the questions.

        Each question begins where the stem ends.
        """
        index = np.arange(len(self.tokens))
        questions = np.searchsorted(self.ends, index)
        begins = np.array([self.stem, *(end + 1 for end in self.ends[:-1])])
        on_stem = index < self.stem
        return (np.where(on_stem, index, index - begins[questions] + self.stem),
                np.where(on_stem, 0, questions + 1))


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model, its tokenizer, and how prompts are put to it.

    Params lie in the decode layout, matrices in `compute.dtype`, so that no step converts them.
    """

    name: str
    settings: config_sections.Model
    architecture: ModelConfig
    params: transformer.Params
    tokenizer: Tokenizer
    placement: Placement
    compute: ComputeOptions

    @property
    def uses_chat(self) -> bool:
        """Whether prompts are wrapped in the chat template."""
        if self.settings.chat == "always" and self.tokenizer.chat_template is None:
            raise InputError(f"config.{self.name}.chat='always', but {self.settings.checkpoint} has no chat template")
        return self.settings.chat != "never" and self.tokenizer.chat_template is not None

    @property
    def end_id(self) -> int:
        """The token that ends an output, in training as in sampling."""
        if not self.tokenizer.stop_ids:
            raise InputError(f"config.{self.name}: the tokenizer of {self.settings.checkpoint} has no end token")
        if self.uses_chat and self.tokenizer.turn_end_id is not None:
            return self.tokenizer.turn_end_id  # often another one than ends a text
        return self.tokenizer.stop_ids[0]

    def encode(self, example_id: str, prompts: Sequence[Prompt], reserve: int) -> list[Encoded]:
        """Prompts about one document, as tokens that leave room for `reserve` more in the context.

        Where one is too long, the document is shortened, by as much in each prompt, so that they go on sharing it; what
        stands around it stays.

        Raises:
            InputError: a prompt is too long and must not be, or cannot be, shortened.
        """
        limit = self.architecture.max_positions - reserve
        if self.settings.max_prompt_length is not None:
            limit = min(limit, self.settings.max_prompt_length)
        prompts = list(prompts)
        for attempt in itertools.count(1):
            encoded = [self._encode_one(example_id, prompt) for prompt in prompts]
            longest = max(len(e.ids) for e in encoded)
            if longest <= limit:
                return encoded
            too_long = (f"{self.name} prompt of document {example_id!r} has {longest} tokens, and "
                        f"{limit} are allowed (context of {self.architecture.max_positions}, "
                        f"config.{self.name}.max_prompt_length)")
            if self.settings.too_long == "error":
                raise InputError(f"{too_long}; config.{self.name}.too_long='truncate_document' shortens the document")
            document = max((p.document for p in prompts), key=len)
            ids = self.tokenizer.encode(document)
            # One token less each time: a cut may leave part of a character, which takes more tokens than it had.
            keep = len(ids) - (longest - limit) - attempt
            if keep <= 0:
                raise InputError(f"{too_long}, and too few of them are the document's")
            shorter = self.tokenizer.decode(ids[:keep]).rstrip("\ufffd")
            prompts = [dataclasses.replace(p, document=shorter if p.document else "") for p in prompts]
        raise AssertionError("unreachable: each attempt is shorter than the one before")

    def _encode_one(self, example_id: str, prompt: Prompt) -> Encoded:
        text = prompt.text
        if self.uses_chat:
            text = self.tokenizer.render_chat([{"role": "user", "content": text}])
            return Encoded(example_id, text, self.tokenizer.encode(text, special=True))
        return Encoded(example_id, text, self.tokenizer.encode(text, add_bos=self.tokenizer.adds_bos))

    def completion_text(self, prompt: Encoded, text: str) -> str:
        """How an output continues the prompt: after a space, unless the prompt itself ends in one or in a chat turn."""
        return text if self.uses_chat or prompt.text[-1:].isspace() else f" {text}"

    def continuation(self, prompt: Encoded, text: str) -> list[int]:
        """Token ids of an output behind its prompt, without the end token."""
        return self.tokenizer.encode_continuation(prompt.ids, prompt.text, self.completion_text(prompt, text))

    def logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int) -> list[np.ndarray]:
        """log p of each token of a continuation behind its prompt, in nats, by the training forward pass.

        There are at most `batch_size` pairs; the rest of the batch is filled up.
        """
        examples = []
        for prompt_ids, continuation in pairs:
            weights = np.zeros(len(prompt_ids) + len(continuation), np.float32)
            weights[len(prompt_ids):] = 1.0
            examples.append(packing.TrainingExample(np.array([*prompt_ids, *continuation], np.int32), weights))
        length = padding.bucket(max(map(len, examples)))
        batch = packing.assemble(
            examples, [[i] for i in range(len(examples))], num_rows=self.placement.padded(batch_size),
            row_length=length, num_targets=padding.bucket(max(e.num_targets for e in examples)),
        )
        logprobs = performance.fetch(
            self.placement.jit(sequence_logprobs, static_argnames=_STATIC)(
                self.architecture, self.params, self.placement.batch(batch), compute=self.compute)
        )
        return [logprobs[i, : e.num_targets] for i, e in enumerate(examples)]

    def embed(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """Mean-pooled hidden states, one unit vector a text."""
        ids = [self.tokenizer.encode(text)[: self.architecture.max_positions] or [0] for text in texts]
        vectors = np.zeros((len(texts), self.architecture.hidden_size), np.float32)
        step = self.placement.jit(score_step.embed_step, static_argnames=_STATIC)
        for group in padding.batches_by_length([len(i) for i in ids], batch_size):
            tokens, lengths = self.pad([ids[i] for i in group], self.placement.padded(batch_size))
            tokens, lengths = self.placement.batch((tokens, np.maximum(lengths, 1)))
            out = performance.fetch(step(self.architecture, self.params, tokens, lengths, compute=self.compute))
            vectors[group] = out[: len(group)]
        return vectors

    def answer_logits(
        self, prefixes: Sequence[Sequence[int] | np.ndarray], branches: Sequence[Sequence[Branch]], batch_size: int,
        prefix_length: int, branch_length: int,
    ) -> jax.Array:
        """Logits of both answers to the Q questions of each prefix's C branches, B x C x Q x 2.

        A model with a scalar head gives its reward in their place, B x C x Q x 1.
        Returns at once, with arrays that the device may still be computing.

        Args:
            prefixes: token ids.
            branches: C of each prefix, with Q questions each.
            batch_size: the least B; on a mesh B may be a little more. Rows beyond the prefixes mean nothing.
            prefix_length: tokens that prefixes are padded to.
            branch_length: tokens that branches are padded to.
        """
        B, C, Q = self.placement.padded(batch_size), len(branches[0]), len(branches[0][0].ends)
        tokens, lengths = self.pad(prefixes, B, prefix_length)
        suffix, offsets, leaves = (np.zeros((B, C, branch_length), np.int32) for _ in range(3))
        leaves[:] = -1  # padding, seen by nothing
        ends, answers = np.zeros((B, C, Q), np.int32), np.zeros((B, C, Q, 2), np.int32)
        for b, group in enumerate(branches):
            for c, branch in enumerate(group):
                n = len(branch.tokens)
                suffix[b, c, :n] = branch.tokens
                offsets[b, c, :n], leaves[b, c, :n] = branch.tree()
                ends[b, c], answers[b, c] = branch.ends, branch.answers
        arrays = self.placement.batch((tokens, lengths, suffix, offsets, leaves, ends, answers))
        return answer_logits_program(self.placement)(self.architecture, self.params, *arrays, compute=self.compute)

    def row_lengths(self, lengths: Iterable[int]) -> tuple[int, ...]:
        """What rows of these lengths are padded to; the smaller the model, the fewer lengths are worth a program."""
        return padding.row_lengths(lengths, self._program_tokens)

    def paired_row_lengths(
        self, first: Iterable[int], second: Iterable[int]
    ) -> tuple[float, tuple[int, ...], tuple[int, ...]]:
        """As `row_lengths`, for programs that take rows of two kinds; and what all of it costs, in tokens."""
        return padding.paired_row_lengths(first, second, self._program_tokens)

    @property
    def _program_tokens(self) -> float:
        """Tokens that could be computed while a program compiles."""
        return self.architecture.num_layers * _LAYER_FLOPS / (2 * flops.num_params(self.architecture))

    def pad(
        self, rows: Sequence[Sequence[int] | np.ndarray], batch: int, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token rows right-padded to `length` or a bucket, and their lengths; rows beyond `rows` have length 0."""
        tokens = np.zeros((batch, length or padding.bucket(max(map(len, rows)))), np.int32)
        lengths = np.zeros(batch, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
            lengths[i] = len(row)
        return tokens, lengths
