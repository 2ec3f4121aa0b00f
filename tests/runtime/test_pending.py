"""Pending work is finished once, whatever it ends with."""

import pytest

from ilf_jax.runtime.pending import Pending

pytestmark = pytest.mark.fast


def test_the_result_is_made_once():
    calls = []
    pending = Pending(lambda: calls.append(1) or len(calls))
    assert calls == []
    assert (pending.result(), pending.result(), calls) == (1, 1, [1])


def test_map_waits_until_it_is_asked():
    calls = []
    pending = Pending(lambda: calls.append(1) or 2)
    doubled = pending.map(lambda value: 2 * value)
    assert calls == []
    assert (doubled.result(), pending.result(), calls) == (4, 2, [1])
    assert Pending.ready("a").map(str.upper).result() == "A"


def test_an_error_is_raised_each_time():
    calls = []

    def fail():
        calls.append(1)
        raise OSError("disk full")

    pending = Pending(fail)
    for _ in range(2):
        with pytest.raises(OSError, match="disk full"):
            pending.result()
    with pytest.raises(OSError, match="disk full"):
        pending.map(str).result()
    assert calls == [1]


def test_an_interrupt_leaves_the_work_to_do():
    interrupts = [KeyboardInterrupt]

    def finish():
        if interrupts:
            raise interrupts.pop()
        return "done"

    pending = Pending(finish)
    with pytest.raises(KeyboardInterrupt):
        pending.result()
    assert pending.result() == "done"
