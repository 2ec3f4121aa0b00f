"""Weights & Biases and MLflow: told of the metrics as stages complete. Neither is imported unless it is asked for.

Where they are and who you are, their own environment variables say: WANDB_MODE, WANDB_API_KEY, MLFLOW_TRACKING_URI.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ilf_jax import config as config_lib
from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.runtime import distributed, storage
from ilf_jax.runtime.told import Listener, Rows
from ilf_jax.runtime.workdir import Workdir

_NAMES = ("wandb", "mlflow")  # of their packages, too
_MLFLOW_BATCH, _MLFLOW_PARAMS, _MLFLOW_LONGEST = 1000, 100, 6000  # what its REST API takes at once
_OUR_RUN = "ilf_jax.run"


def check(config: Config) -> None:
    """Raises InputError if a tracker that config.tracking asks for is not installed."""
    for name in _NAMES:
        project = getattr(config.tracking, name)
        if project is not None and not project.strip():
            raise InputError(f"config.tracking.{name}: '' given; name a project, or leave it unset")
        if project is not None and importlib.util.find_spec(name) is None:
            raise InputError(f"config.tracking.{name}={project!r} needs the package {name}, which is not installed: "
                             f"pip install {name}")


@contextlib.contextmanager
def opened(config: Config, folder: Workdir) -> Iterator[dict[str, Listener]]:
    """The trackers of config.tracking, ready to be told of metrics; a resumed run goes on in the same record.

    Of several processes, process 0 alone has them.

    Raises:
        InputError: a tracker cannot be reached.
    """
    # The same for each start of one run, another for another run in a folder of the same name.
    run_id = hashlib.sha256(f"{folder.path} {folder.started.isoformat()}".encode()).hexdigest()[:16]
    openers: dict[str, Callable[..., contextlib.AbstractContextManager[Listener]]] = {
        "wandb": _wandb, "mlflow": _mlflow}
    listeners: dict[str, Listener] = {}
    with contextlib.ExitStack() as stack:

        def open_it(name: str, project: str) -> None:
            with _explained(name, project):
                listeners[name] = stack.enter_context(openers[name](config, folder.path, project, run_id))

        for name in openers:
            project = getattr(config.tracking, name)
            if project is not None:
                distributed.on_main(functools.partial(open_it, name, project))
                listeners.setdefault(name, _silent)
        yield listeners


def _silent(rows: Rows) -> None:
    """What the other processes have in place of a tracker."""


@contextlib.contextmanager
def _explained(name: str, project: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as e:  # whatever its HTTP library raises
        raise InputError(f"config.tracking.{name}={project!r}: cannot be opened: {type(e).__name__}: "
                         f"{' '.join(str(e).split())[:300]}") from e


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration by dotted key; what is neither number nor text nor unset is left as it is."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def _name(row: Mapping[str, Any]) -> str:
    baseline = f"baselines/{row['baseline']}/" if "baseline" in row else ""
    return f"{baseline}{row['stage']}/{row['metric']}"


@contextlib.contextmanager
def _wandb(config: Config, folder: storage.Path, project: str, run_id: str) -> Iterator[Listener]:
    import wandb

    here = str(folder) if storage.is_local(folder) and "WANDB_DIR" not in os.environ else None
    run = wandb.init(project=project, name=folder.name, id=run_id, resume="allow", config=config_lib.to_dict(config),
                     dir=here, settings=wandb.Settings(console="off", silent=True))
    run.define_metric("iteration", hidden=True)
    run.define_metric("*", step_metric="iteration")

    def tell(rows: Rows) -> None:
        for k in dict.fromkeys(row["iteration"] for row in rows):
            run.log({"iteration": k, **{_name(row): row["value"] for row in rows
                                        if row["iteration"] == k and row["value"] is not None}})

    code = 1
    try:
        yield tell
        code = 0
    finally:
        run.finish(exit_code=code)


@contextlib.contextmanager
def _mlflow(config: Config, folder: storage.Path, project: str, run_id: str) -> Iterator[Listener]:
    import mlflow
    from mlflow.entities import Metric, Param

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(project)
    experiment_id = client.create_experiment(project) if experiment is None else experiment.experiment_id
    known = client.search_runs([experiment_id], f"tags.`{_OUR_RUN}` = '{run_id}'", max_results=1)
    if known:
        run = known[0]
        client.update_run(run.info.run_id, status="RUNNING")
    else:
        run = client.create_run(experiment_id, run_name=folder.name, tags={_OUR_RUN: run_id})
        params = [Param(key, str(value)[:_MLFLOW_LONGEST])
                  for key, value in flat(config_lib.to_dict(config)).items() if value is not None]
        for start in range(0, len(params), _MLFLOW_PARAMS):
            client.log_batch(run.info.run_id, params=params[start : start + _MLFLOW_PARAMS])

    def tell(rows: Rows) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(re.sub(r"[^\w\-. :/]", "_", _name(row)), row["value"], now, row["iteration"])
                   for row in rows if row["value"] is not None]
        for start in range(0, len(metrics), _MLFLOW_BATCH):
            client.log_batch(run.info.run_id, metrics=metrics[start : start + _MLFLOW_BATCH])

    status = "FAILED"
    try:
        yield tell
        status = "FINISHED"
    finally:
        client.set_terminated(run.info.run_id, status)
