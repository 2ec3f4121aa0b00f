"""The training loop's way to its first step."""

import jax
import pytest

import ilf_jax
from ilf_jax.training import train_program

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture
def compiled():
    """Names of the programs that are compiled, or loaded, from here on."""
    names, event = [], "/jax/core/compile/backend_compile_duration"

    def listen(name, seconds, **about):
        if name == event:
            names.append(about["fun_name"])

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_step_that_was_compiled_beforehand_is_the_one_that_is_run(
    tiny_config, tmp_path, compiled, monkeypatch, lora_rank,
):
    original, at_call = train_program.train_step_program, []

    def program(state, remat):
        jitted = original(state, remat)

        def call(*args):
            at_call.append(compiled.count("jit(_train_step)"))
            return jitted(*args)

        call.lower = jitted.lower
        return call

    monkeypatch.setattr(train_program, "train_step_program", program)
    tiny_config.finetune.lora_rank = lora_rank
    ilf_jax.run(tiny_config, tmp_path / "run")
    assert at_call == [1, 1, 1] and compiled.count("jit(_train_step)") == 1


def test_the_same_run_once_more_compiles_nothing_but_what_makes_random_params(tiny_config, tmp_path, compiled):
    ilf_jax.run(tiny_config, tmp_path / "first")
    assert "jit(_train_step)" in compiled
    compiled.clear()
    ilf_jax.run(tiny_config, tmp_path / "second")
    assert set(compiled) <= {"jit(init_params)"}
