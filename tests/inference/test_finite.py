"""A model that computes NaN is named before anything is recorded of it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.inference import finite
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import checkpoint_io

pytestmark = pytest.mark.usefixtures("quick_compiles")
LM = types.SimpleNamespace(name="judge", settings=types.SimpleNamespace(checkpoint="hf:models/judge"))


@pytest.mark.fast
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_checkpoint_is_named(value):
    finite.check(LM, np.zeros((2, 3)), "answers")
    with pytest.raises(InputError, match=r"config\.judge\.checkpoint='hf:models/judge': the model's answers are not"):
        finite.check(LM, np.array([0.0, value]), "answers")


def test_a_policy_of_nan_writes_nothing(tiny_config, tmp_path, monkeypatch):
    original = checkpoint_io.random_params
    monkeypatch.setattr(checkpoint_io, "random_params", lambda *args: jax.tree.map(
        lambda leaf: jnp.full_like(leaf, jnp.nan), original(*args)))
    tiny_config.iterations = 0
    with pytest.raises(InputError, match=r"config\.policy\.checkpoint='init:tiny': .* not finite"):
        ilf_jax.run(tiny_config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("0*.jsonl"))


def test_a_judge_of_nan_scores_nothing(tiny_config, tmp_path, monkeypatch):
    original = LanguageModel.answer_logits
    monkeypatch.setattr(LanguageModel, "answer_logits", lambda *args: original(*args) * jnp.nan)
    with pytest.raises(InputError, match=r"config\.(judge|policy)\.checkpoint=.*: the model's answers are not finite"):
        ilf_jax.run(tiny_config, tmp_path / "run")
    assert not list((tmp_path / "run/iteration_001/score").glob("0*.jsonl"))
