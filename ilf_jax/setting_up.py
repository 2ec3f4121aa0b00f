"""Everything around Algorithm 1: reads and checks what a run needs, opens its folders, writes the closing report."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from ilf_jax import config as config_lib
from ilf_jax import preflight, records
from ilf_jax import tasks as tasks_lib
from ilf_jax.data import comparisons as comparisons_lib
from ilf_jax.data import documents as documents_lib
from ilf_jax.errors import InputError
from ilf_jax.evaluation import systems as systems_lib
from ilf_jax.inference import model_pool
from ilf_jax.records import BestOfN, Comparison, Example, Output
from ilf_jax.remote.endpoints import Endpoints
from ilf_jax.reporting import html_report, summary, tensorboard_files, trackers
from ilf_jax.reporting.live_events import LiveEvents
from ilf_jax.runtime import (
    config_changes,
    digests,
    distributed,
    files,
    hardware,
    jax_settings,
    os_errors,
    progress,
    provenance,
    sharding,
    storage,
    told,
)
from ilf_jax.runtime import workdir as workdir_lib
from ilf_jax.stages.context import SharedStages, StageContext
from ilf_jax.tasks.task import Task
from ilf_jax.tokenizers import bpe_training


@dataclasses.dataclass(frozen=True)
class Method:
    """One configuration in its own folder: the run itself, or a baseline beside it.

    Attributes:
        name: of the baseline; "" for the run itself.
        tokenizer_folder: of the tokenizer that the run has trained, if it has.
        reward_checkpoint: of the reward model that the run trains; None where it trains none.
    """

    name: str
    config: config_lib.Config
    workdir: workdir_lib.Workdir
    task: Task
    documents: documents_lib.Documents
    pool: model_pool.ModelPool
    shared: SharedStages
    tokenizer_folder: storage.Path
    reward_checkpoint: storage.Path | None
    profiled_steps: int = 0

    def _context(self, iteration: int, trained: int) -> StageContext:
        """An iteration, while the policy has been through `trained` of them."""
        checkpoint = self.workdir.checkpoint(trained) if trained else None
        roles = model_pool.Roles(self.config, self.pool, self.tokenizer_folder, checkpoint, self.reward_checkpoint)
        return StageContext(
            self.config, self.workdir, self.task, iteration, self.documents.by_iteration.get(iteration, ()),
            self.documents.held_out, roles, self.shared, self.profiled_steps if iteration == 1 else 0,
            self.documents.leaked)

    def before_training(self) -> StageContext:
        """Iteration 0: the policy as it was given."""
        context = self._context(0, 0)
        self._note_held_out(context)
        return context

    def begin_iteration(self, k: int) -> StageContext:
        """Iteration k, with the policy of the iteration before.

        Raises:
            InputError: a resumed run finds other documents than it was begun with.
        """
        context = self._context(k, k - 1)
        write_records(self.workdir.iteration(k) / "examples.jsonl", context.examples, "config.data")
        return context

    def with_policy(self, k: int) -> StageContext:
        """Iteration k, with the policy that it has trained."""
        context = self._context(k, k)
        self._note_held_out(context)
        return context

    def after_training(self) -> StageContext:
        """The last iteration, with its policy."""
        return self._context(self.config.iterations, self.config.iterations)

    def _note_held_out(self, context: StageContext) -> None:
        if context.held_out:
            write_records(context.folder("evaluate").path / "examples.jsonl", context.held_out, "config.data")

    def delete_old_checkpoints(self, k: int) -> None:
        """After iteration k: deletes the params that config.checkpoint.keep no longer covers."""
        keep = self.config.checkpoint.keep
        if keep is not None and k > keep and distributed.is_main():
            storage.delete(self.workdir.checkpoint(k - keep))

    def systems(self) -> dict[str, systems_lib.Texts]:
        """What there is to compare on the held-out documents."""
        policies = systems_lib.of_policies(
            self.name or self.config.finetune.target, self.config.iterations, self.config.evaluate.best_of_n,
            lambda k: self.workdir.stage(k, "evaluate").read(Output),
            lambda k: self.workdir.stage(k, "best_of_n").read(BestOfN))
        return policies | systems_lib.of_people(self.documents.held_out)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run that is ready to start.

    Attributes:
        run: the configuration's own method.
        comparisons: what a reward model is trained on; None where none is.
        allow_change: see `set_up`.
        events: show the run in TensorBoard while it is under way, where this process writes them.
    """

    run: Method
    comparisons: comparisons_lib.Comparisons | None
    allow_change: Collection[str] = ()
    events: LiveEvents | None = None
    _baselines: dict[str, Method] = dataclasses.field(default_factory=dict)

    def methods(self) -> Generator[Method, None, None]:
        """The run itself, then its baselines, each in a folder that is locked meanwhile."""
        yield self.run
        for name in self.run.config.baselines or {}:
            config = config_lib.baseline(self.run.config, name)
            workdir, lock = workdir_lib.open_workdir(
                baseline_folder(self.run.workdir.path, name), config_lib.to_dict(config), self.run.task.directions(),
                self.allow_change)
            with lock:
                workdir.told = self.run.workdir.told
                if self.events is not None:
                    workdir.board = self.events.beside(name, storage.local(workdir.path))
                progress.log(f"baseline: {name}")
                method = dataclasses.replace(self.run, name=name, config=config, workdir=workdir, profiled_steps=0)
                self._baselines[name] = method
                yield method

    def systems(self) -> dict[str, systems_lib.Texts]:
        """What the finished run and its baselines have to compare. Raises InputError if that is a single system."""
        methods = [self.run, *self._baselines.values()]
        systems = {name: texts for method in methods for name, texts in method.systems().items()}
        if len(systems) < 2:
            raise InputError(f"config.evaluate.rank=True takes two systems; there is only {', '.join(systems)}")
        return systems

    def report(self) -> list[dict[str, Any]]:
        """Writes metrics, TensorBoard files and the report, prints the closing table; returns the metrics."""
        folder = self.run.workdir
        metrics = folder.write_metrics()
        for method in self._baselines.values():
            distributed.on_main(method.workdir.tell)
        if self.run.pool.endpoints is not None:
            self.run.pool.endpoints.say_spent()

        def write() -> None:
            if self.events is not None:
                self.events.close()  # what is written now takes their place
            with storage.read_locally(folder.path, leave_out=workdir_lib.NOT_REPORTED) as place:
                tensorboard_files.rewrite(place)
                page = html_report.build_report(place)
                summary.print_summary(place)
                if not storage.is_local(folder.path):
                    storage.delete(folder.path / "tensorboard")
                    storage.copy(place / "tensorboard", folder.path / "tensorboard")
                    (folder.path / page.name).write_text(page.read_text(encoding="utf-8"))
            progress.log(f"report: {folder.path / page.name}")

        distributed.on_main(write)  # the other processes wait: one that ended first would end this one
        return metrics


