"""Mutated tokenizer files: they load, and are saved and read again as they were, or the input is refused."""

import copy
import json
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import Outcomes, counted

from ilf_jax.errors import InputError
from ilf_jax.tokenizers.tokenizer import Tokenizer

CASES = Path(__file__).parents[1] / "cases"
TEXTS = ["Is it good? Answer: Yes", "a<|eot_id|>b<s></s><|im_end|>", "",
         "  two  spaces\n\n\tna\u00efve \u4f60\u597d \U0001f642"]
SECONDS = 10

HOSTILE = st.sampled_from([
    None, True, "", "x", "\ud800", "\0", "a" * 1000, -1, 0, 1, 395, 397, 2**31, 2**32, 2**63, 2**70, -(2**31), 1.5,
    1e308, float("nan"), float("inf"), [], {}, [[]], [None], {"": ""}, {"content": None}, {"type": "Sequence"},
    {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}, {"type": "ByteLevel"}, [["a", 1.0]], ["a b"],
])


@st.composite
def mutated_json(draw, text):
    """JSON text with one to three values replaced, dropped or repeated."""
    value = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        place, key = value, None
        while True:
            inside = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not inside:
                break
            key = draw(st.sampled_from(inside))
            if not isinstance(place[key], dict | list) or draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        if key is None or key not in (place if isinstance(place, dict) else range(len(place))):
            continue
        match draw(st.sampled_from(["replace", "replace", "drop", "rename", "repeat"])):
            case "replace":
                place[key] = copy.deepcopy(draw(HOSTILE))
            case "drop":
                del place[key]
            case "rename" if isinstance(place, dict):
                place[draw(st.sampled_from(["", "id", "content", "type", "eos_token", "vocab"]))] = place.pop(key)
            case "repeat" if isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
    return json.dumps(value).encode()


@st.composite
def mutated_bytes(draw, data):
    """Bytes with some changed, cut out or put in, or with the end missing."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["flip", "cut", "put", "end", "swap"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "put":
                varint = b"\xff\xff\xff\xff\x0f"
                data[at:at] = draw(st.one_of(st.binary(max_size=12), st.sampled_from([b"\n", b" ", varint])))
            case "end":
                del data[at:]
            case "swap":
                data[at : at + 8] = bytes(data[at : at + 8])[::-1]
    return bytes(data)


FILES = [
    ("turn_end_not_in_eos", "tokenizer.json"), ("turn_end_not_in_eos", "tokenizer_config.json"),
    ("turn_end_not_in_eos", "config.json"), ("slow_tokenizer_folder", "vocab.json"),
    ("slow_tokenizer_folder", "merges.txt"), ("slow_tokenizer_folder", "added_tokens.json"),
    ("slow_tokenizer_folder", "tokenizer_config.json"), ("sentencepiece_not_legacy", "tokenizer.model"),
    ("sentencepiece_not_legacy", "tokenizer_config.json"),
]

OUTCOMES = {name: Outcomes() for name in dict.fromkeys(name for _, name in FILES)}
counts = counted(**OUTCOMES)


def check(folder, case, name, content):
    """Whether the folder with this file is read; what is read is saved and read again."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CASES / case, folder / "original")
    if name == "added_tokens.json":  # it counts where tokens are not listed elsewhere
        (folder / "original/tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (folder / "original" / name).write_bytes(content)
    began = time.monotonic()
    try:
        tokenizer = Tokenizer.load(f"hf:{folder / 'original'}")
        ids = [tokenizer.encode_batch(TEXTS, special=special) for special in (False, True)]
        facts = (tokenizer.stop_ids, tokenizer.bos_id, tokenizer.eos_id, len(tokenizer.token_texts))
        tokenizer.save(folder / "saved")
    except InputError as error:
        assert str(folder) in str(error)
        return False
    finally:
        assert time.monotonic() - began < SECONDS
    back = Tokenizer.load(f"hf:{folder / 'saved'}")
    assert [back.encode_batch(TEXTS, special=special) for special in (False, True)] == ids
    assert (back.stop_ids, back.bos_id, back.eos_id, len(back.token_texts)) == facts
    return True


@pytest.mark.parametrize(("case", "name"), FILES, ids=lambda value: value)
@given(data=st.data())
def test_read_or_refused(case, name, tmp_path, data):
    original = (CASES / case / name).read_bytes()
    ways = [mutated_bytes(original)]
    if name.endswith(".json"):
        ways += [mutated_json(original)] * 3
    is_read = check(tmp_path / "t", case, name, data.draw(st.one_of(ways)))
    OUTCOMES[name]["equal" if is_read else "InputError"] += 1


@pytest.mark.parametrize(("case", "name"), FILES, ids=lambda value: value)
def test_the_originals_are_read(case, name, tmp_path):
    assert check(tmp_path / "t", case, name, (CASES / case / name).read_bytes())


NO_OBJECTS = [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'{"eos_token": "\\ud800"}']
NO_TOKENIZERS = [
    b'{"version": "1.0"}',
    b'{"model": {"type": "BPE", "vocab": {"a": 2147483648}, "merges": []}}',
    b'{"model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]]}}',
    b'{"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}',
    # The library would cut "é" in two, and end the process.
    '{"model": {"type": "BPE", "continuing_subword_prefix": "#", "vocab": {"a": 0, "é": 1, "aé": 2}, '
    '"merges": [["a", "é"]]}}'.encode(),
    b'{"added_tokens": [{"id": 2147483648, "content": "<b>", "special": true, "single_word": false, "lstrip": false, '
    b'"rstrip": false, "normalized": false}], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',
]


@pytest.mark.fast
@pytest.mark.parametrize(("name", "content"), [
    *(("tokenizer_config.json", content) for content in NO_OBJECTS),
    *(("tokenizer.json", content) for content in [*NO_OBJECTS, *NO_TOKENIZERS]),
])
def test_what_no_tokenizer_is(name, content, tmp_path):
    assert not check(tmp_path / "t", "turn_end_not_in_eos", name, content)
