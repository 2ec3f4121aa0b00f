"""The training loop without stages or language models: references, the dev set, early stopping, all of it resumed."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_objectives import CONFIG, END, V

from ilf_jax import config_sections
from ilf_jax.models import lora, transformer
from ilf_jax.models.compute import FLOAT32
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import checkpoint, performance, sharding
from ilf_jax.training import loop, objectives, packing, reference_logprobs
from ilf_jax.training.objectives import objective_class

pytestmark = pytest.mark.usefixtures("quick_compiles")

SETTINGS = config_sections.Finetune(epochs=2, batch_size=4, learning_rate=1e-2, max_length=32, clip_norm=0.0)


def load_params():
    return transformer.init_params(CONFIG, jax.random.key(0))


def make_examples(count=8, a_document=1):
    """`a_document` examples of each document."""
    rng = np.random.default_rng(0)
    return [dataclasses.replace(packing.training_example(rng.integers(0, V, 4), rng.integers(0, V, 6), END,
                                                         prompt_weight=0.2), document=f"document {i // a_document}")
            for i in range(count)]


def make_trainer(folder, **changes):
    placement = Placement(sharding.make_mesh(1, 1, 1, jax.devices()[:1]), CONFIG)
    return loop.Trainer(
        section="finetune", settings=dataclasses.replace(SETTINGS, **changes), placement=placement, compute=FLOAT32,
        seed=0, iteration=1, folder=folder, checkpointing=config_sections.Checkpoint(every_steps=1),
        profile=performance.Profile(folder, 0),
    )


def steps(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def assert_equal_bits(ours, theirs):
    for (path, a), (_, b) in zip(*(jax.tree_util.tree_leaves_with_path(tree) for tree in (ours, theirs)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


class FarFromReference(objectives.NextToken):
    """Logs how far the params are from the reference's: "distance" is the sum of squares of all differences."""

    def __call__(self, params, ref_params, batch):
        loss, weight, _ = super().__call__(params, {}, batch)
        squares = [jnp.sum((params_leaf - ref_leaf) ** 2) for params_leaf, ref_leaf in zip(
            jax.tree.leaves(params), jax.tree.leaves(ref_params), strict=True)]
        return loss, weight, {"distance": sum(squares) * weight}


class Frozen(FarFromReference):
    reference = "frozen"


class Average(FarFromReference):
    reference, ema_decay = "ema", 0.75


class Told(objectives.NextToken):
    """The policy's log-probabilities less the reference's."""

    reference = "logprobs"

    def __call__(self, params, ref_params, batch):
        assert ref_params == {}
        loss, weight, _ = super().__call__(params, {}, batch)
        gain = jnp.abs(self.logprobs(params, batch) - batch["reference_logprobs"])
        return loss, weight, {"gain": jnp.sum(gain * batch["weights"])}


class _StopHereError(BaseException):
    pass


@pytest.fixture
def stopped_after_each_step(monkeypatch):
    """Runs a training again and again, each time to its next training checkpoint; returns what the last time gives."""

    def run(train):
        original, stops = checkpoint.TrainingCheckpoints.save, set()

        def save(self, step, state, **facts):
            original(self, step, state, **facts)
            if step not in stops:
                stops.add(step)
                raise _StopHereError

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.TrainingCheckpoints, "save", save)
            for _ in range(20):
                try:
                    return train(), len(stops)
                except _StopHereError:
                    pass
        raise AssertionError("never ended")

    return run


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("cls", [Frozen, Average])
def test_references_that_are_params(tmp_path, stopped_after_each_step, cls, rank):
    """What they are at each step, against steps taken by hand; killed and resumed, the same bits."""
    def train(folder):
        folder.mkdir(exist_ok=True)
        return loop.train(make_trainer(folder, lora_rank=rank, lora_targets="q/kernel"), cls(CONFIG), load_params,
                          make_examples())

    whole = train(tmp_path / "whole")
    distances = [row["distance"] for row in steps(tmp_path / "whole")]
    assert len(distances) == 4 and distances[0] == 0 and min(distances[1:]) > 0
    resumed, stops = stopped_after_each_step(lambda: train(tmp_path / "resumed"))
    assert stops == 3
    assert_equal_bits(resumed.params, whole.params)
    assert steps(tmp_path / "resumed") == steps(tmp_path / "whole")
    if rank == 0:
        # Params after each step: by training for so many steps of the same schedule, without a reference.
        path = [load_params()]
        for count in range(1, 5):
            path.append(params_after(tmp_path / f"{count}", count))
        assert_equal_bits(path[4], whole.params)
        average = path[0]
        for k in range(4):
            far = sum(np.sum((np.float64(a) - np.float64(b)) ** 2) for a, b in zip(
                *map(jax.tree.leaves, (path[k], average)), strict=True))
            assert distances[k] == pytest.approx(far, rel=1e-3, abs=1e-9)
            if cls is Average:
                average = jax.tree.map(lambda old, new: 0.75 * np.asarray(old) + 0.25 * np.asarray(new), average,
                                       path[k + 1])


