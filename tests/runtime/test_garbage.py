"""Where very many objects are made, cyclic garbage is looked for less often, and afterwards as before."""

import gc

import pytest

from ilf_jax.runtime import garbage

pytestmark = pytest.mark.fast


def test_the_search_is_rarer_inside_and_as_before_outside():
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="inside"), garbage.seldom_searched_for():
        assert gc.isenabled() and gc.get_threshold()[0] == 100_000
        with garbage.seldom_searched_for():
            pass
        assert gc.get_threshold()[0] == 100_000
        raise ValueError("inside")
    assert gc.get_threshold() == before


def test_a_search_that_the_caller_has_made_rarer_or_turned_off_stays_so():
    before = gc.get_threshold()
    try:
        for wanted in ((200_000, 30, 40), (0, 10, 10)):
            gc.set_threshold(*wanted)
            with garbage.seldom_searched_for():
                assert gc.get_threshold() == wanted
            assert gc.get_threshold() == wanted
    finally:
        gc.set_threshold(*before)
