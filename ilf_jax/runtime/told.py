"""Whoever is told of a run's new metrics: a function of the user's, a tracker. After a resume nobody is told twice."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from ilf_jax import registry
from ilf_jax.runtime import distributed, manifests, storage
from ilf_jax.runtime.files import read_sealed, write_json

Rows: TypeAlias = list[dict[str, Any]]
Listener: TypeAlias = Callable[[Rows], Any]
ON_METRICS = "on_metrics"
"""The listener that is a function of the user's."""
FILE = "told.json"
"""In the run's folder: listener -> the stages that it was told of."""
_CURE = "delete it to have all metrics told again"


class Board(Protocol):
    """Shows a run while it is under way, from its first step at each start. Of several processes, process 0 has one."""

    def show(self, rows: Rows) -> None:
        """Is given all lines of metrics.jsonl and performance.jsonl whenever a stage is complete."""

    def steps(self, stage: str, iteration: int) -> Callable[[int, Mapping[str, Any]], None]:
        """Who is to be told of each step of a training: its number from 0, its line of steps.jsonl."""


class Told:
    """Tells listeners of each complete stage once, its baselines' included, and notes it in the run's folder.

    A process that is killed while it tells tells the same rows again when it is resumed.
    """

    def __init__(self, folder: storage.Path, listeners: Mapping[str, Listener]) -> None:
        """Reads what was told before.

        Args:
            folder: of the run.
            listeners: by a name that is the same when the run is resumed. Each is called with new lines of
                metrics.jsonl; those of a baseline also have its name, as `baseline`. One that joins a run under way is
                told of all stages, but on_metrics only of those that are yet to come.

        Raises:
            InputError: what was noted is damaged.
        """
        self._folder, self._listeners = folder, dict(listeners)

        def noted() -> dict[str, list[str]]:
            path = folder / FILE
            before = read_sealed(path, _CURE) if path.exists() else {}
            new: dict[str, list[str]] = {name: [] for name in listeners if name not in before}
            if ON_METRICS in new:
                for place in (folder, *storage.inside(folder / "baselines")):
                    new[ON_METRICS] += self._complete(place)
            if new:
                write_json(path, {**before, **new})
            return {**before, **new}

        self._told = {name: set(stages) for name, stages in distributed.on_main(noted).items()} if listeners else {}

    def _complete(self, folder: storage.Path) -> dict[str, Rows]:
        """The metrics of the complete stages of the run, or of a baseline, by the stage's folder."""
        own = str(folder) == str(self._folder)
        start, added = ("", {}) if own else (f"baselines/{folder.name}/", {"baseline": folder.name})
        return {f"{start}iteration_{k:03d}/{stage}": [{**row, **added} for row in manifest.get("metrics", [])]
                for k, stage, manifest in manifests.of_stages(folder) if manifest.get("complete")}

    def tell(self, folder: storage.Path) -> None:
        """Tells each listener of the stages that are new to it. Called on process 0.

        Args:
            folder: of the run, or of a baseline.

        Raises:
            InputError: a listener raised; its file and line are named. It is told again on a resume.
        """
        stages = self._complete(folder) if self._listeners else {}
        for name, listener in self._listeners.items():
            new = [stage for stage in stages if stage not in self._told[name]]
            rows = [row for stage in new for row in stages[stage]]
            if rows:
                registry.call_user(listener, f"the metrics of {', '.join(new)}", rows)
            if new:
                self._told[name].update(new)
                write_json(self._folder / FILE, {who: sorted(told) for who, told in self._told.items()})
