"""Algorithm 1: K iterations of draft, feedback, refine, score, finetune, evaluate; where a stopped run goes on.

The order of resume is the order of the stages: a stage whose manifest says complete is left alone, one that has begun
goes on after its last shard (finetuning: after its last checkpoint), and everything behind it runs.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from ilf_jax import config as config_lib
from ilf_jax import distributed, progress, records, sharding, storage, tokenizer_training
from ilf_jax import workdir as workdir_lib
from ilf_jax.data import documents
from ilf_jax.errors import InputError
from ilf_jax.feedback import recorded
from ilf_jax.records import Example
from ilf_jax.reporting import report, summary
from ilf_jax.stages import draft, evaluate, feedback, finetune, models, refine, score, targets
from ilf_jax.stages.run import Run
from ilf_jax.tasks import registry
from ilf_jax.tasks.base import Task

_STAGES = {"draft": draft.run, "feedback": feedback.run, "refine": refine.run, "score": score.run}


def run(
    config: config_lib.Config | ml_collections.ConfigDict | Mapping[str, Any], workdir: str | pathlib.Path,
    profiled_steps: int = 0,
) -> list[dict[str, Any]]:
    """Runs, or goes on with, a whole ILF run; returns the lines of metrics.jsonl.

    Args:
        config: see `ilf_jax.config`; start from `base_config()`.
        workdir: the run's folder; made if need be.
        profiled_steps: record a profile of so many training steps in `workdir`/profile.

    Raises:
        InputError: bad input of any kind, in words for the user; nothing that was written is lost.
    """
    if not isinstance(config, config_lib.Config):
        config = config_lib.read(config)
    task = registry.make_task(config)
    check_sources(config, task)
    found = documents.load_documents(config)
    check_documents(config, found)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    models.compute_of(config, mesh)  # refuses what the devices cannot do
    folder, lock = workdir_lib.open_workdir(workdir, config_lib.to_dict(config))
    with lock, workdir_lib.full_disk_in_words(folder.path):
        _keep_compiled_programs()
        if config.precision == "float32" and jax.default_backend() != "cpu":
            # Accelerators would otherwise round the inputs of float32 matmuls (TF32, bfloat16).
            jax.config.update("jax_default_matmul_precision", "highest")
        _train_tokenizer(config, folder.path, found)
        shared = models.Models(mesh, config.seed, config.precision)
        metrics = _run_arm(config, folder, task, found, shared, folder.path / "tokenizer", profiled_steps)
        for target in config.compare:
            arm = arm_config(config, target)
            arm_folder, arm_lock = workdir_lib.open_workdir(folder.path / "compare" / target, config_lib.to_dict(arm))
            with arm_lock:
                progress.log(f"baseline arm: imitating {target}")
                _run_arm(arm, arm_folder, task, found, shared, folder.path / "tokenizer")
        distributed.on_main(lambda: _show(folder, metrics))  # the others wait: who ends first would end this one
    return metrics


def _show(folder: workdir_lib.Workdir, metrics: list[dict[str, Any]]) -> None:
    """TensorBoard, the report and the closing table."""
    with storage.read_locally(folder.path, leave_out="checkpoint") as place:
        progress.TensorBoard(place).rewrite([*metrics, *folder.performance()])
        page = report.build_report(place)
        summary.print_summary(place)
        if not storage.is_local(folder.path):
            storage.delete(folder.path / "tensorboard")
            storage.copy(place / "tensorboard", folder.path / "tensorboard")
            (folder.path / page.name).write_text(page.read_text(encoding="utf-8"))
    progress.log(f"report: {folder.path / page.name}")


def arm_config(config: config_lib.Config, target: str) -> config_lib.Config:
    """The same run with another text to imitate. Scoring is left to the cheapest method that picks that text."""
    method = target if target in ("random", "longest", "first") else config.score.method
    objective = config.finetune.objective if target == "refinement" else "nll"
    return dataclasses.replace(
        config, compare=(), finetune=dataclasses.replace(config.finetune, target=target, objective=objective),
        score=dataclasses.replace(config.score, method=method),
    )


def check_sources(config: config_lib.Config, task: Task) -> None:
    """Raises InputError if parts of the configuration do not go together, or a checkpoint is not there."""
    _tokenizer_size(config)
    for arm in _arms(config):
        _check_arm(arm, task)


def _arms(config: config_lib.Config) -> list[config_lib.Config]:
    """The run itself and its baseline arms."""
    return [config, *(arm_config(config, target) for target in config.compare)]


def _check_arm(config: config_lib.Config, task: Task) -> None:
    needed = targets.needed_stages(config)
    if "feedback" in needed and config.feedback.source == "oracle" and not task.has_oracle:
        raise InputError(f"config.feedback.source='oracle', but task {task.name!r} has no oracle; "
                         "use 'recorded' or 'critic'")
    if "feedback" in needed and config.feedback.source == "recorded" and config.draft.source == "policy":
        raise InputError("config.draft.source='policy' with config.feedback.source='recorded': recorded feedback is "
                         "about the recorded draft; use config.draft.source='recorded', or feedback from elsewhere")
    if config.finetune.objective == "weighted" and config.finetune.target != "refinement":
        raise InputError(f"config.finetune.objective='weighted' weighs all refinements; "
                         f"it does not go with config.finetune.target={config.finetune.target!r}")
    for name in ("refiner", "judge", "critic", "embedder"):
        if (getattr(config, name).tokenizer or "").startswith("train:"):
            raise InputError(f"config.{name}.tokenizer: only the policy's tokenizer can be trained")
    models.check(config, needed_roles(config))
    finetune.check(config)


def needed_roles(config: config_lib.Config) -> list[str]:
    """The parts that models play in a run."""
    needed = targets.needed_stages(config)
    roles = ["policy", *(["refiner"] if "refine" in needed else [])]
    if "feedback" in needed and config.feedback.source == "critic":
        roles.append("critic")
    if ("score" in needed and config.score.method == "instruct_rm") or config.evaluate.win_rate:
        roles.append("judge")
    if "score" in needed and config.score.method == "embedding":
        roles.append("embedder")
    return roles


def check_documents(config: config_lib.Config, found: documents.Documents) -> None:
    """Raises InputError for the first document that lacks what the run, or an arm of it, needs."""
    train = [e for examples in found.by_iteration.values() for e in examples]
    for arm in _arms(config):
        targets.check(arm, train)
    needed = {stage for arm in _arms(config) for stage in targets.needed_stages(arm)}
    if "draft" in needed and draft.uses_recorded(config):
        for example in train:
            if not example.draft.strip():
                raise InputError(f"document {example.id!r} has no recorded draft; map it by config.data.fields.draft, "
                                 "or set config.draft.source='policy'")
    if config.feedback.source == "recorded" and "feedback" in needed:
        recorded.check(train)


def _run_arm(
    config: config_lib.Config, folder: workdir_lib.Workdir, task: Task, found: documents.Documents,
    shared: models.Models, tokenizer_folder: storage.Path, profiled_steps: int = 0,
) -> list[dict[str, Any]]:
    """All iterations of one arm in its own folder."""

    def in_iteration(k: int, trained: int) -> Run:
        """Iteration k, while the policy has been trained for `trained` iterations."""
        checkpoint = folder.checkpoint(trained) if trained else None
        roles = models.Roles(config, shared, tokenizer_folder, checkpoint)
        return Run(config, folder, task, k, found.by_iteration.get(k, ()), found.held_out, roles,
                   profiled_steps if k == 1 else 0)

    _evaluate(in_iteration(0, 0))
    for k in range(1, config.iterations + 1):
        before = in_iteration(k, k - 1)
        _write_examples(folder.iteration(k) / "examples.jsonl", before.examples)
        for stage in targets.needed_stages(config):
            if not folder.stage(k, stage).complete:
                _STAGES[stage](before)
                folder.write_metrics()
        if not folder.stage(k, "finetune").complete:
            finetune.run(before, found.by_iteration)
            folder.write_metrics()
        finetune.tidy(before)
        if k > 1:
            shared.forget(f"orbax:{folder.checkpoint(k - 1)}")
        _evaluate(in_iteration(k, k))
        if config.checkpoint.keep is not None and k > config.checkpoint.keep and distributed.is_main():
            storage.delete(folder.checkpoint(k - config.checkpoint.keep))
    return folder.write_metrics()


def _evaluate(run: Run) -> None:
    if not run.held_out:
        return
    _write_examples(run.folder("evaluate").path / "examples.jsonl", run.held_out)
    if run.folder("evaluate").complete:
        return
    evaluate.run(run)
    run.workdir.write_metrics()


def _write_examples(path: storage.Path, examples: tuple[Example, ...]) -> None:
    """Raises InputError if a run that goes on finds other documents than it was begun with."""
    text = "".join(json.dumps(records.to_json(e), ensure_ascii=False) + "\n" for e in examples)

    def write() -> None:
        if not path.exists():
            workdir_lib.write_atomically(path, text)
        elif path.read_text(encoding="utf-8") != text:
            raise InputError(f"{path}: holds other documents than config.data gives now; the data have changed since "
                             "the run was begun: restore them, or take another --workdir")

    distributed.on_main(write)


def _train_tokenizer(config: config_lib.Config, folder: storage.Path, found: documents.Documents) -> None:
    size = _tokenizer_size(config)
    if size is None:
        return

    def train() -> None:
        if not (folder / "tokenizer" / "tokenizer_config.json").exists():
            texts = (f"{e.document} {e.reference}" for examples in found.by_iteration.values() for e in examples)
            tokenizer_training.train_bpe(texts, size, folder / "tokenizer")

    distributed.on_main(train)


def _tokenizer_size(config: config_lib.Config) -> int | None:
    """V of config.policy.tokenizer='train:V'; None where none is to be trained."""
    kind, _, size = (config.policy.tokenizer or "").partition(":")
    if kind != "train":
        return None
    if not size.isdecimal() or int(size) < 257:
        raise InputError(f"config.policy.tokenizer={config.policy.tokenizer!r}: the size must be a whole number of at "
                         "least 257")
    return int(size)


def _keep_compiled_programs() -> None:
    """Compiled programs outlive the process, where the user has not said otherwise (JAX_COMPILATION_CACHE_DIR)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "ilf_jax" / "compiled"))
