"""A loaded model playing a part (policy, refiner, judge, critic): text in, text or numbers out."""

import dataclasses
import datetime
import functools
import itertools
from collections.abc import Sequence

import jax
import numpy as np

from ilf_jax import config_sections
from ilf_jax.errors import InputError, TooLongError
from ilf_jax.inference.assistant_turn import (
    CLOSES_THOUGHTS,
    OPENS_THOUGHTS,
    AssistantTurn,
    Message,
    left_open,
    read_turn,
)
from ilf_jax.models import padding, transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.placement import Placement
from ilf_jax.models.row_planner import RowPlanner
from ilf_jax.runtime import performance
from ilf_jax.steps import score_step
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizers.tokenizer import Tokenizer
from ilf_jax.training import packing
from ilf_jax.training.objectives import sequence_logprobs

_STATIC = ("config", "compute")

# Room for what closes a block of thoughts that their budget has cut off.
_CLOSING_TOKENS = 16
# Prompts of a request to the process that renders chat templates, which has five seconds for each request.
_RENDERED_TOGETHER = 16


def thinking_room(thinking_tokens: int) -> int:
    """Tokens of the context that thoughts of up to `thinking_tokens` take, with what closes them."""
    return thinking_tokens + _CLOSING_TOKENS if thinking_tokens else 0


