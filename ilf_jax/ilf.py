"""Algorithm 1: K iterations of draft, feedback, refine, score, finetune, evaluate; where a stopped run goes on.

Before the first, a reward model is trained if the run has comparisons; after the last, the systems are ranked.

The order of resume is the order of the stages: a stage whose manifest says complete is left alone, one that has begun
goes on after its last shard (finetuning: after its last checkpoint), and everything behind it runs. While finetuning's
params are being written the evaluation is under way; its first records are written once finetuning is complete.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from ilf_jax import config as config_lib
from ilf_jax import preflight, records
from ilf_jax.data import comparisons, documents
from ilf_jax.errors import InputError
from ilf_jax.evaluation import systems as systems_lib
from ilf_jax.inference import model_pool
from ilf_jax.records import BestOfN, Comparison, Example, Output
from ilf_jax.reporting import html_report, summary
from ilf_jax.runtime import distributed, jax_settings, progress, sharding, storage
from ilf_jax.runtime import workdir as workdir_lib
from ilf_jax.stages import best_of_n, draft, evaluate, feedback, finetune, rank, refine, reward, score, targets
from ilf_jax.stages.context import Run
from ilf_jax.tasks import make
from ilf_jax.tasks.task import Task
from ilf_jax.tokenizers import bpe_training

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
    task = make.make_task(config)
    preflight.check_sources(config, task)
    found = documents.load_documents(config)
    preflight.check_documents(config, found)
    compared = comparisons.load_comparisons(config.reward) if config.reward.source else None
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    model_pool.compute_of(config, mesh)  # refuses what the devices cannot do
    folder, lock = workdir_lib.open_workdir(workdir, config_lib.to_dict(config))
    with lock, workdir_lib.full_disk_in_words(folder.path):
        jax_settings.apply(config.precision)
        _train_tokenizer(config, task, folder.path, found)
        shared = model_pool.Models(mesh, config.seed, config.precision)
        arm = Arm(config, folder, task, found, shared, folder.path / "tokenizer",
                  folder.reward_model if compared else None, profiled_steps)
        if compared is not None:
            arm.train_reward_model(compared)
        metrics = arm.run()
        arms = [arm]
        for target in config.compare:
            settings = preflight.arm_config(config, target)
            other, lock = workdir_lib.open_workdir(folder.path / "compare" / target, config_lib.to_dict(settings))
            with lock:
                progress.log(f"baseline arm: imitating {target}")
                arms.append(dataclasses.replace(arm, config=settings, folder=other, profiled_steps=0))
                arms[-1].run()
        if config.evaluate.rank:
            metrics = arm.rank({name: texts for one in arms for name, texts in one.systems().items()})
        distributed.on_main(lambda: _show(folder, metrics))  # the others wait: who ends first would end this one
    return metrics


def _show(folder: workdir_lib.Workdir, metrics: list[dict[str, Any]]) -> None:
    """TensorBoard, the report and the closing table."""
    with storage.read_locally(folder.path, leave_out=workdir_lib.PARAMS) as place:
        progress.TensorBoard(place).rewrite([*metrics, *folder.performance()])
        page = html_report.build_report(place)
        summary.print_summary(place)
        if not storage.is_local(folder.path):
            storage.delete(folder.path / "tensorboard")
            storage.copy(place / "tensorboard", folder.path / "tensorboard")
            (folder.path / page.name).write_text(page.read_text(encoding="utf-8"))
    progress.log(f"report: {folder.path / page.name}")


@dataclasses.dataclass(frozen=True)
class Arm:
    """All iterations of one configuration in its own folder: the run itself, or a baseline beside it.

    Attributes:
        tokenizer_folder: of the tokenizer that the run has trained, if it has.
        reward_model: params of the reward model that the run trains; None where it trains none.
    """

    config: config_lib.Config
    folder: workdir_lib.Workdir
    task: Task
    found: documents.Documents
    shared: model_pool.Models
    tokenizer_folder: storage.Path
    reward_model: storage.Path | None
    profiled_steps: int = 0

    def _in_iteration(self, k: int, trained: int) -> Run:
        """Iteration k, while the policy has been trained for `trained` iterations."""
        checkpoint = self.folder.checkpoint(trained) if trained else None
        roles = model_pool.Roles(self.config, self.shared, self.tokenizer_folder, checkpoint, self.reward_model)
        return Run(self.config, self.folder, self.task, k, self.found.by_iteration.get(k, ()), self.found.held_out,
                   roles, self.profiled_steps if k == 1 else 0)

    def train_reward_model(self, compared: comparisons.Comparisons) -> None:
        """Before anything else; the arms beside this one use it too."""
        run = self._in_iteration(0, 0)
        _write_records(self.folder.iteration(0) / "comparisons.jsonl", (*compared.train, *compared.held_out),
                       "config.reward")
        if not run.folder("reward").complete:
            reward.run(run, compared)
            self.folder.write_metrics()
        reward.tidy(run)

    def run(self) -> list[dict[str, Any]]:
        """Returns the metrics."""
        self._evaluate(self._in_iteration(0, 0))
        for k in range(1, self.config.iterations + 1):
            self._iterate(k)
        return self.folder.write_metrics()

    def _iterate(self, k: int) -> None:
        config, folder, before = self.config, self.folder, self._in_iteration(k, k - 1)
        _write_records(folder.iteration(k) / "examples.jsonl", before.examples, "config.data")
        for stage in targets.needed_stages(config):
            if not folder.stage(k, stage).complete:
                _STAGES[stage](before)
                folder.write_metrics()
        with self._finetuned(before) as complete:
            if k > 1:
                self.shared.forget(f"orbax:{folder.checkpoint(k - 1)}")
            self._evaluate(dataclasses.replace(self._in_iteration(k, k), before_writing=complete))
        if config.checkpoint.keep is not None and k > config.checkpoint.keep and distributed.is_main():
            storage.delete(folder.checkpoint(k - config.checkpoint.keep))

    @contextlib.contextmanager
    def _finetuned(self, run: Run) -> Iterator[Callable[[], None]]:
        """Within, the policy is trained, and its params may still be on their way to the disk.

        Yields:
            Waits for them, and completes the stage. Called when this is left, unless that was done before.
        """
        if run.folder("finetune").complete:
            finetune.tidy(run)  # a kill may have come before that
            yield lambda: None
            return
        finish = finetune.run(run, self.found.by_iteration)

        @functools.cache
        def complete() -> None:
            finish()
            self.folder.write_metrics()

        try:
            yield complete
        except (InputError, KeyboardInterrupt, SystemExit):  # on other errors not all processes may come here
            complete()
            raise
        complete()

    def _evaluate(self, run: Run) -> None:
        if not run.held_out:
            return
        _write_records(run.folder("evaluate").path / "examples.jsonl", run.held_out, "config.data")
        stages = {"evaluate": evaluate.run, **({"best_of_n": best_of_n.run} if self._draws_best_of_n else {})}
        for stage, work in stages.items():
            if not run.folder(stage).complete:
                work(run)
                self.folder.write_metrics()

    @property
    def _draws_best_of_n(self) -> bool:
        return self.config.evaluate.best_of_n > 1

    def systems(self) -> dict[str, systems_lib.Texts]:
        """What there is to compare on the held-out documents."""
        policies = systems_lib.of_policies(
            self.config.finetune.target, self.config.iterations, self.config.evaluate.best_of_n,
            lambda k: self.folder.stage(k, "evaluate").read(Output),
            lambda k: self.folder.stage(k, "best_of_n").read(BestOfN))
        return policies | systems_lib.of_people(self.found.held_out)

    def rank(self, systems: Mapping[str, systems_lib.Texts]) -> list[dict[str, Any]]:
        """Judges every two of them; returns the metrics."""
        if len(systems) < 2:
            raise InputError(f"config.evaluate.rank=True takes two systems; there is only {', '.join(systems)}")
        run = self._in_iteration(self.config.iterations, self.config.iterations)
        if not run.folder("rank").complete:
            rank.run(run, systems)
        return self.folder.write_metrics()


def _write_records(path: storage.Path, rows: Sequence[Example | Comparison], section: str) -> None:
    """Raises InputError if a run that goes on finds other documents, or comparisons, than it was begun with."""
    text = "".join(json.dumps(records.to_json(row), ensure_ascii=False) + "\n" for row in rows)

    def write() -> None:
        if not path.exists():
            workdir_lib.write_atomically(path, text)
        elif path.read_text(encoding="utf-8") != text:
            raise InputError(f"{path}: holds other {path.stem.replace('examples', 'documents')} than {section} gives "
                             "now; the data have changed since the run was begun: restore them, or take another "
                             "--workdir")

    distributed.on_main(write)


def _train_tokenizer(
    config: config_lib.Config, task: Task, folder: storage.Path, found: documents.Documents
) -> None:
    size = preflight.trained_tokenizer_size(config)
    if size is None:
        return

    def train() -> None:
        if not (folder / "tokenizer" / "tokenizer_config.json").exists():
            texts = (f"{e.document} {e.reference}" for examples in found.by_iteration.values() for e in examples)
            bpe_training.train_bpe(texts, size, folder / "tokenizer", task.token_units)

    distributed.on_main(train)
