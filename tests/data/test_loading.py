"""Loading: field mapping, and every kind of bad input with its place."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ilf_jax.data.loading import LoadResult, load_examples
from ilf_jax.errors import InputError
from ilf_jax.records import Example

pytestmark = [pytest.mark.fast, pytest.mark.versions]

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DEFACTO = REPOSITORY / "../shared/data/defacto/train.jsonl"


@pytest.fixture
def write(tmp_path):
    def write_rows(*rows):
        path = tmp_path / "rows.jsonl"
        lines = [row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
                 for row in rows]
        path.write_bytes(b"\n".join(lines))
        return f"jsonl:{path}"

    return write_rows


def test_fields_and_ids(write):
    source = write(
        {"key": 7, "post": "Rain fell.", "feedback": {"explanation": "Say where.", "n": 2}, "title": "Rain"},
        {"key": 8, "post": "Snow\nfell.", "feedback": None, "title": None},
    )
    result = load_examples(source, {"id": "key", "document": "post", "feedback": "feedback.explanation"})
    assert result == LoadResult((
        Example("7", "Rain fell.", title="Rain", feedback="Say where."),
        Example("8", "Snow\nfell."),
    ), skipped=0, left_out=0)


def test_ids_default_to_line_numbers_and_blank_lines_are_passed_over(write):
    result = load_examples(write("\ufeff" + json.dumps({"document": "a"}), "", {"document": 3.5}, ""), {})
    assert [(e.id, e.document) for e in result.examples] == [("row-000001", "a"), ("row-000003", "3.5")]


def test_a_field_mapped_to_nothing_is_not_read(write):
    source = write({"id": "x", "document": "a", "draft": "old", "a.b": "dotted"})
    (example,) = load_examples(source, {"draft": "", "title": "a.b"}).examples
    assert (example.draft, example.title) == ("", "dotted")


@pytest.mark.parametrize(("bad", "message"), [
    ('{"document": "b"', r"rows\.jsonl:2: the line is not valid JSON"),
    ("[1]", r"rows\.jsonl:2: not a JSON object"),
    (b'{"document": "\xff"}', r"rows\.jsonl:2: the line is not UTF-8 .*save the file as UTF-8"),
    ({"text": "b"}, r"rows\.jsonl:2: the row lacks 'document', read as document.*; it has text"),
    ({"document": ["b"]}, r"rows\.jsonl:2: field 'document' \(document\): the value is a list"),
    ({"document": "b", "title": {"x": 1}}, r"rows\.jsonl:2: field 'title' \(title\): the value is an object"),
    ({"document": "b", "title": True}, r"rows\.jsonl:2: .*boolean"),
    ({"document": " \n"}, r"rows\.jsonl:2: the document is empty"),
    ({"document": "b", "id": ""}, r"rows\.jsonl:2: the id is empty"),
    ({"document": "\ud800"}, r"rows\.jsonl:2: .*surrogate"),
    ({"document": "b", "id": "a"}, r"rows\.jsonl:2: id 'a' is already used by .*rows\.jsonl:1"),
])
def test_bad_rows_stop_or_are_counted(write, bad, message):
    source = write({"id": "a", "document": "a"}, bad, {"id": "c", "document": "c"})
    with pytest.raises(InputError, match=message):
        load_examples(source, {})
    result = load_examples(source, {}, on_error="skip")
    assert [e.id for e in result.examples] == ["a", "c"]
    assert (result.skipped, result.left_out) == (1, 0)
    assert "rows.jsonl:2" in result.first_error


def test_a_mapped_path_must_be_there(write):
    source = write({"document": "a", "feedback": {"x": "1"}}, {"document": "b", "feedback": {}})
    with pytest.raises(InputError, match=r":2: the row lacks 'feedback\.x', read as feedback .*it has document, feed"):
        load_examples(source, {"feedback": "feedback.x"})


def test_skip_empty(write):
    source = write({"document": "a", "feedback": " "}, {"document": "b", "feedback": "x"}, {"document": "c"})
    result = load_examples(source, {}, skip_empty=("feedback",))
    assert ([e.document for e in result.examples], result.left_out) == (["b"], 2)
    with pytest.raises(InputError, match=r"no examples are left: 3 rows have a blank field .*\(draft\)"):
        load_examples(source, {}, skip_empty=("draft",))


def test_empty_and_all_bad(write):
    with pytest.raises(InputError, match=r"rows\.jsonl: the data set is empty"):
        load_examples(write(""), {})
    with pytest.raises(InputError, match=r"2 rows are bad, the first: .*rows\.jsonl:1: the row lacks 'document'"):
        load_examples(write({"a": 1}, {"b": 1}), {}, on_error="skip")


def test_missing_and_unreadable_files(tmp_path, write):
    write({"document": "a"})
    with pytest.raises(InputError, match=r"no file .*row\.jsonl; did you mean .*rows\.jsonl\?"):
        load_examples(f"jsonl:{tmp_path}/row.jsonl", {})
    with pytest.raises(InputError, match="cannot be read"):
        load_examples(f"jsonl:{tmp_path}", {})


@pytest.mark.parametrize(("source", "fields", "more", "message"), [
    ("xml:a.csv", {}, {}, r"config\.data\.source: 'xml:a\.csv' given; allowed are jsonl:FILE .*, tfds:NAME, builtin"),
    ("rows", {}, {}, r"allowed are jsonl:FILE"),
    ("jsonl:", {}, {}, r"allowed are jsonl:FILE"),
    ("jsonl:x", {"documnt": "a"}, {}, r"config\.data\.fields: unknown field 'documnt'; did you mean 'document'"),
    ("jsonl:x", {"document": 3}, {}, r"config\.data\.fields\.document: 3 given"),
    ("jsonl:x", {}, {"skip_empty": ("feedbak",)}, r"config\.data\.skip_empty: .*did you mean 'feedback'"),
    ("jsonl:x", {}, {"on_error": "ignore"}, r"config\.data\.on_error: 'ignore' given; allowed are 'stop', 'skip'"),
])
def test_bad_arguments(source, fields, more, message):
    with pytest.raises(InputError, match=message):
        load_examples(source, fields, **more)


def test_builtin_is_delegated(monkeypatch):
    module = types.ModuleType("builtin")
    module.generate = lambda name, split: [Example(f"{name}-{split}-{i}", f"text {i}", draft="d") for i in range(2)]
    monkeypatch.setitem(sys.modules, "ilf_jax.data.builtin", module)
    import ilf_jax.data

    monkeypatch.setattr(ilf_jax.data, "builtin", module, raising=False)
    result = load_examples("builtin:toy", {}, split="eval")
    assert result.examples == tuple(module.generate("toy", "eval"))
    (first, _) = load_examples("builtin:toy", {"feedback": "draft", "draft": ""}).examples
    assert (first.feedback, first.draft) == ("d", "")


class TinyNotes(tfds.core.GeneratorBasedBuilder):
    """Made-up rows with a nested field and an integer id."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, features=tfds.features.FeaturesDict({
            "number": tfds.features.Scalar(dtype=np.int64), "note": tfds.features.Text(),
            "said": tfds.features.FeaturesDict({"short": tfds.features.Text()})}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, text in enumerate(("Wässer is wet.", "Fire is hot.", "Ice is cold.")):
            yield i, {"number": 10 + i, "note": text, "said": {"short": f"say {i}"}}


