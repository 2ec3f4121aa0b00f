"""Packing and planning: the same tokens carry the same loss in whatever layout, every example once an epoch."""

import dataclasses

import jax
import numpy as np
import pytest

from ilf_jax.models import transformer
from ilf_jax.models.architecture import small_shape
from ilf_jax.training import batch_schedule, objectives, packing

V, END = 64, 3
CONFIG = dataclasses.replace(
    small_shape(32, 2, V), num_heads=4, num_kv_heads=2, head_dim=8, sliding_window=5, sliding_pattern=2
)
forward = jax.jit(transformer.forward, static_argnums=0)
sequence_logprobs = jax.jit(objectives.sequence_logprobs, static_argnums=0)


@jax.jit
def value_and_grad(params, batch):
    """((Loss sum, weight sum), gradient)."""
    return jax.value_and_grad(lambda params: objectives.NextToken(CONFIG)(params, {}, batch)[:2], has_aux=True)(params)


def make_examples(count, prompt_weight=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [
        packing.training_example(
            rng.integers(0, V, rng.integers(1, 9)), rng.integers(0, V, rng.integers(1, 9)), END,
            prompt_weight=prompt_weight,
        )
        for _ in range(count)
    ]


def loss_and_gradient(params, examples, rows, row_length, num_targets, num_rows=None):
    batch = packing.assemble(
        examples, rows, num_rows=num_rows or len(rows), row_length=row_length, num_targets=num_targets
    )
    (loss, weight), grads = value_and_grad(params, batch)
    return float(loss), float(weight), grads


@pytest.fixture(scope="module")
def params():
    return transformer.init_params(CONFIG, jax.random.key(0))


@pytest.mark.parametrize("prompt_weight", [0.0, 0.3])
def test_packed_equals_unpacked(params, prompt_weight):
    examples = make_examples(9, prompt_weight)
    lengths = [len(e) for e in examples]
    rows = packing.pack(lengths, 32, merge=True)
    assert len(rows) < 6
    packed = loss_and_gradient(params, examples, rows, 32, packing.targets_per_row(examples, rows), num_rows=6)
    loss = weight = 0.0
    grads = jax.tree.map(np.zeros_like, params)
    for example in examples:  # each alone in a row, so nothing could leak
        one = loss_and_gradient(params, [example], [[0]], 20, 20, num_rows=1)
        loss, weight = loss + one[0], weight + one[1]
        grads = jax.tree.map(np.add, grads, one[2])
    assert packed[0] == pytest.approx(loss, rel=1e-6)
    assert packed[1] == pytest.approx(weight, rel=1e-6)
    for a, b in zip(jax.tree.leaves(packed[2]), jax.tree.leaves(grads), strict=True):
        assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(b)


def test_a_packed_example_does_not_see_its_neighbours(params):
    examples = make_examples(2)
    rows = [[0, 1]]
    both = packing.assemble(examples, rows, num_rows=1, row_length=40, num_targets=20)
    n = len(examples[0])
    changed = {**both, "tokens": both["tokens"].copy()}
    changed["tokens"][0, :n] = (both["tokens"][0, :n] + 1) % V
    positions, segments = both["positions"], both["segments"]
    hidden = [np.asarray(forward(CONFIG, params, b["tokens"], positions, segments)) for b in (both, changed)]
    np.testing.assert_array_equal(hidden[0][0, n:], hidden[1][0, n:])
    assert np.abs(hidden[0][0, :n] - hidden[1][0, :n]).max() > 1e-2


def test_assemble_by_hand():
    """Prompt 10 11, completion 12, end 3; prompt 20, completion 21 22, end 3."""
    examples = [packing.training_example([10, 11], [12], END, prompt_weight=0.0),
                packing.training_example([20], [21, 22], END, prompt_weight=0.0)]
    batch = packing.assemble(examples, [[0, 1]], num_rows=2, row_length=10, num_targets=6)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "tokens": [[10, 11, 12, 3, 20, 21, 22, 3, 0, 0], [0] * 10],
        "positions": [[0, 1, 2, 3, 0, 1, 2, 3, 0, 0], [0] * 10],
        "segments": [[1, 1, 1, 1, 2, 2, 2, 2, 0, 0], [0] * 10],
        "index": [[1, 2, 4, 5, 6, 0], [0] * 6],
        "targets": [[12, 3, 21, 22, 3, 0], [0] * 6],
        "weights": [[1, 1, 1, 1, 1, 0], [0] * 6],
    }


