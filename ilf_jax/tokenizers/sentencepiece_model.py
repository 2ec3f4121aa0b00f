"""A sentencepiece model as a `tokenizers.Tokenizer`: what is loaded is what is saved.

sentencepiece itself knows nothing of control tokens in text, of tokens added to its pieces, or of transformers' ways
with the space in front of a text; a tokenizer of the other library holds all of it in one file.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from ilf_jax.errors import InputError
from ilf_jax.tokenizers import backend

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of pieces, as in GGUF
UNIGRAM, BPE = 1, 2  # TrainerSpec.model_type
_SPACE = "▁"


class Spaces(enum.Enum):
    """What a tokenizer does about the space in front of a text."""

    EACH_PART = "each part between control tokens gets one, as sentencepiece has it"
    EACH_PART_WITHOUT = "each part that does not begin with a space gets one"
    TEXT_WITHOUT = "the text gets one if it does not begin with a space"
    NONE = "none is added"


def _protobuf() -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2  # its classes are made when it is imported


def parse(data: bytes, where: object) -> Any:
    """The `ModelProto` in a file's bytes.

    Raises:
        InputError: they are not one, or its pieces are not of a kind that can be read here.
    """
    pb = _protobuf()
    with backend.refusing(where):
        proto = pb.ModelProto.FromString(data)
    if not proto.pieces:
        raise InputError(f"{where}: cannot be read as a tokenizer (a sentencepiece model without pieces)")
    if any(isinstance(p.piece, bytes) for p in proto.pieces):  # what the library makes of it
        raise InputError(f"{where}: cannot be read as a tokenizer (a piece is not UTF-8)")
    if proto.trainer_spec.model_type not in (UNIGRAM, BPE):
        name = pb.TrainerSpec.ModelType.Name(proto.trainer_spec.model_type).lower()
        raise InputError(f"{where}: a sentencepiece model of type {name}; allowed: bpe, unigram")
    return proto


def named_tokens(data: bytes) -> dict[str, str]:
    """{"bos_token": ..., "eos_token": ..., "unk_token": ...}, as far as the model in a file's bytes has them."""
    proto = _protobuf().ModelProto.FromString(data)
    ids = {name: getattr(proto.trainer_spec, f"{name}_id") for name in ("bos", "eos", "unk")}
    return {f"{name}_token": proto.pieces[i].piece for name, i in ids.items() if 0 <= i < len(proto.pieces)}


def of_pieces(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], special_ids: Mapping[str, int | None],
    *, add_space: bool, remove_spaces: bool,
) -> Any:
    """A `ModelProto` of type BPE.

    Args:
        tokens: text of each id.
        scores: merge score of each id.
        types: type of each id.
        special_ids: of "bos" and "eos".
        add_space: a space is put in front of a text.
        remove_spaces: spaces at both ends are dropped, and runs of them become one.
    """
    pb = _protobuf()
    proto = pb.ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        proto.pieces.add(piece=token, score=score, type=kind)
    trainer = proto.trainer_spec
    trainer.model_type, trainer.vocab_size = BPE, len(tokens)
    trainer.byte_fallback = BYTE in types
    trainer.unk_id = types.index(UNKNOWN) if UNKNOWN in types else -1
    for name in ("bos", "eos"):
        known = special_ids[name]
        setattr(trainer, f"{name}_id", -1 if known is None else known)
    trainer.pad_id = -1
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = add_space
    proto.normalizer_spec.remove_extra_whitespaces = remove_spaces
    return proto


def convert(proto: Any, where: str, spaces: Spaces | None = None) -> tokenizers.Tokenizer:
    """The tokenizer of a sentencepiece model.

    The file of a BPE does not hold its merges: every split of a piece into two pieces is one, with the priority of the
    piece's score.

    Args:
        proto: `ModelProto`.
        where: the file, for messages.
        spaces: what becomes of a text's spaces. None: what the model itself says, its normalization included.

    Raises:
        InputError: the pieces are not those of such a model.
    """
    texts, types = [_respelled(p.piece, p.type) for p in proto.pieces], [p.type for p in proto.pieces]
    repeated = len(texts) - len(set(texts))
    if repeated or "" in texts:
        raise InputError(f"{where}: {repeated} pieces are given twice, or one is empty; each needs a text of its own")
    with backend.refusing(where):
        tokenizer = tokenizers.Tokenizer(_model(proto, texts, types))
        _pipeline(tokenizer, proto.normalizer_spec, spaces)
    backend.add_tokens(tokenizer, [
        *backend.control_tokens([t for t, kind in zip(texts, types, strict=True) if kind in (CONTROL, UNKNOWN)]),
        *backend.defined_tokens([t for t, kind in zip(texts, types, strict=True) if kind == USER_DEFINED
                                 and t.strip(_SPACE)]),  # merges find runs of spaces, in which text holds no ▁ yet
    ], where)
    return tokenizer


def _respelled(piece: str, kind: int) -> str:
    """Gemma's files write runs of spaces as such, though the pieces are looked up after each space became a ▁."""
    return _SPACE * len(piece) if kind in (NORMAL, USER_DEFINED) and piece and not piece.strip(" ") else piece


def _model(proto: Any, texts: Sequence[str], types: Sequence[int]) -> models.Model:
    trainer = proto.trainer_spec
    unknown = next((i for i, kind in enumerate(types) if kind == UNKNOWN), None)
    scores = [p.score for p in proto.pieces]
    if trainer.model_type == UNIGRAM:
        return models.Unigram(list(zip(texts, scores, strict=True)), unknown, byte_fallback=trainer.byte_fallback)
    vocab = {text: i for i, text in enumerate(texts)}
    whole = {text for text, kind in zip(texts, types, strict=True) if kind in (CONTROL, UNKNOWN, BYTE)}
    merges = []
    for i, text in enumerate(texts):
        if text in whole or (types[i] == USER_DEFINED and text.strip(_SPACE)):
            continue
        # Runs of spaces come before all words, as they do where sentencepiece looks for them before it merges.
        score = float("inf") if types[i] == USER_DEFINED else scores[i]
        for n in range(1, len(text)):
            left, right = text[:n], text[n:]
            if left in vocab and right in vocab and left not in whole and right not in whole:
                merges.append((-score, i, n, left, right))
    unk = None if unknown is None else texts[unknown]
    ordered: Any = [(left, right) for *_, left, right in sorted(merges)]
    return models.BPE(vocab, ordered, unk_token=unk, fuse_unk=True, byte_fallback=trainer.byte_fallback)


def _pipeline(tokenizer: tokenizers.Tokenizer, spec: Any, spaces: Spaces | None) -> None:
    steps: list[Any] = []
    if spaces is None:
        spaces = Spaces.EACH_PART if spec.add_dummy_prefix else Spaces.NONE
        if spec.precompiled_charsmap:
            steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
        if spec.remove_extra_whitespaces:
            steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spaces is Spaces.EACH_PART:
        steps.append(normalizers.Prepend(_SPACE))
    if spaces in (Spaces.EACH_PART, Spaces.NONE):
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    else:
        scheme: Any = "always" if spaces is Spaces.EACH_PART_WITHOUT else "first"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme, split=False)
    undo: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spaces is not Spaces.NONE:
        undo.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(undo)