def test_tfds(tmp_path):
    TinyNotes(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    fields = {"id": "number", "document": "note", "feedback": "said.short"}
    result = load_examples("tfds:tiny_notes", fields, folder=str(tmp_path), split="train")
    assert result.examples == (
        Example("10", "Wässer is wet.", feedback="say 0"),
        Example("11", "Fire is hot.", feedback="say 1"),
        Example("12", "Ice is cold.", feedback="say 2"),
    )
    with pytest.raises(InputError, match=r"tfds:tiny_notes\[train\] row 1: the row lacks 'text'"):
        load_examples("tfds:tiny_notes", {"document": "text"}, folder=str(tmp_path))
    with pytest.raises(InputError, match=r"tfds:tiny_notes, split 'nope'.*cannot be opened"):
        load_examples("tfds:tiny_notes", fields, folder=str(tmp_path), split="nope")


def test_unknown_tfds_name(tmp_path):
    with pytest.raises(InputError, match=r"tfds:no_such_notes_here, split 'train'.*cannot be opened"):
        load_examples("tfds:no_such_notes_here", {}, folder=str(tmp_path))


@pytest.mark.skipif(not DEFACTO.exists(), reason=f"needs {DEFACTO}, which is not part of the project")
def test_real_feedback():
    fields = {"id": "doc_id", "document": "article", "draft": "candidate", "feedback": "feedback.explanation",
              "human_refinement": "feedback.summary", "reference": "abstract"}
    result = load_examples(f"jsonl:{DEFACTO}", fields, skip_empty=("feedback", "draft"))
    assert len(result.examples) + result.left_out == 1000
    assert result.skipped == 0
    assert all(e.id.isdigit() and e.document and e.draft and e.feedback for e in result.examples)


CASES = pathlib.Path(__file__).parents[1] / "cases"


def test_numbers_that_are_not_finite_are_null():
    source = f"jsonl:{CASES / 'nan_json/data.jsonl'}"
    first, second = load_examples(source, {}).examples
    assert (first.feedback, first.human_refinement, second.feedback) == ("", "", "Say whom.")
    result = load_examples(source, {}, skip_empty=("feedback",))
    assert [e.document for e in result.examples] == ["Carl met Dora."] and result.left_out == 1


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "null"])
def test_ids_that_are_missing_are_line_numbers(write, value):
    (example,) = load_examples(write(f'{{"document": "a", "id": {value}, "title": {value}}}'), {}).examples
    assert (example.title, example.id) == ("", "row-000001")