def test_assemble_by_hand_with_prompt_loss():
    examples = [packing.training_example([10, 11], [12], END, prompt_weight=0.25).scaled(2.0)]
    batch = packing.assemble(examples, [[0]], num_rows=1, row_length=5, num_targets=4)
    # The first token of a text is never predicted.
    assert batch["index"].tolist() == [[0, 1, 2, 0]]
    assert batch["targets"].tolist() == [[11, 12, 3, 0]]
    assert batch["weights"].tolist() == [[0.5, 2.0, 2.0, 0.0]]


@pytest.mark.parametrize("prompt_weight", [0.0, 0.5])
def test_loss_falls_on_target_tokens_and_end_only(params, prompt_weight):
    """The loss moves with the weight of each predicted token's own -log p, found in a plain forward pass."""
    prompt, completion = [5, 6, 7], [8, 0, 9]  # token 0 is what padding is filled with; here it is a target
    example = packing.training_example(prompt, completion, END, prompt_weight=prompt_weight)
    batch = packing.assemble([example], [[0]], num_rows=2, row_length=12, num_targets=9)
    (loss, weight), _ = value_and_grad(params, batch)
    tokens = np.array([*prompt, *completion, END])
    hidden = forward(CONFIG, params, tokens[None])
    logp = np.asarray(jax.nn.log_softmax(transformer.unembed(CONFIG, params, hidden)[0]))
    losses = -logp[np.arange(len(tokens) - 1), tokens[1:]]
    weights = np.array([prompt_weight, prompt_weight, 1, 1, 1, 1])
    assert float(loss) == pytest.approx(float(losses @ weights), rel=1e-5)
    assert float(weight) == weights.sum()
    found = np.asarray(sequence_logprobs(CONFIG, params, batch))
    np.testing.assert_allclose(found[0, : example.num_targets], -losses[weights > 0], atol=1e-5)
    assert not found[0, example.num_targets :].any()
    assert not found[1].any()


