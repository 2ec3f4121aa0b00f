"""What a damaged or strange input may take, and what came of each: equal values, other valid ones, or an InputError."""

import collections
import contextlib
import math
import resource
import signal

from ilf_jax.errors import InputError, WaitingError

SECONDS, BYTES = 10, 8 << 30


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
        print(f"\n{what}: {self['equal']} read with equal values, {self['InputError']} InputError")


def _too_slow(number, frame):
    raise TimeoutError(f"{SECONDS} seconds are over")


STRANGE = (
    None, True, False, 0, 1, 2, 3, 7, -1, -7, 10**4, 10**6, 2**31 - 1, 2**31, 2**63, 10**30, 0.0, 0.5, -0.5, 1.0,
    4.0, 1e-40, 1e30, 1e308, -1e308, math.nan, math.inf, -math.inf, "", "x", "4", "true", "yarn", "relu", [], {}, [4],
    [None], ["full_attention"], [True] * 50, {"a": 1}, {"rope_type": []}, {"rope_type": "linear"}, {"factor": 0},
    {"rope_type": "llama3", "factor": 0, "low_freq_factor": 1, "high_freq_factor": 1}, [[[[]]]], "x" * 10_000,
)
"""Values of every type, at and beyond the ends of every range."""