def test_paths_lead_into_lists():
    source = f"jsonl:{CASES / 'list_path/data.jsonl'}"
    fields = {"document": "prompt", "draft": "summaries.0.text", "reference": "chosen.-1.content"}
    (example,) = load_examples(source, fields).examples
    assert (example.draft, example.reference) == ("a", "a")
    for path in ("summaries.2.text", "summaries.-3.text", "summaries.x", "summaries.0.text.0", "choice.0"):
        with pytest.raises(InputError, match="the row lacks"):
            load_examples(source, {**fields, "draft": path})


def test_lists_are_joined_if_that_is_asked_for(write):
    source = write({"document": "a", "feedback": ["Say who.", None, 3], "notes": [{"x": 1}]})
    with pytest.raises(InputError, match=r"rows.jsonl:1: field 'feedback' .* is a list; .*set `join`"):
        load_examples(source, {})
    (example,) = load_examples(source, {}, join=" ").examples
    assert example.feedback == "Say who. 3"
    with pytest.raises(InputError, match="element 0: the value is an object"):
        load_examples(source, {"title": "notes"}, join=" ")


def test_rows_are_selected(write):
    source = write({"document": "a", "lang": "en", "info": {"n": 1, "ok": True}}, {"document": "b", "lang": "de"},
                   {"document": "c", "lang": "en", "info": {"n": 2, "ok": False}}, {"document": "d"})

    def chosen(*where):
        result = load_examples(source, {}, where=where)
        assert result.not_selected == 4 - len(result.examples)
        return "".join(e.document for e in result.examples)

    assert chosen("lang=en") == "ac" and chosen("lang!=en") == "bd" and chosen("lang=") == "d"
    assert chosen("lang=en", "info.n=2") == "c" and chosen("info.ok=true") == "a" and chosen() == "abcd"
    with pytest.raises(InputError, match=r"no row meets config.data.where; left out were 'lang=en' \(2 rows\)"):
        load_examples(source, {}, where=("lang=fr",))
    for wrong in ("lang", "=en", "!=en"):
        with pytest.raises(InputError, match="must be 'PATH=VALUE'"):
            load_examples(source, {}, where=(wrong,))


