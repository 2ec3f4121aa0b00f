"""Folders that were read wrongly once, each beside what transformers makes of it."""

import json
import shutil
from pathlib import Path

import pytest

from ilf_jax.errors import InputError
from ilf_jax.tokenizers.tokenizer import Tokenizer

CASES = Path(__file__).parents[1] / "cases"
STRINGS = json.loads((CASES / "strings_300/strings.json").read_text())


def test_three_hundred_strings():
    assert len(set(STRINGS)) == 300


@pytest.mark.parametrize("case", ["slow_tokenizer_folder", "sentencepiece_not_legacy", "turn_end_not_in_eos"])
def test_ids_as_transformers(case):
    transformers = pytest.importorskip("transformers", reason="the other side of the comparison")
    ours, theirs = Tokenizer.load(f"hf:{CASES / case}"), transformers.AutoTokenizer.from_pretrained(CASES / case)
    for special in (False, True):
        rows = theirs(STRINGS, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
        for text, row, own in zip(STRINGS, rows, ours.encode_batch(STRINGS, special=special), strict=True):
            assert own == row, (special, text)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.mark.fast
def test_added_tokens_are_tokens():
    tokenizer = Tokenizer.load(f"hf:{CASES / 'slow_tokenizer_folder'}")
    assert tokenizer.encode("<|im_start|>a<|im_end|><pad>", special=True) == [392, 65, 393, 394]
    assert tokenizer.stop_ids == (0, 393)


@pytest.mark.fast
def test_added_tokens_json_without_a_list_of_ids(tmp_path):
    folder = shutil.copytree(CASES / "slow_tokenizer_folder", tmp_path / "t")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["added_tokens_decoder"]
    settings["additional_special_tokens"] = ["<|im_start|>", "<|im_end|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(f"hf:{folder}")
    assert tokenizer.encode("<|im_start|>a<|im_end|><pad>", special=True) == [392, 65, 393, 394]
    assert set(tokenizer.encode("<|im_end|>")).isdisjoint({392, 393})


@pytest.mark.fast
def test_special_tokens_map(tmp_path):
    folder = shutil.copytree(CASES / "slow_tokenizer_folder", tmp_path / "t")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (folder / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>", "lstrip": false}}')
    tokenizer = Tokenizer.load(f"hf:{folder}")
    assert tokenizer.eos_id == 393 and tokenizer.encode("<|im_end|>", special=True) == [393]


@pytest.mark.fast
def test_an_id_that_leaves_a_gap_is_refused(tmp_path):
    folder = shutil.copytree(CASES / "slow_tokenizer_folder", tmp_path / "t")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["added_tokens_decoder"]["393"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="'<pad>' is listed with the id 394, and the next free one is 393"):
        Tokenizer.load(f"hf:{folder}")


@pytest.mark.fast
def test_qwen_composes_characters(tmp_path):
    folder = shutil.copytree(CASES / "slow_tokenizer_folder", tmp_path / "t")
    plain = Tokenizer.load(f"hf:{folder}")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "Qwen2Tokenizer"}))
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    qwen = Tokenizer.load(f"hf:{folder}")
    assert qwen.encode("cafe\u0301") == qwen.encode("caf\u00e9") != plain.encode("cafe\u0301")
    assert len(qwen.encode("2024")) == 4  # each digit is a word


@pytest.mark.fast
def test_a_class_with_rules_of_its_own_is_refused(tmp_path):
    folder = shutil.copytree(CASES / "slow_tokenizer_folder", tmp_path / "t")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BartTokenizer"}')
    with pytest.raises(InputError, match=r"class BartTokenizer; allowed: GPT2Tokenizer.*writes a tokenizer\.json"):
        Tokenizer.load(f"hf:{folder}")


@pytest.mark.fast
def test_the_turn_s_end_ends_outputs(tmp_path):
    """Its Llama-3 layout names <|end_of_text|> (392) alone; a turn ends in <|eot_id|> (395)."""
    tokenizer = Tokenizer.load(f"hf:{CASES / 'turn_end_not_in_eos'}")
    assert tokenizer.eos_id == 392 and tokenizer.turn_end_id == 395
    assert set(tokenizer.stop_ids) == {392, 395, 396} and tokenizer.stop_ids[0] == 392
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == list(tokenizer.stop_ids)
    assert Tokenizer.load(f"hf:{tmp_path}").stop_ids == tokenizer.stop_ids


@pytest.mark.fast
@pytest.mark.parametrize(("ends", "closing"), [
    ("<|end|>\n<|endoftext|>", "<|end|>"),  # what follows the turn closes no turn
    ("\n<|closing|>", "<|closing|>"),  # a name that no table has
    ("\n", None),  # plain text
])
def test_what_closes_a_turn(ends, closing, tmp_path):
    folder = shutil.copytree(CASES / "turn_end_not_in_eos", tmp_path / "t")
    data = json.loads((folder / "tokenizer.json").read_text())
    flags = {k: v for k, v in data["added_tokens"][0].items() if k not in ("id", "content")}
    for text in ("<|end|>", "<|endoftext|>", "<|closing|>"):
        last = data["added_tokens"][-1]["id"]
        data["added_tokens"].append({"id": last + 1, "content": text, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(data))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}" + ends
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(f"hf:{folder}")
    want = None if closing is None else tokenizer.encode(closing, special=True)[0]
    assert tokenizer.turn_end_id == want
    assert want is None or want in tokenizer.stop_ids


@pytest.mark.fast
@pytest.mark.parametrize("eos", [397, 2**31, -1, "</s>", 1.5, True, [392, 397]])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_beyond_the_vocabulary(eos, file, tmp_path):
    folder = shutil.copytree(CASES / "turn_end_not_in_eos", tmp_path / "t")
    (folder / file).write_text(json.dumps({"eos_token_id": eos}))
    with pytest.raises(InputError, match=r"has the id .*, and the vocabulary has the ids 0\.\.396"):
        Tokenizer.load(f"hf:{folder}")
