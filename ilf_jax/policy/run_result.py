"""What `ilf_jax.run` returns."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from ilf_jax.runtime import storage
from ilf_jax.runtime.workdir import Workdir

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True, eq=False)
class RunResult(Sequence[dict[str, Any]]):
    """A run that is complete: its metrics, and where its files are. As a sequence it is the metrics.

    Attributes:
        metrics: the lines of metrics.jsonl: iteration, stage, metric, value, stderr, n.
        workdir: the run's folder; `ilf_jax.load(workdir)` gives the trained policy.
        report: the HTML page.
        checkpoints: of the policy after each iteration that has one; config.checkpoint.keep says how many are kept.
        baselines: the folder of each baseline.
    """

    metrics: list[dict[str, Any]]
    workdir: storage.Path
    report: storage.Path
    checkpoints: dict[int, storage.Path]
    baselines: dict[str, storage.Path]

    @property
    def policy(self) -> storage.Path | None:
        """The checkpoint of the trained policy, `orbax:FOLDER` in a config; None of a run without an iteration."""
        return self.checkpoints[max(self.checkpoints)] if self.checkpoints else None

    def to_frame(self) -> "pandas.DataFrame":
        """The metrics as a table, a row for each.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as e:
            raise ImportError("to_frame() needs the package pandas, which is not installed: pip install pandas") from e
        return pandas.DataFrame(self.metrics)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self.metrics[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RunResult):
            return vars(self) == vars(other)
        return self.metrics == other


def of(workdir: storage.Path, metrics: list[dict[str, Any]], iterations: int, baselines: Sequence[str]) -> RunResult:
    """The result of a run that has ended, with what its folder holds.

    Args:
        workdir: the run's folder.
        metrics: what it has measured.
        iterations: how many it made.
        baselines: their names.
    """
    folder = Workdir(workdir, {})
    checkpoints = {k: folder.checkpoint(k) for k in range(1, iterations + 1) if folder.checkpoint(k).exists()}
    return RunResult(metrics, workdir, workdir / "report.html", checkpoints,
                     {name: workdir / "baselines" / name for name in baselines})