def test_answers_have_no_blanks_around_them():
    examples = load_examples(f"jsonl:{CASES / 'target_whitespace/data.jsonl'}", {}).examples
    by_document = {}
    for example in examples:
        by_document.setdefault(example.document, set()).add(example.human_refinement)
    assert all(len(texts) == 1 and texts == {t.strip() for t in texts} for texts in by_document.values())


def test_blanks_around_targets_take_no_tokens(tmp_path):
    """As many target tokens as of the same rows without blanks, and fewer than the file itself would give."""
    from ilf_jax.tokenizers import bpe_training
    from ilf_jax.tokenizers.tokenizer import Tokenizer

    path = CASES / "target_whitespace/data.jsonl"
    bpe_training.train_bpe([path.read_text()], 270, tmp_path, "")
    tokenizer = Tokenizer.load(f"hf:{tmp_path}")
    as_written = [json.loads(line)["human_refinement"] for line in path.read_text().splitlines()]
    read = [e.human_refinement for e in load_examples(f"jsonl:{path}", {}).examples]

    def count(texts):
        return sum(len(tokenizer.encode(text)) + 1 for text in texts)  # the end token is learned, too

    assert count(read) == count([text.strip() for text in as_written]) < count(as_written)


def test_a_key_that_stands_twice_is_refused(write):
    with pytest.raises(InputError, match=r"rows\.jsonl:1: the line is not valid JSON: the key 'draft' appears twice"):
        load_examples(write('{"document": "a", "draft": "b", "draft": "c"}'), {})
    with pytest.raises(InputError, match=r"rows\.jsonl:1"):
        load_examples(write('{"document": ' + "9" * 5000 + "}"), {})


def test_conditions_on_bad_rows_and_on_fields_that_no_row_has(write):
    source = write({"document": "a", "lang": "en"}, "[1]", {"document": "b", "lang": {"x": 1}}, {"document": "c"})
    with pytest.raises(InputError, match=r"rows\.jsonl:2: not a JSON object"):
        load_examples(source, {}, where=("lang!=de",))
    result = load_examples(source, {}, where=("lang!=de",), on_error="skip")
    assert ([e.document for e in result.examples], result.skipped) == (["a", "c"], 2)
    with pytest.raises(InputError, match=r"config\.data\.where: no row has 'lnag'"):
        load_examples(source, {}, where=("lnag!=de",), on_error="skip")


PAIR = {"document": "Rain fell.", "a": " One ", "info": {"b": "Two"}, "choice": "B"}
OF_PAIR = {"first": "a", "second": "info.b", "preferred": "choice"}


def test_comparisons_are_read_as_draft_and_refinement(write):
    source = write(PAIR, {**PAIR, "choice": "A", "draft": "not read"})
    assert load_examples(source, OF_PAIR, sides=("A", "B")).examples == (
        Example("row-000001", "Rain fell.", draft="One", human_refinement="Two"),
        Example("row-000002", "Rain fell.", draft="Two", human_refinement="One"))


@pytest.mark.parametrize(("row", "fields", "sides", "message"), [
    ({**PAIR, "choice": "tie"}, OF_PAIR, "AB", r"rows\.jsonl:1: preferred is 'tie'; allowed .*config\.data\.sides"),
    ({**PAIR, "a": " "}, OF_PAIR, "AB", r":1: the first text is empty"),
    ({"document": "d", "a": "x", "choice": "A"}, OF_PAIR, "AB", r":1: the row lacks 'info\.b', read as second"),
    (PAIR, OF_PAIR, "AA", r"config\.data\.sides=\('A', 'A'\): must be two different"),
    (PAIR, OF_PAIR, "ABC", r"config\.data\.sides=.* must be two different"),
    (PAIR, {"first": "a", "second": "info.b"}, "AB", r"config\.data\.fields\.first: .*config\.data\.fields\.preferred"),
    (PAIR, {**OF_PAIR, "draft": "a"}, "AB", r"config\.data\.fields\.draft='a' with config\.data\.fields\.preferred"),
])
def test_what_is_no_comparison(write, row, fields, sides, message):
    with pytest.raises(InputError, match=message):
        load_examples(write(row), fields, sides=tuple(sides))
