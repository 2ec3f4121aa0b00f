"""The vocabulary inside a GGUF file, as a `tokenizers` BPE or a sentencepiece model."""

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from ilf_jax.errors import InputError
from ilf_jax.tokenizers import backend, sentencepiece_model
from ilf_jax.tokenizers.sentencepiece_model import CONTROL, NORMAL, USER_DEFINED
from ilf_jax.tokenizers.slow_files import LLAMA3_WORDS

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
# Words that end where small letters turn to capitals; {ending}: what may follow one, {digits}: how long numbers are.
_CASED_WORDS = (
    r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{ending}"
    r"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{ending}"
    r"|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# Groups of three digits, counted from the end; nothing else is split.
_DIGIT_GROUPS = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
# tokenizer.ggml.pre -> regular expressions that split text into words, applied in order; None stands for GPT-2's.
PRE_TOKENIZERS: dict[str, tuple[str | None, ...]] = {
    **dict.fromkeys(("gpt-2", "gpt2", "olmo", "phi-2", "opt"), (None,)),
    **dict.fromkeys(("smollm", "refact", "starcoder", "command-r"), (r"\p{N}", None)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"), (LLAMA3_WORDS.format(digits="{1,3}"),)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (LLAMA3_WORDS.format(digits=""),)),
    "tekken": (_CASED_WORDS.format(ending="", digits=""),),
    "gpt-4o": (_CASED_WORDS.format(ending=_ENDING, digits="{1,3}"),),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "superbpe": (_DIGIT_GROUPS,),
}
_NFC = ("qwen2", "deepseek-r1-qwen")  # trained on composed characters
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")  # these look up a whole word before they apply merges
_WITH_BOS = ("llama-bpe", "llama3", "llama-v3")


class Vocabulary:
    """What a GGUF file's metadata says about its tokenizer.

    Attributes:
        metadata: all of it.
        tokens, types: text and type of each id.
    """

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        """Raises InputError if there is no vocabulary, or its lists are not of one length and of their types."""
        self.metadata, self.where = metadata, where
        if "tokenizer.ggml.tokens" not in metadata:
            raise InputError(f"{where}: has no vocabulary (tokenizer.ggml.tokens)")
        self.tokens = self._list("tokens", str, None)
        if not 0 < len(self.tokens) <= backend.MAX_TOKENS:
            raise InputError(f"{where}: tokenizer.ggml.tokens has {len(self.tokens)} entries; allowed: "
                             f"1..{backend.MAX_TOKENS}")
        self.types = self._list("token_type", int, NORMAL)

    def tokenizer(self) -> tuple[tokenizers.Tokenizer, bytes, bool]:
        """The tokenizer, its sentencepiece model or b"", and whether such models are trained with a leading BOS.

        Raises:
            InputError: it is of an unknown kind, or its parts do not match.
        """
        kind = self.metadata.get("tokenizer.ggml.model")
        if kind == "gpt2":
            pre = self.metadata.get("tokenizer.ggml.pre", "default")
            return self._byte_level_bpe(pre), b"", pre in _WITH_BOS
        if kind == "llama":
            proto = sentencepiece_model.of_pieces(
                self.tokens, self._list("scores", (int, float), 0.0), self.types,
                {"bos": self.number("bos_token_id"), "eos": self.number("eos_token_id")},
                add_space=self.flag("add_space_prefix", True),
                remove_spaces=self.flag("remove_extra_whitespaces", False))
            return sentencepiece_model.convert(proto, self.where), proto.SerializeToString(), True
        raise InputError(f"{self.where}: tokenizer.ggml.model = {kind!r}; allowed: gpt2, llama")

    def number(self, key: str) -> int | None:
        """tokenizer.ggml.KEY, an id of the vocabulary, if the file has it."""
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and (type(value) is not int or not 0 <= value < len(self.tokens)):
            raise InputError(f"{self.where}: tokenizer.ggml.{key} = {value!r}; the vocabulary has the ids "
                             f"0..{len(self.tokens) - 1}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """tokenizer.ggml.KEY, true or false."""
        value = self.metadata.get(f"tokenizer.ggml.{key}", default)
        if type(value) is not bool:
            raise InputError(f"{self.where}: tokenizer.ggml.{key} = {value!r:.80}; allowed: true, false")
        return value

    def _list(self, key: str, of: type | tuple[type, ...], default: Any) -> list[Any]:
        """tokenizer.ggml.KEY, a value for each token."""
        values = self.metadata.get(f"tokenizer.ggml.{key}")
        if values is None and default is not None:
            return [default] * len(self.tokens)
        name = f"{self.where}: tokenizer.ggml.{key}"
        if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, of) for v in values):
            raise InputError(f"{name} must be a list of {getattr(of, '__name__', 'number')}")
        if key != "tokens" and len(values) != len(self.tokens):
            raise InputError(f"{name} has {len(values)} entries for {len(self.tokens)} tokens")
        return values

    def _byte_level_bpe(self, pre: str) -> tokenizers.Tokenizer:
        if pre not in PRE_TOKENIZERS:
            raise InputError(f"{self.where}: tokenizer.ggml.pre = {pre!r}; allowed: {', '.join(PRE_TOKENIZERS)}")
        merges = self.metadata.get("tokenizer.ggml.merges", [])
        if not isinstance(merges, list) or not all(isinstance(m, str) and " " in m[1:-1] for m in merges):
            raise InputError(f"{self.where}: tokenizer.ggml.merges must be a list of two tokens with a space between")
        # A token may begin with a space of its own: the one that parts the two is the first behind a character.
        pairs: Any = [(m[: m.index(" ", 1)], m[m.index(" ", 1) + 1 :]) for m in merges]
        vocab = {token: i for i, token in enumerate(self.tokens)}
        try:
            bpe = models.BPE(vocab, pairs, fuse_unk=False, ignore_merges=pre in _WHOLE_WORDS)
        except Exception as error:  # tokenizers raises plain Exception
            raise InputError(f"{self.where}: the merges do not match the vocabulary ({error})") from error
        steps: list[Any] = []
        for regex in PRE_TOKENIZERS[pre]:
            if regex is not None:
                steps.append(pre_tokenizers.Split(Regex(regex), behavior="isolated"))
        gpt2_words = None in PRE_TOKENIZERS[pre]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2_words))
        tokenizer = tokenizers.Tokenizer(bpe)
        if pre in _NFC:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
        kinds = list(zip(self.tokens, self.types, strict=True))
        backend.add_tokens(tokenizer, [
            *backend.control_tokens([t for t, kind in kinds if kind == CONTROL]),
            *backend.defined_tokens([t for t, kind in kinds if kind == USER_DEFINED]),
        ], self.where)
        return tokenizer
