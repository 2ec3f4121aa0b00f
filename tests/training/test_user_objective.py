"""Objectives from a user's file: a class or a function, told what is wrong with them."""

import functools

import jax
import jax.numpy as jnp
import pytest
from test_objectives import ADAM, CONFIG, make_batch, train_step

from ilf_jax import config_sections
from ilf_jax.errors import InputError
from ilf_jax.models import transformer
from ilf_jax.records import Candidates, Example, Scored
from ilf_jax.steps import finetune_step
from ilf_jax.training import objectives, optimizer
from ilf_jax.training.objectives import LearnedFrom, Objective, objective_class

pytestmark = pytest.mark.usefixtures("quick_compiles")
SETTINGS = config_sections.Finetune(beta=2.0)


@pytest.fixture(scope="module")
def params():
    return transformer.init_params(CONFIG, jax.random.key(0))


def plain(params, ref_params, batch, *, model):
    return -jnp.sum(model.logprobs(params, batch) * batch["weights"]), jnp.sum(batch["weights"]), {}


def test_a_function_is_a_class_of_its_own_and_compiles_once():
    cls = objective_class(plain, "plain")
    assert cls is objective_class(plain, "plain") and cls.reference == "none"
    assert cls(CONFIG) == cls(CONFIG) and hash(cls(CONFIG)) == hash(cls(CONFIG))
    assert cls(CONFIG) != objective_class(lambda a, b, c, model: None, "other")(CONFIG)
    assert objective_class(objectives.Weighted, "weighted") is objectives.Weighted


def test_a_function_equals_the_built_in_objective(params):
    batch = make_batch(2)
    state = finetune_step.init_state(params, optimizer.make_optimizer(ADAM))
    _, ours = train_step(objective_class(plain, "plain")(CONFIG), ADAM, state, batch)
    _, theirs = train_step(objectives.NextToken(CONFIG), ADAM, state, batch)
    for name in ("loss", "grad_norm", "weight"):
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-6)


def test_logits_and_logprobs_agree(params):
    batch = {name: array[0] for name, array in make_batch(1).items()}
    model = Objective(CONFIG)
    logprobs = jax.nn.log_softmax(model.logits(params, batch))
    picked = jnp.take_along_axis(logprobs, batch["targets"][..., None], axis=-1)[..., 0]
    padding = batch["weights"] == 0
    assert padding.any() and not jnp.any(jnp.where(padding, model.logprobs(params, batch), 0.0))
    assert jnp.abs(jnp.where(padding, 0.0, picked) - model.logprobs(params, batch)).max() < 1e-5


def without_model(params, ref_params, batch):
    return 0.0, 0.0, {}


class OfUnknownReference(Objective):
    reference = "teacher"


@pytest.mark.parametrize(("definition", "words"), [
    (without_model, ["mine", "`model`"]), (OfUnknownReference, ["mine", "'teacher'", "'frozen'"]),
    (3, ["mine", "got 3"]), (dict, ["mine", "subclass of Objective"]),
])
def test_what_is_no_objective_is_refused(definition, words):
    with pytest.raises(InputError) as error:
        objective_class(definition, "mine")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("returned", "words"), [
    ((1.0, 2.0), "expected (loss sum, weight sum, dict"), ((jnp.ones(3), 1.0, {}), "shapes [(3,), ()]"),
    ((1.0, 1.0, {"m": jnp.ones(2)}), "shapes [(), (), (2,)]"), ((1.0, 1.0, {"loss": 1.0}), "metrics loss"),
])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_it_returns_is_checked(params, returned, words, accumulation):
    cls = objective_class(lambda params, ref_params, batch, model: returned, "mine")
    gradients = functools.partial(finetune_step.accumulated_gradients, cls(CONFIG))
    with pytest.raises(InputError) as error:
        jax.eval_shape(gradients, params, {}, make_batch(accumulation))
    assert words in str(error.value)


def test_what_documents_teach_by_default():
    example = Example("1", "document")
    learned = LearnedFrom(example, "prompt", "text", "initial")
    for cls in (objective_class(plain, "plain"), objectives.NextToken):
        (target,) = cls.targets(learned, SETTINGS)
        assert (target.id, target.prompt, target.completion, target.source, target.weight) == (
            "1", "prompt", "text", "initial", 1.0)
        assert cls.targets(LearnedFrom(example, "prompt", " \n", "initial"), SETTINGS) == []


def test_what_documents_teach_weighted():
    candidates = Candidates("1", ["a", " ", "c", "d"], [0.0] * 4, [1] * 4, [True] * 4)
    scored = Scored("1", [0.1, 0.9, 0.1, 5.0], 0, {})
    learned = LearnedFrom(Example("1", "document"), "prompt", "a", "refinement", candidates=candidates, scored=scored,
                          usable=(True, False, True, False))
    targets = objectives.Weighted.targets(learned, SETTINGS)
    assert [(t.completion, t.weight) for t in targets] == [("a", 0.5), ("c", 0.5)]
