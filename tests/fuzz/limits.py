"""What the fuzz tests share: damage to bytes, strange values, what reading may take, and counts of what came of it.

An input is read with equal values, or refused by an InputError.
"""

import collections
import contextlib
import json
import math
import resource
import signal

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from ilf_jax.errors import InputError, WaitingError
from ilf_jax.runtime import files

SECONDS, BYTES = 10, 8 << 30


def write_as_ours(path, content):
    """Writes a JSON object with its digest; one that holds infinity, which we never write, as others would."""
    try:
        files.write_json(path, content)
    except ValueError:
        path.write_text(json.dumps(content))


class Outcomes(collections.Counter):
    """How many inputs were read, and how many refused.

    Used as a context around the reading of one input, which ends with a value or InputError, in ten seconds and 8 GB.
    Any other exception passes.
    """

    @contextlib.contextmanager
    def one(self):
        before = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as f:
            now = int(f.read().split()[0]) * resource.getpagesize()
        signal.signal(signal.SIGALRM, _too_slow)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, before[1]))
        try:
            yield
            self["equal"] += 1
        except (InputError, WaitingError) as error:
            assert str(error).isprintable() and len(str(error)) < 1000, repr(str(error))[:1000]
            self["InputError"] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, before)

    def report(self, what):
        """Prints the counts."""
        others = "".join(f", {self[kind]} {kind}" for kind in sorted(self.keys() - {"equal", "InputError"}))
        print(f"\n{what}: {self['equal']} read with equal values, {self['InputError']} InputError{others}")


def counted(**by_kind):
    """A fixture for a module, which prints at its end what came of its inputs; `by_kind`: name -> Outcomes."""

    @pytest.fixture(scope="module", autouse=True)
    def counts():
        yield
        for what, outcomes in by_kind.items():
            outcomes.report(what)

    return counts


def damaged(data, content, kinds=("bit", "byte", "cut out", "put in", "end"), last=None):
    """Other bytes than `content`: one changed, some cut out or put in, or the end lost.

    Args:
        data: of hypothesis, which chooses.
        content: bytes.
        kinds: of damage.
        last: index of the last byte at which it may begin.
    """
    assume(content)
    at = data.draw(st.integers(0, len(content) - 1 if last is None else last))
    before, behind = content[:at], content[at:]
    match data.draw(st.sampled_from(kinds)):
        case "bit":
            changed = before + bytes([behind[0] ^ (1 << data.draw(st.integers(0, 7)))]) + behind[1:]
        case "byte":
            changed = before + bytes([behind[0] ^ data.draw(st.integers(1, 255))]) + behind[1:]
        case "cut out":
            changed = before + behind[data.draw(st.integers(1, 64)) :]
        case "put in":
            changed = before + data.draw(st.binary(min_size=1, max_size=64)) + behind
        case _:
            changed = before
    assume(changed != content)
    return changed


def _too_slow(number, frame):
    raise TimeoutError(f"{SECONDS} seconds are over")


STRANGE = (
    None, True, False, 0, 1, 2, 3, 7, -1, -7, 10**4, 10**6, 2**31 - 1, 2**31, 2**63, 10**30, 0.0, 0.5, -0.5, 1.0,
    4.0, 1e-40, 1e30, 1e308, -1e308, math.nan, math.inf, -math.inf, "", "x", "4", "true", "yarn", "relu", [], {}, [4],
    [None], ["full_attention"], [True] * 50, {"a": 1}, {"rope_type": []}, {"rope_type": "linear"}, {"factor": 0},
    {"rope_type": "llama3", "factor": 0, "low_freq_factor": 1, "high_freq_factor": 1}, [[[[]]]], "x" * 10_000,
)
"""Values of every type, at and beyond the ends of every range."""
