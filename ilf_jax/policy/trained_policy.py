"""A trained policy at work. `ilf_jax.load` gives one."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence

import numpy as np

from ilf_jax import config as config_lib
from ilf_jax import tasks
from ilf_jax.errors import InputError
from ilf_jax.inference import answer_scoring, model_pool
from ilf_jax.inference.policy_outputs import PolicyOutputs
from ilf_jax.inference.reward_scorer import RewardScorer
from ilf_jax.models import padding
from ilf_jax.records import Example
from ilf_jax.runtime import files, jax_settings, sharding, storage, workdir
from ilf_jax.sampling import decode
from ilf_jax.tasks.task import Task

_CURE = "give the work folder of a run"


@dataclasses.dataclass(frozen=True)
class Policy:
    """The policy of one iteration. It writes for new documents what the evaluate stage would write for them.

    Attributes:
        config: of the run; its evaluate section says how outputs are drawn.
        task: writes prompts and reads outputs.
        roles: the models.
        iteration: after which the policy is used; 0 is the policy before training.
        has_reward_model: whether the run has one, for `generate(best_of=...)`.
    """

    config: config_lib.Config
    task: Task
    roles: model_pool.Roles
    iteration: int
    has_reward_model: bool

    def generate(
        self, documents: Sequence[str | Example], n: int = 1, *, best_of: int = 1, temperature: float | None = None,
        max_new_tokens: int | None = None, seed: int | None = None,
    ) -> list[list[str]]:
        """Outputs for each document. The same arguments give the same outputs.

        Args:
            documents: texts; or Examples, where the task's prompts read more than the document. A text's random keys
                follow from what it says, an Example's from its id, as in the run.
            n: outputs a document.
            best_of: draw so many a document and return the n that the run's reward model likes best, best first.
            temperature: instead of config.evaluate.temperature; 0 is greedy.
            max_new_tokens: instead of config.evaluate.max_new_tokens.
            seed: instead of config.seed.

        Raises:
            InputError: an argument is out of range, the run has no reward model, or a document leaves no room in the
                model's context.
        """
        texts = [documents] if isinstance(documents, str) else list(documents)
        examples = [d if isinstance(d, Example) else _example(d) for d in texts]
        config = self._with(temperature, max_new_tokens, seed)
        drawn_each = max(n, best_of)
        if n < 1 or best_of < 1 or drawn_each > 256:
            raise InputError(f"generate: n={n} and best_of={best_of}; allowed are 1 to 256")
        if best_of > 1 and not self.has_reward_model:
            raise InputError("generate: best_of needs a reward model: a run with config.reward.source or "
                             "config.reward_model.checkpoint")
        if best_of > 1 and best_of < n:
            raise InputError(f"generate: n={n} of best_of={best_of}; draw at least as many as are to be returned")
        outputs = PolicyOutputs.make(
            self.roles.get("policy"), self.task, config, examples, trained=self.iteration > 0,
            batch_size=max(1, config.evaluate.batch_size // drawn_each))
        purpose = "best_of_n" if best_of > 1 else "evaluate"
        texts_of: dict[int, list[str]] = {}
        for batch in padding.batches_by_length(outputs.prompts.lengths, outputs.generator.batch_size):
            keys = decode.candidate_keys(config.seed, 0, purpose, [examples[i].id for i in batch], range(drawn_each))
            drawn = outputs.start([examples[i] for i in batch], keys).result()
            for i, samples in zip(batch, drawn, strict=True):
                texts_of[i] = [outputs.text(s.text) for s in samples]
        if best_of > 1:
            texts_of = self._ranked(examples, texts_of)
        return [texts_of[i][:n] for i in range(len(examples))]

    def _with(self, temperature: float | None, max_new_tokens: int | None, seed: int | None) -> config_lib.Config:
        given = {"evaluate.temperature": temperature, "evaluate.max_new_tokens": max_new_tokens, "seed": seed}
        return config_lib.with_overrides(self.config, {key: v for key, v in given.items() if v is not None})

    def _ranked(self, examples: Sequence[Example], texts_of: dict[int, list[str]]) -> dict[int, list[str]]:
        """The texts of each document, the one with the highest reward first; unusable ones come last."""
        scorer = RewardScorer(self.roles.get("reward_model"), self.task, self.config.reward.kind)
        ranked = {}
        for i, texts in texts_of.items():
            # A model that compares two texts compares each with the first.
            questions = [scorer.ask(examples[i], texts, texts[0])]
            (rewards_N,) = scorer.start(questions, 1, answer_scoring.choose_layout_for_part(questions)).result()
            usable = np.array([self.task.is_usable(examples[i], text) for text in texts])
            order = np.argsort(-np.where(usable, rewards_N, -np.inf), kind="stable")
            ranked[i] = [texts[c] for c in order]
        return ranked


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

    def roles(self) -> model_pool.Roles:
        """The models at the end of this iteration. Nothing is loaded until it is asked for."""
        of_run = workdir.Workdir(self.root, {})
        config = self.config
        pool = model_pool.ModelPool(_mesh(config), config.seed, config.precision, of_run.started, config.layers)
        checkpoint = workdir.Workdir(self.folder, {}).checkpoint(self.iteration) if self.iteration else None
        return model_pool.Roles(self.config, pool, self.root / "tokenizer", checkpoint,
                                of_run.reward_model if self.trains_reward else None)


def find(folder: str | os.PathLike[str], iteration: int | None = None, baseline: str = "") -> Finished:
    """A finished iteration, see `load`. Settings of jax follow its configuration from then on.

    Raises:
        InputError: as `load`.
    """
    root = storage.path(folder)
    run = _config(root)
    where = root
    if baseline:
        names = sorted(run.baselines or {})
        if baseline not in names:
            raise InputError(f"{root}: has no baseline {baseline!r}; it has {', '.join(names) or 'none'}")
        where = root / "baselines" / baseline
    config = _config(where)
    jax_settings.apply(config.precision)
    finished = _finished(where)
    if iteration is None:
        iteration = max(finished, default=0)
    elif iteration and iteration not in finished:
        raise InputError(f"{where}: iteration {iteration} has no finished checkpoint; those that have are "
                         f"{', '.join(map(str, finished)) or 'none'}, and 0 is the policy before training")
    return Finished(config, root, where, iteration)


def load(folder: str | os.PathLike[str], iteration: int | None = None, baseline: str = "") -> Policy:
    """The policy of a run.

    Args:
        folder: the run's work folder.
        iteration: after which; 0 is the policy before training. None: the last one that is finished.
        baseline: name of a baseline of the run, whose policy is meant instead.

    Raises:
        InputError: it is not a work folder, there is no such baseline, or the iteration has no checkpoint.
    """
    found = find(folder, iteration, baseline)
    return Policy(found.config, tasks.make_task(found.config), found.roles(), found.iteration,
                  found.trains_reward or found.config.reward_model.checkpoint != "policy")


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


def _mesh(config: config_lib.Config) -> sharding.Mesh:
    """The run's mesh, which its models may need; where these devices do not make it up, one of data shards."""
    try:
        return sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    except InputError:
        return sharding.make_mesh(-1, 1, 1)


def _example(text: str) -> Example:
    if not isinstance(text, str):
        raise InputError(f"generate: a document is a str or an ilf_jax.records.Example, not {type(text).__name__}")
    return Example(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16], text)