def answer_logits_program(placement: Placement) -> jax.stages.Wrapped:
    """`steps.score_step.answer_logits_step`, jitted."""
    return placement.jit(score_step.answer_logits_step, static_argnames=_STATIC)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A prompt as the model is given it: after the chat template and shortening.

    Attributes:
        id: of the document.
        text: marked, see `Tokenizer.mark`.
        ids: its tokens.
    """

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
    now: datetime.datetime | None = None
    """What chat templates are told that the time is; unset: the clock."""

    @property
    def uses_chat(self) -> bool:
        """Whether prompts are wrapped in the chat template."""
        if self.settings.chat == "always" and not self.tokenizer.chat:
            raise InputError(f"config.{self.name}.chat='always', but {self.settings.checkpoint} has no chat template")
        return self.settings.chat != "never" and bool(self.tokenizer.chat)

    @property
    def thinking_tokens(self) -> int:
        """Tokens that the model may think for before it writes."""
        return self.settings.thinking_tokens if self.uses_chat else 0

    def room(self, new_tokens: int) -> int:
        """Tokens that an output of up to `new_tokens` takes in the context, thoughts included."""
        return new_tokens + thinking_room(self.thinking_tokens)

    @functools.cached_property
    def turn(self) -> AssistantTurn:
        """How an answer continues a prompt."""
        if not self.uses_chat:
            return AssistantTurn()
        return read_turn(self.tokenizer, self._render, self.thinking_tokens > 0)

    def rendered(self, text: str) -> str:
        """What the chat template makes of a user's turn, up to where the answer begins."""
        return self._render([[{"role": "user", "content": text}]], True)[0]

    @property
    def asks_for_thoughts(self) -> bool:
        """Whether the chat template tells thinking on from thinking off, or opens a block of thoughts anyway."""
        chats = [[{"role": "user", "content": "Hi."}]]
        (on,), (off,) = (self._render(chats, True, enable_thinking=on) for on in (True, False))
        return on != off or left_open(on) is not None or self.turn.unthought != ""

    @functools.cached_property
    def _thought_markers(self) -> frozenset[int]:
        return frozenset(i for text, i in self.tokenizer.control_tokens.items()
                         if OPENS_THOUGHTS.fullmatch(text) or CLOSES_THOUGHTS.fullmatch(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of what the model has written: without control tokens, but with those that mark thoughts."""
        return self.tokenizer.decode(ids, self._thought_markers if self.uses_chat else frozenset())

    def _render(
        self, conversations: Sequence[Sequence[Message]], add_generation_prompt: bool,
        enable_thinking: bool | None = None,
    ) -> list[str]:
        thinks = self.settings.thinking_tokens > 0 if enable_thinking is None else enable_thinking
        arguments = {**(self.settings.template_arguments or {})}
        if enable_thinking is not None or "enable_thinking" not in arguments:
            arguments["enable_thinking"] = thinks
        try:
            return self.tokenizer.chat.render(
                conversations, add_generation_prompt=add_generation_prompt, name=self.settings.chat_template,
                arguments=arguments, now=self.now)
        except InputError as e:
            raise InputError(f"config.{self.name}: {e}") from e

    def _mark(self, text: str) -> str:
        return text if self.settings.control_tokens == "anywhere" else self.tokenizer.mark(text)

    @functools.cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an output: the tokenizer's, and that which closes a turn of the chat template."""
        return tuple(dict.fromkeys(i for i in (*self.tokenizer.stop_ids, self.turn.end_id) if i is not None))

    @property
    def end_id(self) -> int:
        """The token that ends an output, in training as in sampling."""
        if not self.end_ids:
            raise InputError(f"config.{self.name}: the tokenizer of {self.settings.checkpoint} has no end token")
        # Models with several end tokens close a chat turn with another one than a text.
        return self.end_ids[0] if self.turn.end_id is None else self.turn.end_id

    def encode(
        self, example_id: str, prompts: Sequence[Prompt], reserve: int, *, answered: bool = False
    ) -> list[Encoded]:
        """Prompts about one document, as tokens that leave room for `reserve` more in the context.

        Where one is too long, the document is shortened, by as much in each prompt, so that they go on sharing it; what
        stands around it stays.

        Args:
            example_id: of the document.
            prompts: of which some may share the document.
            reserve: tokens.
            answered: what follows is given, not to be sampled, see `AssistantTurn.unthought`.

        Raises:
            TooLongError: a prompt is too long and must not be, or cannot be, shortened.
        """
        limit = min(self.architecture.max_positions - reserve, self.max_prompt_length)
        prompts = list(prompts)
        for attempt in itertools.count(1):
            encoded = self.encode_whole_batch([example_id] * len(prompts), prompts, answered=answered)
            longest = max(len(e.ids) for e in encoded)
            if longest <= limit:
                return encoded
            too_long = (f"{self.name} prompt of document {example_id!r} has {longest} tokens, and "
                        f"{limit} are allowed (context of {self.architecture.max_positions}, "
                        f"config.{self.name}.max_prompt_length)")
            if self.settings.too_long == "error":
                raise TooLongError(f"{too_long}; config.{self.name}.too_long='truncate_document' shortens the document")
            document = max((p.document for p in prompts), key=len)
            ids = self.tokenizer.encode(document)
            # One token less each time: a cut may leave part of a character, which takes more tokens than it had.
            keep = len(ids) - (longest - limit) - attempt
            if keep <= 0:
                raise TooLongError(f"{too_long}, and too few of them are the document's")
            shorter = self.tokenizer.decode(ids[:keep]).rstrip("\ufffd")
            prompts = [dataclasses.replace(p, document=shorter if p.document else "") for p in prompts]
        raise AssertionError("unreachable: each attempt is shorter than the one before")

    @property
    def max_prompt_length(self) -> int:
        """The most tokens that a prompt may have, were there nothing behind it."""
        longest = self.settings.max_prompt_length
        return self.architecture.max_positions if longest is None else min(longest, self.architecture.max_positions)

    def encode_whole(self, example_id: str, prompt: Prompt, *, answered: bool = False) -> Encoded:
        """A prompt as tokens, however many they are; see `encode`."""
        return self.encode_whole_batch([example_id], [prompt], answered=answered)[0]

    def encode_whole_batch(
        self, example_ids: Sequence[str], prompts: Sequence[Prompt], *, answered: bool = False
    ) -> list[Encoded]:
        """`encode_whole` of each prompt, in parallel."""
        texts = [self._mark(prompt.text) for prompt in prompts]
        if self.uses_chat:
            rendered = []
            for start in range(0, len(texts), _RENDERED_TOGETHER):
                chats = [[{"role": "user", "content": t}] for t in texts[start : start + _RENDERED_TOGETHER]]
                rendered += self._render(chats, True)
            texts = [self.turn.prompt(text, answered=answered) for text in rendered]
        rows = self.tokenizer.encode_marked_batch(texts, self.tokenizer.adds_bos and not self.uses_chat)
        return [Encoded(*made) for made in zip(example_ids, texts, rows, strict=True)]

    def completion_text(self, prompt: Encoded, text: str) -> str:
        """How an output continues the prompt, marked: in a chat turn as the template has it, else after a space.

        There is no second space behind a prompt that ends in one.
        """
        if self.uses_chat:
            return self.turn.opening + self._mark(text)
        return self._mark(text if prompt.text[-1:].isspace() else f" {text}")

    def continuation(self, prompt: Encoded, text: str) -> list[int]:
        """Token ids of an output behind its prompt, without the end token."""
        return self.continuations([(prompt, text)])[0]

    def continuations(self, outputs: Sequence[tuple[Encoded, str]]) -> list[list[int]]:
        """`continuation` of each (prompt, output), in parallel."""
        return self.tokenizer.encode_continuations([
            (prompt.ids, prompt.text, self.completion_text(prompt, text) + self.turn.closing)
            for prompt, text in outputs])

    def logprobs(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int, row_lengths: Sequence[int] = (),
        target_lengths: Sequence[int] = (),
    ) -> list[np.ndarray]:
        """log p of each token of a continuation behind its prompt, in nats, by the training forward pass.

        Args:
            pairs: prompt and continuation, at most `batch_size`; the rest of the batch is filled up.
            batch_size: rows of the program.
            row_lengths: what both together are padded to, see `planner`; to a bucket without them.
            target_lengths: what continuations are padded to; to a bucket without them.
        """
        examples = []
        for prompt_ids, continuation in pairs:
            weights = np.zeros(len(prompt_ids) + len(continuation), np.float32)
            weights[len(prompt_ids):] = 1.0
            examples.append(packing.TrainingExample(np.array([*prompt_ids, *continuation], np.int32), weights))
        length = padding.row_length(max(map(len, examples)), row_lengths, self.planner.multiple)
        batch = packing.assemble(
            examples, [[i] for i in range(len(examples))], num_rows=self.placement.padded(batch_size),
            row_length=length, num_targets=padding.row_length(max(e.num_targets for e in examples), target_lengths),
        )
        logprobs = performance.fetch(
            self.placement.jit(sequence_logprobs, static_argnames=_STATIC)(
                self.architecture, self.params, self.placement.batch(batch), compute=self.compute)
        )
        return [logprobs[i, : e.num_targets] for i, e in enumerate(examples)]

    def text_ids(self, text: str) -> list[int]:
        """The tokens that `embed` reads of a text: at least one, at most what the context holds."""
        return self.tokenizer.encode(text)[: self.architecture.max_positions] or [0]

    def embed(self, texts: Sequence[str], batch_size: int, row_lengths: Sequence[int] = ()) -> np.ndarray:
        """Mean-pooled hidden states, one unit vector a text.

        Args:
            texts: to read.
            batch_size: texts of a batch.
            row_lengths: what texts are padded to, see `planner`; to buckets without them.
        """
        ids = [self.text_ids(text) for text in texts]
        vectors = np.zeros((len(texts), self.architecture.hidden_size), np.float32)
        step = self.placement.jit(score_step.embed_step, static_argnames=_STATIC)
        for group in padding.batches_by_length([len(i) for i in ids], batch_size):
            length = padding.row_length(len(ids[group[0]]), row_lengths, self.planner.multiple)
            tokens, lengths = self.pad([ids[i] for i in group], self.placement.padded(batch_size), length)
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

    @functools.cached_property
    def planner(self) -> RowPlanner:
        """Says what rows of this model are padded to."""
        return RowPlanner(self.architecture, self.placement.mesh.devices.flat[0], self.compute)

    def pad(
        self, rows: Sequence[Sequence[int] | np.ndarray], batch: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token rows right-padded to `length`, and their lengths; rows beyond `rows` have length 0."""
        tokens = np.zeros((batch, length), np.int32)
        lengths = np.zeros(batch, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
            lengths[i] = len(row)
        return tokens, lengths
