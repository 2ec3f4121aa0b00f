"""A dry run compiles what the run compiles, and says whether it fits."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ilf_jax import config as config_lib
from ilf_jax.dry_run import advice, batch_shapes, compiled_steps, dry_run
from ilf_jax.inference import generation, language_model
from ilf_jax.models import checkpoint_io, family_facts
from ilf_jax.models.architecture import SHAPES
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import sharding
from ilf_jax.sweeps import config_files
from ilf_jax.training import objectives, train_program

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture
def quickstart():
    config = config_files.from_file(str(ROOT / "configs/quickstart.py"), {"data.train_size": 32, "data.eval_size": 4})
    return dataclasses.replace(config, iterations=1, baselines={})


def test_tables_of_the_quickstart(quickstart, capsys):
    assert dry_run.dry_run(quickstart) == 0
    said = capsys.readouterr().out
    for words in ("refine", "score", "finetune", "984,192", "measured on all 32 documents", "[in brackets]: trained"):
        assert words in said, words
    assert "does not fit" not in said


@pytest.mark.parametrize(
    ("family", "scale", "activation", "tied"), [("gemma2", 32**0.5, "gelu_tanh", True), ("olmo2", 1.0, "silu", False)])
def test_another_family(tiny_config, tmp_path, capsys, family, scale, activation, tied):
    model = dataclasses.replace(
        SHAPES["tiny"], num_layers=1, family=family, embedding_scale=scale, activation=activation, tied_embeddings=tied,
        **family_facts.FIXED[family])
    checkpoint_io.save_hf(model, checkpoint_io.random_params(model, 0), tmp_path)
    tiny_config.policy.checkpoint, tiny_config.policy.tokenizer = f"hf:{tmp_path}", "train:512"
    assert dry_run.dry_run(config_lib.read(tiny_config)) == 0
    assert "does not fit" not in capsys.readouterr().out


@pytest.mark.versions
@pytest.mark.fast
def test_a_reward_model_without_iterations(capsys):
    config = config_files.from_file(str(ROOT / "configs/reward_model.py"), {"data.eval_size": 4, "evaluate.rank": True})
    assert dry_run.dry_run(config) == 0
    said = capsys.readouterr().out
    assert "reward -> evaluate -> best_of_n" in said and "rank" in said and "each iteration" not in said


def test_predicts_what_the_run_compiles(quickstart, tmp_path, monkeypatch):
    """Bytes of the programs that the run itself executes, as XLA reports them, against the dry run's."""
    import ilf_jax

    found, sizes = {}, {}

    def watch(module, name, step, look):
        original = getattr(module, name)

        def program(*arguments):
            jitted = original(*arguments)

            def call(*args, **kwargs):
                memory = jitted.lower(*args, **kwargs).compile().memory_analysis()
                total = (memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
                         - memory.alias_size_in_bytes)
                if total > found.get(step, 0) and look(*args) is not None:
                    found[step], sizes[step] = total, look(*args)
                return jitted(*args, **kwargs)

            call.lower = jitted.lower
            return call

        monkeypatch.setattr(module, name, program)

    watch(generation, "refine_program", "refine",
          lambda model, params, tokens, lengths, keys, *_: {"prompt": tokens.shape[1]} if keys.shape[1] > 1 else None)
    watch(language_model, "answer_logits_program", "score",
          lambda model, params, prefix, lengths, branch, offsets, leaves, ends, answers: {
              "prefix": prefix.shape[1], "branch": branch.shape[2], "questions": ends.shape[2]})
    watch(train_program, "train_step_program", "finetune",
          lambda objective, opt, state, frozen, batch, *_: dict(
              zip(("accumulation", "rows", "row", "targets"), (*batch["tokens"].shape, batch["targets"].shape[2]),
                  strict=True)))
    ilf_jax.run(quickstart, tmp_path / "run")
    monkeypatch.undo()
    assert set(found) == {"refine", "score", "finetune"}

    placement = Placement(sharding.make_mesh(-1, 1, 1), checkpoint_io.read_config("builtin:word_removal_1m"))
    parts = dict.fromkeys(("refiner", "judge", "policy"), placement)
    actual = batch_shapes.Shapes(**sizes["refine"], **sizes["score"], **sizes["finetune"], source="")
    for step in compiled_steps.compile_all(quickstart, parts, actual):
        assert step.total == pytest.approx(found[step.name], rel=0.15), step
    # Before the run nobody knows how long the texts will be: the dry run takes them as long as they may be.
    told = []
    original = compiled_steps.compile_all
    monkeypatch.setattr(compiled_steps, "compile_all", lambda *args: told.extend(original(*args)) or told)
    dry_run.dry_run(quickstart)
    for step in told:
        assert 0.98 * found[step.name] < step.total < 2 * found[step.name], step


def test_what_does_not_fit_is_told_with_remedies(quickstart, capsys, monkeypatch):
    monkeypatch.setattr(dry_run, "_memory", lambda device, chip: 15 * 2**20)
    assert dry_run.dry_run(quickstart) == 3
    said = capsys.readouterr().out
    assert "finetune does not fit" in said and "NO" in said
    assert "--config.finetune.remat=full" in said
    remedies = said.split("finetune does not fit")[1].splitlines()[1:4]
    saved = [float(line.split("about ")[1].split()[0]) for line in remedies]
    assert len(saved) == 3 and saved == sorted(saved, reverse=True)