def params_after(folder, count):
    """Params of the whole run after `count` of its 4 steps."""
    folder.mkdir()
    kept = {}

    class Interrupted(Exception):  # noqa: N818
        pass

    def save(self, step, state, **facts):
        if step == count:
            kept["params"] = jax.tree.map(np.array, state["state"].params)
            raise Interrupted

    trainer = make_trainer(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.TrainingCheckpoints, "save", save)
        try:
            return loop.train(trainer, objectives.NextToken(CONFIG), load_params, make_examples()).params
        except Interrupted:
            return kept["params"]


def test_a_frozen_reference_of_other_params(tmp_path):
    def other():
        return jax.tree.map(lambda a: a + 1.0, load_params())

    loop.train(make_trainer(tmp_path), Frozen(CONFIG), load_params, make_examples(), load_reference=other)
    size = sum(leaf.size for leaf in jax.tree.leaves(load_params()))
    assert steps(tmp_path)[0]["distance"] == pytest.approx(size, rel=1e-4)


def test_reference_logprobs_are_computed_once_and_handed_in(tmp_path):
    examples, trainer = make_examples(), make_trainer(tmp_path)
    calls = []

    def compute_all():
        calls.append(1)
        return reference_logprobs.compute(CONFIG, load_params(), examples, placement=trainer.placement,
                                          options=FLOAT32, batch_size=3)

    attached = [reference_logprobs.attach(tmp_path / "reference_logprobs.jsonl", examples, compute_all)
                for _ in range(2)]
    assert len(calls) == 1
    for first, second in zip(*attached, strict=True):
        np.testing.assert_array_equal(first.reference_logprobs, second.reference_logprobs)
    # One example by itself, over all logits.
    example = examples[3]
    hidden = transformer.forward(CONFIG, load_params(), example.tokens[None])
    logprobs = jax.nn.log_softmax(transformer.unembed(CONFIG, load_params(), hidden))[0]
    right = [logprobs[i - 1, example.tokens[i]] for i in range(1, len(example)) if example.weights[i]]
    np.testing.assert_allclose(attached[0][3].reference_logprobs, right, atol=1e-5)
    loop.train(trainer, Told(CONFIG), load_params, attached[1])  # packed in other rows
    gains = [row["gain"] for row in steps(tmp_path)]
    assert gains[0] < 1e-5 and min(gains[1:]) > 1e-3


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Params that know all texts, those that will be held back too."""
    trainer = make_trainer(tmp_path_factory.mktemp("learned"), epochs=5)
    trained = loop.train(trainer, objectives.NextToken(CONFIG), load_params, make_examples())
    return jax.tree.map(np.array, trained.params)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_learning_rate_that_harms_keeps_the_starting_params(tmp_path, learned, stopped_after_each_step, rank):
    def train():
        return loop.train(
            make_trainer(tmp_path, dev_fraction=0.3, epochs=6, patience=2, learning_rate=30.0, schedule="constant",
                         lora_rank=rank),
            objectives.NextToken(CONFIG), lambda: jax.tree.map(jnp.asarray, learned), make_examples())

    trained, stops = stopped_after_each_step(train)
    assert_equal_bits(trained.params, learned)
    assert trained.steps == len(steps(tmp_path)) == 2 * 2 and stops >= 3  # two epochs, each no better


def test_a_learning_rate_that_helps_changes_the_params(tmp_path):
    examples = make_examples()
    examples += [dataclasses.replace(e, document=f"{e.document}, again") for e in examples]  # dev texts are learned
    trained = loop.train(make_trainer(tmp_path, dev_fraction=0.2, epochs=3), objectives.NextToken(CONFIG), load_params,
                         examples)
    differ = [np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(
        *map(jax.tree.leaves, (trained.params, load_params())), strict=True)]
    assert all(differ)


def test_memory_after_training_is_one_model(tmp_path):
    """Optimizer, reference, average and the best params of early stopping are let go of."""
    size = CONFIG.vocab_size * CONFIG.hidden_size

    def tables():
        return {id(a) for a in jax.live_arrays() if a.size == size and a.ndim == 2}

    before = tables()
    trained = loop.train(make_trainer(tmp_path, dev_fraction=0.3), Frozen(CONFIG), load_params, make_examples())
    assert tables() - before == {id(trained.params["embedding"])}


def test_a_user_s_metrics_are_logged(tmp_path):
    def objective(params, ref_params, batch, *, model):
        weights = batch["weights"]
        return -jnp.sum(model.logprobs(params, batch) * weights), jnp.sum(weights), {"twos": 2 * jnp.sum(weights)}

    made = objective_class(objective, "mine")(CONFIG)
    trained = loop.train(make_trainer(tmp_path), made, load_params, make_examples())
    assert [row["twos"] for row in steps(tmp_path)] == pytest.approx([2.0] * 4)
    plain = loop.train(make_trainer(tmp_path / "plain"), objectives.NextToken(CONFIG), load_params, make_examples())
    for a, b in zip(*map(jax.tree.leaves, (trained.params, plain.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_lora_of_the_base_is_merged(tmp_path):
    trained = loop.train(make_trainer(tmp_path, lora_rank=2), objectives.NextToken(CONFIG), load_params,
                         make_examples())
    assert jax.tree.map(jnp.shape, trained.params) == jax.tree.map(jnp.shape, load_params())
    assert lora.split(trained.params)[1] == {}
