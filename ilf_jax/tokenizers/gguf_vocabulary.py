"""The vocabulary inside a GGUF file, as a `tokenizers` BPE or a sentencepiece model."""

from collections.abc import Sequence
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from ilf_jax.errors import InputError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token types in GGUF and sentencepiece

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# tokenizer.ggml.pre -> regular expressions that split text into words, applied in order; None stands for GPT-2's.
_PRE_TOKENIZERS: dict[str, tuple[str | None, ...]] = {
    **dict.fromkeys(("gpt-2", "gpt2", "olmo", "phi-2", "opt"), (None,)),
    "smollm": (r"\p{N}", None),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), (_LLAMA3.format(digits="{1,3}"),)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (_LLAMA3.format(digits=""),)),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
_NFC = ("qwen2", "deepseek-r1-qwen")  # trained on composed characters
LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")  # these look up a whole word before they apply merges


def byte_level_bpe(
    tokens: Sequence[str], merges: Sequence[str], types: Sequence[int], pre: str, where: str
) -> tokenizers.Tokenizer:
    """The tokenizer of a `gpt2` vocabulary.

    Args:
        tokens: text of each id, in byte-level letters.
        merges: "left right", highest priority first.
        types: token type of each id.
        pre: tokenizer.ggml.pre, the name of the pre-tokenizer.
        where: the file, for messages.

    Raises:
        InputError: the pre-tokenizer is unknown, or the merges do not match the tokens.
    """
    if pre not in _PRE_TOKENIZERS:
        raise InputError(f"{where}: tokenizer.ggml.pre = {pre!r}; allowed: {', '.join(_PRE_TOKENIZERS)}")
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs: Any = [tuple(m.split(" ", 1)) for m in merges]
    try:
        bpe = models.BPE(vocab, pairs, fuse_unk=False, ignore_merges=pre in LLAMA3_NAMES)
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{where}: the merges do not match the vocabulary ({error})") from error
    steps: list[Any] = []
    for regex in _PRE_TOKENIZERS[pre]:
        if regex is not None:
            steps.append(pre_tokenizers.Split(Regex(regex), behavior="isolated"))
    gpt2_words = None in _PRE_TOKENIZERS[pre]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2_words))
    tokenizer = tokenizers.Tokenizer(bpe)
    if pre in _NFC:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    add_specials(tokenizer, [t for t, kind in zip(tokens, types, strict=True) if kind == CONTROL])
    defined = [t for t, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED]
    tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in defined])
    return tokenizer


def add_specials(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> None:
    """Marks tokens as special: encoding keeps them whole, decoding skips them."""
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in texts])


def sentencepiece_model(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], meta: dict[str, Any], where: str
) -> sentencepiece.SentencePieceProcessor:
    """The sentencepiece BPE model of a `llama` vocabulary.

    Args:
        tokens: text of each id.
        scores: merge score of each id.
        types: token type of each id.
        meta: the file's metadata (space prefix, ids of the special tokens).
        where: the file, for messages.

    Raises:
        InputError: sentencepiece rejects the vocabulary.
    """
    from sentencepiece import sentencepiece_model_pb2

    pb: Any = sentencepiece_model_pb2  # its classes are made when it is imported

    model = pb.ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type, trainer.vocab_size = pb.TrainerSpec.BPE, len(tokens)
    trainer.byte_fallback = BYTE in types
    trainer.unk_id = types.index(UNKNOWN) if UNKNOWN in types else -1
    for name in ("bos", "eos"):
        setattr(trainer, f"{name}_id", meta.get(f"tokenizer.ggml.{name}_token_id", -1))
    trainer.pad_id = -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(meta.get("tokenizer.ggml.add_space_prefix", True))
    model.normalizer_spec.remove_extra_whitespaces = bool(meta.get("tokenizer.ggml.remove_extra_whitespaces", False))
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{where}: sentencepiece rejects the vocabulary ({error})") from error


def sentencepiece_to_json(processor: sentencepiece.SentencePieceProcessor) -> tokenizers.Tokenizer:
    """The same vocabulary as a `tokenizers.Tokenizer`, for export.

    A sentencepiece model does not store merges. Every split of a piece into two pieces is a merge, with the priority of
    the piece's score.
    """
    from sentencepiece import sentencepiece_model_pb2

    pb: Any = sentencepiece_model_pb2  # its classes are made when it is imported

    proto = pb.ModelProto.FromString(processor.serialized_model_proto())
    pieces, spec, trainer = proto.pieces, proto.normalizer_spec, proto.trainer_spec
    unknown = next((i for i, p in enumerate(pieces) if p.type == UNKNOWN), None)
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if trainer.model_type == pb.TrainerSpec.BPE:
        vocab = {p.piece: i for i, p in enumerate(pieces)}
        merges = []
        for i, p in enumerate(pieces):
            if p.type in (NORMAL, UNUSED):
                cuts = [(p.piece[:n], p.piece[n:]) for n in range(1, len(p.piece))]
                known = [(vocab[a], vocab[b], a, b) for a, b in cuts if a in vocab and b in vocab]
                merges += [(-p.score, i, *cut) for cut in sorted(known)]
        ordered = [(a, b) for *_, a, b in sorted(merges)]
        unk = pieces[unknown].piece if unknown is not None else None
        model: Any = models.BPE(vocab, ordered, unk_token=unk, fuse_unk=True, byte_fallback=trainer.byte_fallback)
    else:
        scored = [(p.piece, p.score) for p in pieces]
        model = models.Unigram(scored, unknown, byte_fallback=trainer.byte_fallback)
    steps += [normalizers.Prepend("▁")] if spec.add_dummy_prefix else []
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(undo + ([decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []))
    add_specials(tokenizer, [p.piece for p in pieces if p.type == CONTROL])
    defined = [p.piece for p in pieces if p.type == USER_DEFINED]
    tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in defined])
    return tokenizer