def test_remedies_help(quickstart):
    """Those for training, compiled: each takes less memory than before."""
    placement = Placement(sharding.make_mesh(-1, 1, 1), checkpoint_io.read_config("builtin:word_removal_1m"))
    parts = dict.fromkeys(("refiner", "judge", "policy"), placement)

    def finetuned(**changes):
        config = dataclasses.replace(quickstart, finetune=dataclasses.replace(quickstart.finetune, **changes))
        sizes = batch_shapes.assumed(config, placement)
        return config, sizes, next(s for s in compiled_steps.compile_all(config, parts, sizes) if s.name == "finetune")

    config, sizes, before = finetuned()
    told = " ".join(advice.changes(config, placement, sizes, before, count=9))
    for flag, changes, part in (("remat=full", {"remat": "full"}, "total"),
                                ("lora_rank=16", {"lora_rank": 16}, "arguments"),
                                ("accumulation=2", {"accumulation": 2}, "total")):
        assert f"--config.finetune.{flag}" in told
        assert getattr(finetuned(**changes)[2], part) < getattr(before, part), flag


@pytest.mark.parametrize("rank", [0, 16])
def test_a_reference_is_counted(quickstart, monkeypatch, rank):
    """A frozen copy, and a moving average, of what is trained: one more copy of that."""
    placement = Placement(sharding.make_mesh(-1, 1, 1), checkpoint_io.read_config("builtin:word_removal_1m"))
    config = dataclasses.replace(quickstart, finetune=dataclasses.replace(quickstart.finetune, lora_rank=rank))
    sizes = dataclasses.replace(batch_shapes.assumed(config, placement), row=32, rows=2, targets=8)
    arguments, copies = {}, {}
    for reference in ("none", "logprobs", "frozen", "ema"):
        class Imitation(objectives.NextToken):
            def __call__(self, params, ref_params, batch):
                loss, weight, _ = super().__call__(params, ref_params, batch)
                if self.reference == "logprobs":
                    loss += jnp.sum(batch["reference_logprobs"])
                return loss, weight, {"reference": sum(map(jnp.sum, jax.tree.leaves(ref_params)), jnp.zeros(()))}

        Imitation.reference = reference
        monkeypatch.setattr(objectives, "by_choice", lambda choice, imitation=Imitation: imitation)
        _, arguments[reference], _, _ = compiled_steps._finetune(config, placement, sizes)
        step = compiled_steps._compile("finetune", placement, 0, *compiled_steps._finetune(config, placement, sizes),
                                       loops=1)
        copies[reference] = step.arguments
    trained = arguments["frozen"] - arguments["none"]
    assert arguments["logprobs"] == arguments["none"] and arguments["ema"] == arguments["frozen"]
    assert trained == 4 * 984_192 if rank == 0 else 0 < trained < 984_192
    for reference in ("frozen", "ema"):
        assert copies[reference] - copies["none"] == trained
    assert copies["logprobs"] - copies["none"] == 4 * 2 * 8 * sizes.accumulation


def test_deep_models_are_extrapolated(quickstart, monkeypatch):
    """Twelve layers from two and four, against twelve compiled."""
    model = dataclasses.replace(checkpoint_io.read_config("builtin:word_removal_1m"), num_layers=12)
    placement = Placement(sharding.make_mesh(-1, 1, 1), model)
    parts = dict.fromkeys(("refiner", "judge", "policy"), placement)
    sizes = dataclasses.replace(batch_shapes.assumed(quickstart, placement), row=64, prompt=64, prefix=64, targets=32)
    right = compiled_steps.compile_all(quickstart, parts, sizes)
    monkeypatch.setattr(compiled_steps, "_DEEPEST", 11)
    monkeypatch.setattr(compiled_steps, "_SHALLOW", 2)
    for found, exact in zip(compiled_steps.compile_all(quickstart, parts, sizes), right, strict=True):
        assert (found.depths, exact.depths) == ((2, 4), (12,))
        assert found.arguments == pytest.approx(exact.arguments, rel=0.01)
        assert found.total == pytest.approx(exact.total, rel=0.1), found.name
        assert (found.parameters, found.flops) == (exact.parameters, exact.flops)
    # Under a scan depth costs the compiler nothing.
    scanning = dataclasses.replace(quickstart, layers="scan")
    for found, exact in zip(compiled_steps.compile_all(scanning, parts, sizes), right, strict=True):
        assert found.depths == (12,)
        assert found.arguments == pytest.approx(exact.arguments, rel=0.01)
        assert (found.parameters, found.flops) == (exact.parameters, exact.flops)


def run_main(*flags, **environment):
    return subprocess.run([sys.executable, "-m", "ilf_jax.main", *flags], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "JAX_PLATFORMS": "cpu", **environment})


def test_topology_needs_a_dry_run():
    done = run_main("--config=configs/quickstart.py", "--topology=v5e:4x4", "--workdir=unused")
    assert done.returncode == 2 and "--topology needs --dry_run" in done.stderr


def test_a_slice_that_is_not_here():
    pytest.importorskip("libtpu", reason="needs the TPU compiler, package libtpu")
    done = run_main("--config=configs/tldr_5k.py", "--dry_run", "--topology=v5e:2x4",
                    "--config.policy.checkpoint=init:tiny", "--config.refiner.checkpoint=policy",
                    "--config.judge.checkpoint=policy", "--config.mesh.tensor=1", "--config.attention=xla",
                    "--config.data.source=jsonl:not_here.jsonl")
    assert done.returncode == 0, done.stderr
    assert "8 x TPU v5 lite" in done.stdout and "of 15.8" in done.stdout and "all-reduce" in done.stdout
    assert "skipping documents and tokenizer" in done.stdout and "not_here.jsonl" in done.stdout
