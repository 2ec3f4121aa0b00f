"""What a field of a record may hold, and what is said of a value that it may not."""

import dataclasses
import math

import pytest

from ilf_jax.records import field_types


@dataclasses.dataclass
class Row:
    text: str = "a"
    count: int = 1
    share: float = 0.5
    error: float | None = None
    is_cut: bool = False
    scores: list[float] = dataclasses.field(default_factory=list)
    picks: dict[str, int] = dataclasses.field(default_factory=dict)


@pytest.mark.fast
@pytest.mark.parametrize(("field", "right", "wrong", "said"), [
    ("text", "é\n", "\ud800", "text is '\\ud800', not a text"), ("text", "", 1, "text is 1, not a text"),
    ("count", 2**70, 1.0, "count is 1.0, not a whole number"),
    ("count", 0, True, "count is True, not a whole number"),
    ("share", 3, math.nan, "share is nan, not a finite number"),
    ("share", -1e308, 2**63, "share is 9223372036854775808, not a finite number"),
    ("error", None, math.inf, "error is inf, not a finite number or null"),
    ("is_cut", True, 1, "is_cut is 1, not true or false"),
    ("scores", [0.0, 1], [0.0, "1"], "scores[1] is '1', not a finite number"),
    ("scores", [], (1.0,), "scores is not a list"),
    ("picks", {"a": 1}, {"a": 1.5}, "picks['a'] is 1.5, not a whole number"),
    ("picks", {}, [1], "picks is not an object"),
])
def test_values_of_each_type(field, right, wrong, said):
    assert field_types.problem(Row, vars(Row(**{field: right}))) is None
    assert field_types.problem(Row, vars(Row(**{field: wrong}))) == said