@contextlib.contextmanager
def set_up(
    config: config_lib.Config | ml_collections.ConfigDict | Mapping[str, Any], workdir: str | pathlib.Path,
    profiled_steps: int, allow_change: Collection[str] = (), on_metrics: told.Listener | None = None,
) -> Iterator[Setup]:
    """Checks configuration, data and checkpoints, then opens the work folder, which is locked until this is left.

    `allow_change`: see `workdir.open_workdir`; it holds for the folders of baselines, too. `on_metrics`: see `ilf.run`.

    Raises:
        InputError: bad input of any kind, before any work is done.
    """
    if not isinstance(config, config_lib.Config):
        config = config_lib.read(config)
    storage.set_patience(config.storage.patience)
    config_changes.check_names(allow_change, config_lib.key_names())
    flags = hardware.set_xla_flags(model_pool.are_small(config))
    if flags:
        progress.log(f"XLA_FLAGS: added {flags}, which pay on this kind of device")
    config = _decided(config, storage.path(workdir))
    task = tasks_lib.make_task(config)
    trackers.check(config)
    preflight.check_sources(config, task)
    documents = documents_lib.load_documents(config)
    preflight.check_documents(config, task, documents)
    comparisons = comparisons_lib.load_comparisons(config.reward) if config.reward.source else None
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    model_pool.compute_of(config, mesh)  # refuses what the devices cannot do
    pool = model_pool.ModelPool(mesh, config.seed, config.precision, layers=config.layers)
    pool.endpoints = Endpoints(config, storage.path(workdir))
    documents = preflight.fitting(config, task, documents, pool)
    if comparisons is not None:
        comparisons = preflight.fitting_comparisons(config, task, documents, comparisons, pool)
    _check_baselines(storage.path(workdir), config, allow_change)
    pool.endpoints.check(config, {role for method in config_lib.methods(config)
                                  for role in config_lib.needed_roles(method)})
    folder, lock = workdir_lib.open_workdir(
        workdir, config_lib.to_dict(config), task.directions(), allow_change, provenance.here())
    with lock, os_errors.explained(folder.path, own=False), contextlib.ExitStack() as stack:
        jax_settings.apply(config.precision)
        pool.endpoints.begin()
        _train_tokenizer(config, task, folder.path, documents)
        if comparisons is not None:
            write_records(folder.iteration(0) / "comparisons.jsonl", (*comparisons.train, *comparisons.held_out),
                          "config.reward")
        pool.now = folder.started
        writing = [name for name in config_lib.local_roles(config) if name != "embedder"]
        model_pool.check_templates(model_pool.Roles(config, pool, folder.path / "tokenizer", None), writing)
        listeners = stack.enter_context(trackers.opened(config, folder))
        if on_metrics is not None:
            listeners[told.ON_METRICS] = on_metrics
        folder.told = told.Told(folder.path, listeners)
        events = _live_events(folder)
        if events is not None:
            stack.enter_context(contextlib.closing(events))
            folder.board = events
        yield Setup(
            Method("", config, folder, task, documents, pool, SharedStages(), folder.path / "tokenizer",
                   folder.reward_model if comparisons is not None else None, profiled_steps),
            comparisons, tuple(allow_change), events)