def test_padding_carries_no_loss(params):
    """What stands on the padding, in tokens and in targets, changes nothing."""
    examples = make_examples(3)
    rows = [[0, 1], [2]]
    batch = packing.assemble(examples, rows, num_rows=3, row_length=40, num_targets=24)
    noisy = {name: array.copy() for name, array in batch.items()}
    noisy["tokens"][batch["segments"] == 0] = 17
    noisy["targets"][batch["weights"] == 0] = 23
    noisy["index"][batch["weights"] == 0] = 1
    (a, _), grads_a = value_and_grad(params, batch)
    (b, _), grads_b = value_and_grad(params, noisy)
    assert float(a) == pytest.approx(float(b), rel=1e-6)
    for x, y in zip(jax.tree.leaves(grads_a), jax.tree.leaves(grads_b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_pack_fills_rows_and_loses_nothing():
    rng = np.random.default_rng(0)
    for _ in range(30):
        lengths = rng.integers(1, 33, rng.integers(1, 40)).tolist()
        rows = packing.pack(lengths, 32, merge=True)
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        sums = [sum(lengths[i] for i in row) for row in rows]
        assert max(sums) <= 32
        assert len(rows) <= max(1, -(-17 * sum(lengths) // (10 * 32)) + 1)  # first fit: at most 1.7 OPT
        assert packing.pack(lengths, 32, merge=False) == [[i] for i in range(len(lengths))]
    with pytest.raises(ValueError, match="33 tokens"):
        packing.pack([5, 33], 32, merge=True)


def plan_of(examples, **changes):
    settings = {"epochs": 3, "batch_size": 4, "accumulation": 1, "shuffle": True, "seed": 7, "merge": True,
                "row_lengths": (24,), "row_multiple": 1}
    return batch_schedule.make_plan(examples, **{**settings, **changes})


def contents(batch):
    """The texts of a batch, in any order, each with the tokens it is trained on."""
    found = []
    A, R, _ = batch["tokens"].shape
    for a in range(A):
        for r in range(R):
            for segment in range(1, batch["segments"][a, r].max() + 1):
                at = np.flatnonzero(batch["segments"][a, r] == segment)
                mine = (batch["weights"][a, r] > 0) & np.isin(batch["index"][a, r], at)
                found.append((tuple(batch["tokens"][a, r, at].tolist()), tuple(batch["targets"][a, r, mine].tolist())))
    return sorted(found)


def test_pack_puts_each_example_into_the_first_row_with_room():
    rng = np.random.default_rng(3)
    for _ in range(50):
        lengths = rng.integers(1, 33, rng.integers(0, 60)).tolist()
        rows = []
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            free = [row for row in rows if sum(lengths[k] for k in row) + lengths[i] <= 32]
            (free[0] if free else rows.append([]) or rows[-1]).append(i)
        assert packing.pack(lengths, 32, merge=True) == rows


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(("accumulation", "row_multiple"), [(1, 1), (2, 1), (3, 2)])
def test_plan_covers_every_example_once_an_epoch(merge, accumulation, row_multiple):
    examples = make_examples(11)
    p = plan_of(examples, merge=merge, accumulation=accumulation, row_multiple=row_multiple)
    assert len(p) == 9
    assert p.steps_per_epoch == 3
    epochs = [[i for step in p.order[k : k + 3] for i in step] for k in (0, 3, 6)]
    assert [len(step) for step in p.order] == [4, 4, 3] * 3  # the last batch of an epoch is smaller
    for order in epochs:
        assert sorted(order) == list(range(11))
    assert len({tuple(order) for order in epochs}) == 3
    shapes = {tuple((name, a.shape) for name, a in p.batch(s).items()) for s in range(len(p))}
    assert len(shapes) == 1
    assert p.rows % row_multiple == 0
    for s in range(len(p)):
        right = sorted((tuple(examples[i].tokens.tolist()), tuple(examples[i].tokens[1:][examples[i].weights[1:] > 0]
                        .tolist())) for i in p.order[s])
        assert contents(p.batch(s)) == right
        assert p.tokens(s) == sum(len(examples[i]) for i in p.order[s])


def test_plan_follows_from_its_seed():
    examples = make_examples(11)
    assert plan_of(examples).order == plan_of(examples).order
    assert plan_of(examples).order != plan_of(examples, seed=8).order
    assert plan_of(examples, shuffle=False, epochs=2).order == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)) * 2
    for name, array in plan_of(examples).batch(4).items():
        np.testing.assert_array_equal(array, plan_of(examples).batch(4)[name])


def test_plan_of_one_example():
    p = plan_of(make_examples(1), epochs=2, accumulation=4)
    assert p.order == ((0,), (0,))
    assert len(contents(p.batch(1))) == 1


def test_no_micro_batch_is_empty():
    """Eight short examples fit into two rows: four micro-batches were asked for, two are enough."""
    examples = [packing.training_example([5] * 8, [6], END, prompt_weight=0.0) for _ in range(8)]
    p = plan_of(examples, epochs=1, batch_size=8, accumulation=4, row_lengths=(40,))
    assert (p.accumulation, p.rows) == (2, 1)
    assert len(contents(p.batch(0))) == 8


def test_the_row_length_is_the_one_that_examples_fill_up_best():
    examples = [packing.TrainingExample(np.arange(n), np.ones(n, np.float32)) for n in (30, 30, 20, 20)]
    candidates = (32, 40, 48, 52, 64)
    # 32: four rows, 128 tokens; 52: two rows of 30 + 20, 104 tokens; 64: two rows, 128 tokens.
    assert plan_of(examples, epochs=1, batch_size=4, row_lengths=candidates).row_length == 52
    quadratic = plan_of(examples, epochs=1, batch_size=4, row_lengths=candidates, row_cost=lambda n: n**2)
    assert quadratic.row_length == 32  # longer rows are not worth it where a row's cost grows with its square
    assert plan_of(examples, epochs=1, batch_size=4, row_lengths=candidates, merge=False).row_length == 32
    shards = plan_of(examples, epochs=1, batch_size=4, row_lengths=candidates, row_multiple=4)
    assert (shards.row_length, shards.rows) == (32, 4)  # rows that only fill up the shards cost as much
