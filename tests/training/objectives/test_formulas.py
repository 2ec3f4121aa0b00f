"""Each objective's loss and gradient are those of its formula: packed, accumulated, by LoRA, and on eight devices."""

import pathlib
import subprocess
import sys

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import several_devices

from ilf_jax.models import lora
from ilf_jax.steps import finetune_step
from ilf_jax.training import packing

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def params():
    return cases.make_params(0)


@pytest.fixture(scope="module")
def ref():
    return cases.make_reference()


@pytest.fixture(scope="module")
def by_formula(params, ref):
    """(Loss sum, weight sum, gradient) of a case, written plainly."""
    found = {}

    def of(name):
        if name not in found:
            formula = cases.CASES[name][2]
            (loss, weight), grads = jax.jit(jax.value_and_grad(formula, has_aux=True))(params, ref)
            found[name] = float(loss), float(weight), grads
        return found[name]

    return of


def assert_close(ours, theirs, tolerance=2e-5):
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(theirs))
    assert largest > 1e-2
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance * largest, err_msg=str(path))


def gradients(name, params, ref, layout, frozen=None):
    """(Loss sum, weight sum, gradient by `params`) as the train step takes them.

    Args:
        layout: micro-batches of rows of example indices, for a number of examples.
    """
    objective_name, settings, _ = cases.CASES[name]
    objective, examples = cases.objective_of(objective_name, settings), cases.examples_of(objective_name, ref, settings)
    micro_batches = layout(examples)
    num_rows = max(map(len, micro_batches))
    T = max(packing.targets_per_row(examples, rows) for rows in micro_batches)
    beside = packing.beside_targets(examples, [row for rows in micro_batches for row in rows])
    parts = [packing.assemble(examples, rows, num_rows=num_rows, row_length=2 * cases.LENGTH, num_targets=T,
                              beside=beside) for rows in micro_batches]
    batch = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    ref_params = ref if objective.reference in ("frozen", "ema") else None
    loss, weight, _, grads = jax.jit(finetune_step.accumulated_gradients, static_argnums=0)(
        objective, params, frozen or {}, batch, ref_params)
    return float(loss), float(weight), grads


def packed(examples):
    return [packing.pack([len(e) for e in examples], 2 * cases.LENGTH, merge=True)]


def accumulated(examples):
    """Packed rows as two micro-batches of different sizes."""
    rows = packed(examples)[0]
    return [rows[:1], rows[1:]]


@pytest.mark.parametrize(("name", "layout"), [
    *((name, accumulated) for name in cases.CASES),
    *((name, packed) for name in ("dpo", "sdpo, current teacher", "grpo", "sdpo with feedback"))])
def test_loss_and_gradient_are_those_of_the_formula(name, layout, params, ref, by_formula):
    loss, weight, grads = gradients(name, params, ref, layout)
    expected_loss, expected_weight, expected = by_formula(name)
    assert loss == pytest.approx(expected_loss, rel=2e-5, abs=1e-5) and weight == pytest.approx(expected_weight)
    assert_close(grads, expected)


@pytest.mark.parametrize("name", ["dpo", "sdpo, current teacher", "sdft, averaged teacher", "grpo",
                                  "nll with feedback"])
def test_lora_learns_by_the_same_gradient(name, params, ref):
    with_lora = lora.add(params, 2, 4.0, r"(attention|mlp)/\w+/kernel$", jax.random.key(7))
    trained, frozen = lora.split(with_lora)
    # B is zero at the start, where A has no gradient.
    trained = jax.tree.map(lambda a: a + 0.03, trained)
    loss, _, grads = gradients(name, trained, ref, packed, frozen)

    def formula(trained):
        return cases.CASES[name][2](lora.merge(lora.join(frozen, trained)), ref)[0]

    expected_loss, expected = jax.jit(jax.value_and_grad(formula))(trained)
    assert loss == pytest.approx(float(expected_loss), rel=5e-5)
    assert_close(grads, expected, 1e-4)


_EIGHT = """
import sys
sys.path[:0] = sys.argv[1:3]
import jax
import numpy as np
import cases
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding
from ilf_jax.steps import finetune_step
assert len(jax.devices()) == 8
mesh = sharding.make_mesh(2, 2, 2)
placement = Placement(mesh, cases.CONFIG)
params, ref = (placement.params(tree, "train") for tree in (cases.make_params(0), cases.make_reference()))
found = {}
for name, (objective_name, settings, _) in cases.CASES.items():
    objective = cases.objective_of(objective_name, settings)
    examples = cases.examples_of(objective_name, cases.make_reference(), settings)
    rows = [[i] for i in range(len(examples))]
    batch = cases.batch_of(examples, rows, 8 * -(-len(rows) // 8))
    batch = placement.batch({key: array[None] for key, array in batch.items()}, axis=1)
    assert not batch["tokens"].is_fully_replicated
    step = jax.jit(finetune_step.accumulated_gradients, static_argnums=0)
    given = ref if objective.reference in ("frozen", "ema") else None
    loss, weight, _, grads = step(objective, params, {}, batch, given)
    found[f"{name}/loss"], found[f"{name}/weight"] = loss, weight
    for i, leaf in enumerate(jax.tree.leaves(grads)):
        found[f"{name}/{i}"] = leaf
np.savez(sys.argv[3], **{key.replace("/", ":"): np.asarray(value) for key, value in found.items()})
"""


def test_eight_devices_give_what_one_gives(tmp_path, by_formula):
    here = pathlib.Path(__file__).parent
    env = {**several_devices(8), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, "-c", _EIGHT, str(here), str(here.parents[2]), str(tmp_path / "found.npz")],
                          env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    for name in cases.CASES:
        loss, weight, grads = by_formula(name)
        assert float(found[f"{name}:loss"]) == pytest.approx(loss, rel=2e-5, abs=1e-5)
        assert float(found[f"{name}:weight"]) == pytest.approx(weight)
        leaves = jax.tree.leaves(grads)
        assert_close([found[f"{name}:{i}"] for i in range(len(leaves))], leaves, 1e-4)
