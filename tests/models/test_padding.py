"""How long rows are: few lengths, found exactly."""

import itertools

import numpy as np
import pytest

from ilf_jax.models import padding


def tokens(lengths, chosen, program_tokens):
    """All rows padded to the shortest chosen length that holds them, and what the programs cost."""
    padded = [min((c for c in chosen if c >= n), default=np.inf) for n in lengths]
    return sum(padded) + program_tokens * len(chosen)


@pytest.mark.parametrize("program_tokens", [0, 30, 200, 5000])
@pytest.mark.parametrize("seed", range(4))
def test_row_lengths_are_the_best_of_all_sets(seed, program_tokens):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, rng.integers(1, 40)).tolist()
    steps = sorted({max(16, -(-n // 4) * 4) for n in lengths})  # below 128: multiples of 4
    sets = [s for k in range(1, padding.MOST_PROGRAMS + 1) for s in itertools.combinations(steps, k)]
    found = padding.row_lengths(lengths, program_tokens)
    assert tokens(lengths, found, program_tokens) == min(tokens(lengths, s, program_tokens) for s in sets)
    assert list(found) == sorted(found)


def test_the_cost_of_programs_decides_how_many_there_are():
    lengths = [20] * 100 + [100] * 10
    assert padding.row_lengths(lengths, 0) == (20, 100)
    assert padding.row_lengths(lengths, 100 * 80 - 1) == (20, 100)
    assert padding.row_lengths(lengths, 100 * 80 + 1) == (100,)
    assert padding.row_lengths([], 100) == ()
    assert padding.row_lengths([130, 300, 600], 0) == (136, 304, 608)  # steps of 8 above 128, 16 above 256, 32 ...


@pytest.mark.parametrize("program_tokens", [0, 30, 200])
@pytest.mark.parametrize(("seed", "most"), list(enumerate([1, 2, 3, 4])))
def test_paired_row_lengths_are_the_best_of_all_pairs_of_sets(seed, most, program_tokens):
    rng = np.random.default_rng(seed)
    kinds = [rng.integers(1, 45, rng.integers(1, 20)).tolist() for _ in range(2)]
    sets = []
    for lengths in kinds:
        steps = sorted({max(16, -(-n // 4) * 4) for n in lengths})
        sets.append([s for k in range(1, most + 1) for s in itertools.combinations(steps, k)])

    def cost(pair):
        padded = sum(tokens(lengths, chosen, 0) for lengths, chosen in zip(kinds, pair, strict=True))
        return padded + program_tokens * len(pair[0]) * len(pair[1])

    found, *chosen = padding.paired_row_lengths(*kinds, program_tokens, most=most)
    allowed = [pair for pair in itertools.product(*sets) if len(pair[0]) * len(pair[1]) <= most]
    assert found == cost(chosen) == min(map(cost, allowed))


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_common_prefix(seed):
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 2, rng.integers(0, 4)).tolist()
    rows = [start + rng.integers(0, 2, rng.integers(1, 4)).tolist() for _ in range(rng.integers(1, 5))]
    shared = [n for n in range(min(map(len, rows))) if len({tuple(row[:n]) for row in rows}) == 1]
    assert padding.common_prefix(rows) == max(shared)


def test_lengths_between_two_lengths():
    assert padding.lengths_between(101, 140) == [104, 108, 112, 116, 120, 124, 128, 136]
    assert padding.lengths_between(600, 600) == [608]  # the longest row fits, whatever is allowed
    assert padding.lengths_between(512, 640) == [512, 544, 576, 608, 640]


def test_a_row_takes_the_shortest_length_that_holds_it():
    assert [padding.row_length(n, (24, 112)) for n in (1, 24, 25, 112)] == [24, 24, 112, 112]
    assert [padding.row_length(n, (24, 112)) for n in (113, 224, 225)] == [224, 224, 448]  # doubled: few programs
    assert padding.row_length(17, ()) == 20 and padding.row_length(130, (), 128) == 256


def test_lengths_are_multiples_of_what_a_kernel_takes():
    assert padding.bucket(130, 128) == 256 and padding.lengths_between(130, 600, 128) == [256, 384, 512]
    assert padding.row_lengths([20, 130, 300, 600], 0, multiple=128) == (128, 256, 384, 640)
    assert padding.paired_row_lengths([20, 130], [20, 130], 0, multiple=128)[1:] == ((128, 256), (20, 136))


@pytest.mark.parametrize("most", [1, 5, 8, 32])
def test_batches_are_alike_and_as_few_as_possible(most):
    for count in range(1, 130):
        size = padding.batch_size(most, count)
        batches = -(-count // size)
        assert size <= most and batches == -(-count // most)
        assert batches * size - count < batches  # no batch lacks more than one row
        assert padding.batch_size(most, count, refills=True) == min(most, count)
    assert padding.batch_size(most, 0) == 1


def test_of_a_whole_number_of_batches_each_is_full():
    assert [padding.batch_size(32, count) for count in (3, 32, 40, 64, 65, 128)] == [3, 32, 20, 32, 22, 32]
