"""Pairs for people: blinded, shuffled by a seed, and read back to the same win rates."""

import json
import pathlib

import pytest

from ilf_jax.comparison import by_people, compared
from ilf_jax.errors import InputError
from ilf_jax.records import Example

pytestmark = pytest.mark.fast

DOCUMENTS = {f"d{i}": Example(f"d{i}", f"text {i}", title="T") for i in range(6)}
SYSTEMS = {
    "ilf": {i: f"good {i}" for i in DOCUMENTS},
    "old": {**{i: f"bad {i}" for i in DOCUMENTS}, "d5": "good d5"},  # the last one is equal: not asked about
    "other": {i: f"fair {i}" for i in DOCUMENTS},
}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(path, better):
    rows = [{**row, "better": better(row)} for row in lines(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_answers_come_back_as_win_rates(tmp_path):
    path = tmp_path / "pairs.jsonl"
    assert by_people.export(path, DOCUMENTS, SYSTEMS, seed=1) == 6 * 3 - 1
    value = {"good": 2, "fair": 1, "bad": 0}
    answer(path, lambda row: "A" if value[row["A"].split()[0]] > value[row["B"].split()[0]] else "B")
    found = {m.id: m for m in by_people.read(path, SYSTEMS)[by_people.OVERALL]}
    assert found["ilf vs old"].outcomes == {**{f"d{i}": 1.0 for i in range(5)}, "d5": 0.5}
    assert found["ilf vs other"].win_rate == 1.0
    assert found["old vs other"].outcomes == {**{f"d{i}": 0.0 for i in range(5)}, "d5": 1.0}


def test_judges_cannot_tell_who_wrote_what(tmp_path):
    one, same, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    for path, seed in ((one, 1), (same, 1), (other, 2)):
        by_people.export(path, DOCUMENTS, SYSTEMS, seed)
    assert one.read_text() == same.read_text() != other.read_text()
    rows = lines(one)
    assert all(set(row) == {"pair", "title", "document", "A", "B", "better"} for row in rows)
    assert not any(name in one.read_text() for name in SYSTEMS)
    firsts = {row["A"].split()[0] for row in rows}
    assert firsts == {"good", "bad", "fair"}  # no system always stands in one place
    assert [row["document"] for row in rows] != sorted(row["document"] for row in rows)


def test_what_is_not_answered_does_not_count(tmp_path):
    path = tmp_path / "pairs.jsonl"
    by_people.export(path, DOCUMENTS, {n: SYSTEMS[n] for n in ("ilf", "other")}, seed=0)
    with pytest.raises(InputError, match="no line has an answer"):
        by_people.read(path, SYSTEMS)
    answer(path, lambda row: "tie" if row["pair"] <= 2 else "")
    (found,) = by_people.read(path, {n: SYSTEMS[n] for n in ("ilf", "other")})[by_people.OVERALL]
    assert list(found.outcomes.values()) == [0.5, 0.5]


def test_criteria_have_win_rates_of_their_own(tmp_path, capsys):
    """ILF's texts are better, the old ones shorter, which only some lines say."""
    path, systems = tmp_path / "pairs.jsonl", {n: SYSTEMS[n] for n in ("ilf", "old")}
    by_people.export(path, DOCUMENTS, systems, seed=1)
    rows = []
    for row in lines(path):
        good, bad = ("A", "B") if row["A"].startswith("good") else ("B", "A")
        rows.append({**row, "better": good, "criteria": {"brevity": bad if row["pair"] <= 4 else "", "style": "tie"}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = by_people.read(path, systems)
    ((overall,), (brevity,), (style,)) = found[by_people.OVERALL], found["brevity"], found["style"]
    assert list(found) == [by_people.OVERALL, "brevity", "style"]
    assert (overall.outcomes["d5"], overall.win_rate, len(overall.outcomes)) == (0.5, 5.5 / 6, 6)
    # Four of the five pairs say something of brevity; as large a share of the one with equal texts, rounded, is one.
    assert [value for i, value in brevity.outcomes.items() if i != "d5"] == [0.0] * 4 and len(brevity.outcomes) == 5
    assert style.win_rate == 0.5
    compared.print_matches(found.pop(by_people.OVERALL), found)
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in table if row[1:3] == ["ilf", "old"]] == ["overall", "brevity", "style"]


def test_bad_files(tmp_path):
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(InputError, match="no such file"):
        by_people.read(path, SYSTEMS)
    by_people.export(path, DOCUMENTS, SYSTEMS, seed=0)
    with pytest.raises(InputError, match="exists and may contain answers"):
        by_people.export(path, DOCUMENTS, SYSTEMS, seed=0)
    answer(path, lambda row: "C")
    with pytest.raises(InputError, match=r"pairs\.jsonl:1: better is 'C'; allowed are A, B, tie"):
        by_people.read(path, SYSTEMS)
    answer(path, lambda row: "A")
    answered = path.read_text()
    for criteria, message in ((["A"], "criteria is an object"), ({"style": "C"}, "each with A, B, tie, or nothing")):
        path.write_text(json.dumps({**lines(path)[0], "criteria": criteria}))
        with pytest.raises(InputError, match=message):
            by_people.read(path, SYSTEMS)
    path.write_text(json.dumps({**lines(path)[0], "better": "", "criteria": {"style": "A"}}))
    with pytest.raises(InputError, match="say which text is better overall, too"):
        by_people.read(path, SYSTEMS)
    path.write_text(answered)
    with pytest.raises(InputError, match="not a pair of these systems"):
        by_people.read(path, {**SYSTEMS, "ilf": {i: "edited" for i in DOCUMENTS}})
    row = lines(path)[0]
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=r":2: pair \d+ appears twice"):
        by_people.read(path, SYSTEMS)
    path.write_text(json.dumps({name: text for name, text in row.items() if name != "pair"}))
    with pytest.raises(InputError, match=r":1: a line is an object with pair"):
        by_people.read(path, SYSTEMS)
    path.write_text("{\n")
    with pytest.raises(InputError, match=r":1: is not valid JSON"):
        by_people.read(path, SYSTEMS)


def test_answers_in_another_encoding_are_named():
    path = pathlib.Path(__file__).parents[1] / "cases/human_files/pairs_cp1252.jsonl"
    with pytest.raises(InputError, match=r"pairs_cp1252\.jsonl:1: is not UTF-8"):
        by_people.read(path, {"a": {}, "b": {}})


@pytest.mark.parametrize(("answered", "equal_counted"), [(344, 20), (30, 2), (172, 10), (1, 0)])
def test_equal_pairs_count_at_the_share_that_was_answered(answered, equal_counted, tmp_path):
    """20 of 364 documents have equal texts; all of them beside 30 answers would draw the win rate to a half."""
    documents = {f"d{i}": Example(f"d{i}", f"text {i}") for i in range(364)}
    systems = {"new": {i: f"new {i}" for i in documents}, "old": {i: f"old {i}" for i in documents}}
    for i in list(documents)[:20]:
        systems["old"][i] = systems["new"][i]
    path = tmp_path / "pairs.jsonl"
    assert by_people.export(path, documents, systems, seed=0) == 344
    answer(path, lambda row: ("A" if row["A"].startswith("new") else "B") if row["pair"] <= answered else "")
    (found,) = by_people.read(path, systems)[by_people.OVERALL]
    assert len(found.outcomes) == answered + equal_counted
    assert found.win_rate == pytest.approx((answered + equal_counted / 2) / (answered + equal_counted))
    assert by_people.read(path, systems)[by_people.OVERALL][0].outcomes == found.outcomes