def _live_events(folder: workdir_lib.Workdir) -> LiveEvents | None:
    """Of process 0, of a run on a disk: an object in a bucket cannot be appended to, so there they come at the end."""
    if not distributed.is_main() or not storage.is_local(folder.path):
        return None
    return LiveEvents(folder.path, folder.path / tensorboard_files.FOLDER)


def _decided(config: config_lib.Config, folder: storage.Path) -> config_lib.Config:
    """The configuration with 'auto' replaced: by what the folder was begun with, else by what suits the devices."""
    here = model_pool.for_platform(config, jax.default_backend())
    asked = [name for name in config_changes.AUTO if getattr(config, name) == "auto"]

    def decide() -> dict[str, str]:
        if not asked or not (folder / "config.json").exists():
            return {}
        workdir_lib.read_run_facts(folder)  # of another version, the folder may hold anything
        begun = files.read_sealed(folder / "config.json")
        return {name: str(begun.get(name, getattr(here, name))) for name in asked}

    found = distributed.on_main(decide)
    for name, value in found.items():
        if value != getattr(here, name):
            progress.log(f"config.{name}={value}: {folder} was begun with it; the default here is "
                         f"{getattr(here, name)}")
    changes: dict[str, Any] = {**found}
    return dataclasses.replace(here, **changes)


def baseline_folder(workdir: storage.Path, name: str) -> storage.Path:
    """The work folder of a baseline, in that of its run."""
    return workdir / "baselines" / name


def _check_baselines(workdir: storage.Path, config: config_lib.Config, allow_change: Collection[str]) -> None:
    """Raises InputError if a baseline's folder has been begun with another configuration: before the run, not after."""

    def check_all() -> None:
        for name in config.baselines or {}:
            wanted = json.loads(json.dumps(config_lib.to_dict(config_lib.baseline(config, name))))
            workdir_lib.check_config(baseline_folder(workdir, name), wanted, allow_change)

    distributed.on_main(check_all)


def write_records(path: storage.Path, rows: Sequence[Example | Comparison], section: str) -> None:
    """Notes what a run was begun with.

    Raises:
        InputError: a resumed run finds other documents, or comparisons, than it was begun with.
    """
    try:
        text = "".join(json.dumps(records.to_json(row), ensure_ascii=False) + "\n" for row in rows)
    except ValueError as e:
        raise InputError(f"{section}: {e}") from e

    def write() -> None:
        if not path.exists():
            files.write_lines(path, text)
        elif b"\n".join(files.read_lines(path, "delete it to have it written again")) != text.encode():
            raise InputError(f"{path}: holds other {path.stem.replace('examples', 'documents')} than {section} gives "
                             "now; the data have changed since the run was begun: restore them, or use another "
                             "--workdir")

    distributed.on_main(write)


def _train_tokenizer(
    config: config_lib.Config, task: Task, folder: storage.Path, documents: documents_lib.Documents
) -> None:
    size = preflight.trained_tokenizer_size(config)
    if size is None:
        return

    def train() -> None:
        if not (folder / "tokenizer" / "tokenizer_config.json").exists():
            bpe_training.train_bpe(documents.texts(), size, folder / "tokenizer", task.token_units)
        if not digests.folder_list(folder / "tokenizer").exists():
            files.note_folder(folder / "tokenizer")

    distributed.on_main(train)
