"""Which iterations of a run are finished. Importing this loads no jax: whatever is not there is found at once."""

import dataclasses
import os
import re
from typing import TYPE_CHECKING

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.reporting import workfolder
from ilf_jax.runtime import files, storage

if TYPE_CHECKING:
    from ilf_jax.inference.model_pool import Roles
    from ilf_jax.runtime.sharding import Mesh

_CURE = "give the work folder of a run"


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished iteration of a run, or of one of its baselines.

    Attributes:
        config: the configuration it ran with.
        root: the run's work folder.
        folder: the same, or the baseline's in it.
        iteration: its number; 0 is the policy before training.
    """

    config: config_lib.Config
    root: storage.Path
    folder: storage.Path
    iteration: int

    @property
    def trains_reward(self) -> bool:
        """Whether the run trained a reward model."""
        return self.config.reward.source is not None

    def roles(self) -> "Roles":
        """The models at the end of this iteration. Nothing is loaded until it is asked for.

        Settings of jax follow the run's configuration from then on.
        """
        from ilf_jax.inference import model_pool  # loads jax
        from ilf_jax.runtime import jax_settings, workdir

        of_run = workdir.Workdir(self.root, {})
        config = self.config
        jax_settings.apply(config.precision)
        pool = model_pool.ModelPool(_mesh(config), config.seed, config.precision, of_run.started, config.layers)
        checkpoint = workdir.Workdir(self.folder, {}).checkpoint(self.iteration) if self.iteration else None
        return model_pool.Roles(self.config, pool, self.root / "tokenizer", checkpoint,
                                of_run.reward_model if self.trains_reward else None)


def find(folder: str | os.PathLike[str], iteration: int | None = None, baseline: str = "") -> Finished:
    """A finished iteration of a run: names and files are looked at, nothing is loaded.

    Args:
        folder: the run's work folder.
        iteration: which; 0 is the policy before training. None: the last one that is finished.
        baseline: name of a baseline of the run, which is meant instead.

    Raises:
        InputError: it is not a work folder, there is no such baseline, or the iteration has no checkpoint.
    """
    workfolder.check(folder)
    root = storage.path(folder)
    run = _config(root)
    where = root
    if baseline:
        names = sorted(run.baselines or {})
        if baseline not in names:
            raise InputError(f"{root}: has no baseline {baseline!r}; it has {', '.join(names) or 'none'}")
        where = root / "baselines" / baseline
    config = _config(where)
    finished = _finished(where)
    if iteration is None:
        iteration = max(finished, default=0)
    elif iteration and iteration not in finished:
        raise InputError(f"{where}: iteration {iteration} has no finished checkpoint; those that have are "
                         f"{', '.join(map(str, finished)) or 'none'}, and 0 is the policy before training")
    return Finished(config, root, where, iteration)


def _config(folder: storage.Path) -> config_lib.Config:
    path = folder / "config.json"
    if not path.exists():
        raise InputError(f"{folder}: not a work folder, it has no config.json; {_CURE}")
    return config_lib.read(files.read_sealed(path, _CURE))


def _finished(folder: storage.Path) -> list[int]:
    """Iterations whose checkpoint is complete."""
    numbers = [int(p.name.removeprefix("iteration_")) for p in folder.iterdir()
               if re.fullmatch(r"iteration_\d+", p.name)]
    return sorted(k for k in numbers if (folder / f"iteration_{k:03d}" / "checkpoint" / "model.json").exists())


def _mesh(config: config_lib.Config) -> "Mesh":
    """The run's mesh, which its models may need; where these devices do not make it up, one of data shards."""
    from ilf_jax.runtime import sharding

    try:
        return sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    except InputError:
        return sharding.make_mesh(-1, 1, 1)
