"""A loaded model playing a part (policy, refiner, judge, critic): text in, text or numbers out."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax import config as config_lib
from ilf_jax import sharding
from ilf_jax.errors import InputError
from ilf_jax.models import transformer
from ilf_jax.models.config import ModelConfig
from ilf_jax.sampling.logits import Sampling
from ilf_jax.stages import batching
from ilf_jax.steps import refine, score
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizer import Tokenizer
from ilf_jax.training import objectives, packing

_refine_step = jax.jit(refine.refine_step, static_argnames=("config", "max_new_tokens", "dtype"))
_answer_logits_step = jax.jit(score.answer_logits_step, static_argnames=("config", "dtype"))
_embed_step = jax.jit(score.embed_step, static_argnames=("config", "dtype"))
_sequence_logprobs = jax.jit(objectives.sequence_logprobs, static_argnames=("config", "dtype"))


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A prompt as the model is given it: after the chat template and shortening, as text and as token ids."""

    id: str
    text: str
    ids: list[int]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generation: token ids (the end token included), their log-probabilities in nats, and how it ended."""

    text: str
    tokens: np.ndarray
    logprobs: np.ndarray
    stopped: bool


@dataclasses.dataclass(frozen=True)
class Role:
    """A model, its tokenizer, and how prompts are put to it. Params lie in the decode layout."""

    name: str
    settings: config_lib.Model
    model: ModelConfig
    params: transformer.Params
    tokenizer: Tokenizer
    placement: sharding.Placement
    dtype: jnp.dtype

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
        if self.uses_chat:
            # Models with several end tokens close a chat turn with another one than a text.
            turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            ids = self.tokenizer.encode(self.tokenizer.render_chat(turn, add_generation_prompt=False))
            return next((i for i in reversed(ids) if i in self.tokenizer.stop_ids), self.tokenizer.stop_ids[0])
        return self.tokenizer.stop_ids[0]

    def encode(self, example_id: str, prompts: Sequence[Prompt], reserve: int) -> list[Encoded]:
        """Prompts about one document, as tokens that leave room for `reserve` more in the context.

        Where one is too long, the document is shortened, by as much in each prompt, so that they go on sharing it; what
        stands around it stays.

        Raises:
            InputError: a prompt is too long and must not be, or cannot be, shortened.
        """
        limit = self.model.max_positions - reserve
        if self.settings.max_prompt_length is not None:
            limit = min(limit, self.settings.max_prompt_length)
        prompts = list(prompts)
        for attempt in itertools.count(1):
            encoded = [self._encode_one(example_id, prompt) for prompt in prompts]
            longest = max(len(e.ids) for e in encoded)
            if longest <= limit:
                return encoded
            too_long = (f"{self.name} prompt of document {example_id!r} has {longest} tokens, and "
                        f"{limit} are allowed (context of {self.model.max_positions}, "
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

    def _encode_one(self, example_id: str, prompt: Prompt) -> Encoded:
        text = prompt.text
        if self.uses_chat:
            text = self.tokenizer.render_chat([{"role": "user", "content": text}])
            return Encoded(example_id, text, self.tokenizer.encode(text))
        return Encoded(example_id, text, self.tokenizer.encode(text, add_bos=self.tokenizer.adds_bos))

    def completion_text(self, prompt: Encoded, text: str) -> str:
        """How an output continues the prompt: after a space, unless the prompt itself ends in one or in a chat turn."""
        return text if self.uses_chat or prompt.text[-1:].isspace() else f" {text}"

    def continuation(self, prompt: Encoded, text: str) -> list[int]:
        """Token ids of an output behind its prompt, without the end token."""
        return self.tokenizer.encode_continuation(prompt.ids, prompt.text, self.completion_text(prompt, text))

    @functools.cached_property
    def _token_texts(self) -> list[str]:
        return self.tokenizer.token_texts()

    def _ends(self, stop: Sequence[str]) -> np.ndarray:
        """Tokens that end a row: end tokens, and tokens that hold a whole stop string."""
        ends = np.zeros(self.model.vocab_size, bool)
        ends[list(self.tokenizer.stop_ids)] = True
        for token, text in enumerate(self._token_texts):
            if any(string in text for string in stop):
                ends[token] = True
        return ends

    def generate(
        self, prompts: Sequence[Encoded], keys_BxCx2: np.ndarray, sampling: Sampling, *, max_new_tokens: int,
        batch_size: int, stop: Sequence[str],
    ) -> list[list[Sample]]:
        """C samples for each prompt; there are at most `batch_size` prompts, the rest of the batch is filled up."""
        B = self.padded(batch_size)
        tokens, lengths = self.pad([p.ids for p in prompts], B)
        keys = np.concatenate([keys_BxCx2, np.zeros((B - len(prompts), *keys_BxCx2.shape[1:]), np.uint32)])
        tokens, lengths, keys = self.placement.batch((tokens, lengths, keys))
        out = _refine_step(
            self.model, self.params, tokens, lengths, keys, sampling, self._ends(stop),
            max_new_tokens=max_new_tokens, dtype=self.dtype,
        )
        tokens, logprobs, mask, stopped = jax.device_get(
            (out.tokens_BxCxL, out.logprobs_BxCxL, out.mask_BxCxL, out.stopped_BxC)
        )
        return [
            [self._sample(tokens[b, c][mask[b, c]], logprobs[b, c][mask[b, c]], bool(stopped[b, c]), stop)
             for c in range(keys_BxCx2.shape[1])]
            for b in range(len(prompts))
        ]

    def _sample(self, tokens: np.ndarray, logprobs: np.ndarray, stopped: bool, stop: Sequence[str]) -> Sample:
        ended = stopped and int(tokens[-1]) in self.tokenizer.stop_ids
        text = self.tokenizer.decode(tokens[:-1].tolist() if ended else tokens.tolist())
        cuts = [at for string in stop if (at := text.find(string)) >= 0]
        return Sample(text[: min(cuts)] if cuts else text, tokens, logprobs, stopped or bool(cuts))

    def sampled_logprobs(self, prompts: Sequence[Encoded], samples: Sequence[Sequence[Sample]]) -> list[np.ndarray]:
        """The samples' token log-probabilities again, by the training forward pass; one array a sample, in order."""
        pairs = [(p.ids, s.tokens.tolist()) for p, group in zip(prompts, samples, strict=True) for s in group]
        return self.logprobs(pairs)

    def logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        """log p of each token of a continuation behind its prompt, in nats, by the training forward pass."""
        examples = []
        for prompt_ids, continuation in pairs:
            weights = np.zeros(len(prompt_ids) + len(continuation), np.float32)
            weights[len(prompt_ids):] = 1.0
            examples.append(packing.TrainingExample(np.array([*prompt_ids, *continuation], np.int32), weights))
        length = batching.bucket(max(map(len, examples)))
        batch = packing.assemble(
            examples, [[i] for i in range(len(examples))], num_rows=self.padded(len(examples)), row_length=length,
            num_targets=batching.bucket(max(e.num_targets for e in examples)),
        )
        logprobs = np.asarray(_sequence_logprobs(self.model, self.params, self.placement.batch(batch),
                                                 dtype=self.dtype))
        return [logprobs[i, : e.num_targets] for i, e in enumerate(examples)]

    def embed(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """Mean-pooled hidden states, one unit vector a text."""
        ids = [self.tokenizer.encode(text)[: self.model.max_positions] or [0] for text in texts]
        vectors = np.zeros((len(texts), self.model.hidden_size), np.float32)
        for group in batching.batches_by_length([len(i) for i in ids], batch_size):
            tokens, lengths = self.pad([ids[i] for i in group], self.padded(batch_size))
            tokens, lengths = self.placement.batch((tokens, np.maximum(lengths, 1)))
            out = np.asarray(_embed_step(self.model, self.params, tokens, lengths, dtype=self.dtype))
            vectors[group] = out[: len(group)]
        return vectors

    def answer_logits(
        self, prefixes: Sequence[Sequence[int]], suffixes: Sequence[Sequence[Sequence[int]]],
        answers: Sequence[Sequence[tuple[int, int]]], batch_size: int,
    ) -> np.ndarray:
        """Logits of both answers after each prefix and each of its C suffixes, len(prefixes) x C x 2."""
        B, C = self.padded(batch_size), len(suffixes[0])
        tokens, lengths = self.pad(prefixes, B)
        longest = batching.bucket(max(len(s) for group in suffixes for s in group))
        ends, ends_lengths = np.zeros((B, C, longest), np.int32), np.ones((B, C), np.int32)
        rows = np.zeros((B, C, 2), np.int32)
        for b, group in enumerate(suffixes):
            for c, suffix in enumerate(group):
                ends[b, c, : len(suffix)] = suffix
                ends_lengths[b, c] = len(suffix)
                rows[b, c] = answers[b][c]
        arrays = self.placement.batch((tokens, lengths, ends, ends_lengths, rows))  # a prefix may well be empty
        return np.asarray(_answer_logits_step(self.model, self.params, *arrays, dtype=self.dtype))[: len(prefixes)]

    def padded(self, rows: int) -> int:
        """Rows a batch has on this mesh: each shard gets as many."""
        shards = self.placement.batch_shards
        return -(-rows // shards) * shards

    def pad(self, rows: Sequence[Sequence[int]], batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Token rows right-padded to a bucket, and their lengths; rows beyond `rows` have length 0."""
        tokens = np.zeros((batch, batching.bucket(max(map(len, rows)))), np.int32)
        lengths = np.zeros(batch, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
            lengths[i] = len(row)
        return tokens, lengths
