"""Axes that suit the numbers on them."""

import pytest

from ilf_jax.reporting import figures

pytestmark = pytest.mark.fast


def drawn(*xs, **more):
    line = figures.Line(xs, [1.0] * len(xs), [0.0] * len(xs))
    return figures.line_plot("name", "title", "caption", "x", "y", {"a": line}, **more).svg


@pytest.mark.parametrize("xs", [(32, 64, 128, 256), (1, 100), (10, 30, 100), (50, 500, 5000), (1024, 2048, 4096)])
def test_sizes_that_grow_by_factors_get_a_logarithmic_axis(xs):
    svg = drawn(*xs)
    for x in xs:  # each measured one is a tick
        assert f">{x // 1000}k</text>" in svg if x % 1000 == 0 else f">{x:,}</text>" in svg, x


@pytest.mark.parametrize("xs", [(1, 2, 3, 4, 5), (0, 32, 64), (8, 16), (100,)])
def test_other_numbers_get_a_linear_one(xs):
    svg = drawn(*xs)
    assert svg.startswith("<svg")
    assert not figures._is_geometric(xs)


def test_the_only_line_has_a_name_beside_the_line_before_training():
    line = figures.Line((1, 2), (1, 2), (0, 0))
    svg = figures.line_plot("n", "t", "c", "x", "y", {"": line}, {"before training": [(1, 3), (2, 3)]}).svg
    assert ">after training</text>" in svg and ">before training</text>" in svg


def test_long_labels_are_cut_where_they_would_not_fit():
    line = figures.Line((1, 2), (1, 2), (0, 0))
    svg = figures.line_plot("n", "t", "c", "x", "y", {"x" * 80: line, "b": line}).svg
    assert f">{'x' * 49}…</text>" in svg
