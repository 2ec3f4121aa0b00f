"""Held-out documents that are in the training data are counted, whatever their case, blanks and punctuation."""

import json
import random

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.data import documents, overlap

WORDS = [f"w{i}" for i in range(2000)]


def document(seed, words=60):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def test_equal_near_and_repeated():
    train = [document(i) for i in range(20)]
    again = train[3].upper().replace(" ", ",  ")
    half = " ".join(train[4].split()[:50]) + " " + document(99, 20)  # 38 of 58 passages
    quarter = " ".join(train[5].split()[:25]) + " " + document(98, 60)
    found = overlap.overlap([*train, train[7] + "."], [again, half, quarter, document(97), "a short name"])
    assert found == overlap.Overlap(equal=1, near=1, held_out=5, repeated=1, train=21)
    assert "2 of 5 held-out documents" in found.warning and "1 of 21 training documents repeat" in found.warning


def test_passages_against_their_definition():
    texts = [document(i, 30) for i in range(6)]
    held_out = [" ".join([*a.split()[:k], *b.split()[k:]])
                for a, b, k in zip(texts, texts[1:], range(12, 30, 4), strict=False)]

    def grams(text):
        words = text.split()
        return [tuple(words[i : i + 13]) for i in range(len(words) - 12)]

    known = {gram for text in texts for gram in grams(text)}
    expected = sum(2 * sum(gram in known for gram in grams(text)) >= len(grams(text)) for text in held_out)
    found = overlap.overlap(texts, held_out)
    assert found.near == expected > 0 and found.equal == 0


def test_nothing_to_compare():
    assert overlap.overlap([], []).warning == ""
    assert overlap.overlap(["!!!", "", "\u2026"], ["???", "", "."]).leaked == 0


def test_short_documents_and_those_without_blanks_count():
    assert overlap.overlap(["Bo Smith", "Bo"], ["bo  SMITH.", "Smith"]) == overlap.Overlap(1, 0, 2, 0, 2)
    text = "他昨天去了市場買了蘋果然後回家做飯"  # no blanks
    found = overlap.overlap([text], [f"{text}\u3002", f"\u6211{text[1:]}", text[::-1]])
    assert (found.equal, found.near) == (1, 1)


def test_a_run_says_so_before_it_begins(tmp_path, caplog):
    rows = [{"document": document(i, 12)} for i in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0], rows[1]]))
    config = config_lib.with_overrides(config_lib.Config(), {"data.source": f"jsonl:{path}", "data.eval_size": 2})
    assert documents.load_documents(config).leaked == 2
    assert "2 of 2 held-out documents are also in the training data" in caplog.text


def test_a_run_reports_it(tiny_config, tmp_path, quick_compiles):
    rows = [{"document": f"Number {i} of those people"} for i in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:6], *rows[4:]]))
    tiny_config.data.source, tiny_config.data.eval_source = f"jsonl:{path}", None
    metrics = ilf_jax.run(tiny_config, tmp_path / "run")
    leaked = [row["value"] for row in metrics if row["metric"] == "held_out_in_training"]
    assert leaked == [2.0, 2.0]  # before training and after it
