"""Finetune: maximise log pi_theta(x1 | c) over the picked texts. Killed anywhere, it goes on to the same params."""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax import checkpoint, progress
from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.records import Example
from ilf_jax.stages import batching, targets
from ilf_jax.stages import run as run_lib
from ilf_jax.stages.role import Role
from ilf_jax.steps import finetune as steps
from ilf_jax.tasks.base import Task
from ilf_jax.training import objectives, optimizer, packing, plan
from ilf_jax.workdir import write_atomically

_REMEDY = "A lower config.finetune.learning_rate or a config.finetune.clip_norm above 0 may help"


@functools.partial(jax.jit, static_argnames=("objective", "optimizer_config"), donate_argnames="state")
def _train_step(
    objective: steps.Objective, optimizer_config: optimizer.OptimizerConfig, state: steps.TrainState,
    batch: steps.Batch,
) -> tuple[steps.TrainState, dict[str, jax.Array]]:
    return steps.train_step(objective, optimizer.make_optimizer(optimizer_config), state, batch)


@functools.partial(jax.jit, static_argnames="objective")
def _dev_loss(objective: steps.Objective, params: Any, batch: steps.Batch) -> tuple[jax.Array, jax.Array]:
    return objective(params, batch)


def run(run: run_lib.Run, examples_of: dict[int, tuple]) -> None:
    """Writes the training pairs and the params after training.

    Args:
        examples_of: the examples of this iteration and of those before it.
    """
    folder, settings = run.folder("finetune"), run.config.finetune
    folder.begin()
    start = time.monotonic()
    first = 1 if settings.data == "cumulative" else run.iteration
    learnt_from = range(first, run.iteration + 1)
    pairs = [pair for k in learnt_from for pair in targets.of_iteration(run, k, examples_of[k])]
    if not pairs:
        raise InputError(f"iteration {run.iteration}: every text to imitate is empty, there is nothing to learn from")
    if not folder.has_shard(0, 1):
        folder.write_shard(0, 1, pairs)
    role = run.roles.get("policy" if settings.init == "previous" else "base")
    role = dataclasses.replace(role, params=role.placement.params(role.params, "train"))
    by_id = {e.id: e for k in learnt_from for e in examples_of[k]}
    examples = [training_example(settings, run.task, role, by_id[pair.id], pair.completion, pair.weight)
                for pair in pairs]
    trained = _train(run, role, examples)
    target_folder = run.workdir.checkpoint(run.iteration)
    role.tokenizer.save(target_folder / "tokenizer")
    checkpoint.save_model(target_folder, trained.params, role.model)
    metrics = [
        run.metric("finetune", "loss", trained.loss), run.metric("finetune", "steps", trained.steps),
        run.metric("finetune", "examples", len(pairs)),
        run.metric("finetune", "target_tokens", sum(e.num_targets for e in examples)),
    ]
    folder.finish(shards=1, count=len(pairs), seconds=time.monotonic() - start, metrics=metrics)
    tidy(run)


def tidy(run: run_lib.Run) -> None:
    """Deletes the states of a training that is complete; a kill may have come before that."""
    checkpoint.TrainingCheckpoints(run.folder("finetune").path / "state").clear()


def training_example(
    settings: config_lib.Finetune, task: Task, role: Role, example: Example, completion: str,
    weight: float = 1.0,
) -> packing.TrainingExample:
    """Token ids and loss weights of one pair; a document that leaves no room is shortened, the completion never.

    Raises:
        InputError: prompt and completion do not fit into config.finetune.max_length even so.
    """
    limit = min(settings.max_length, role.model.max_positions)
    room = len(role.tokenizer.encode(completion)) + 2
    while room < limit:
        try:
            (prompt,) = role.encode(example.id, [task.policy_prompt(example)], role.model.max_positions - limit + room)
        except InputError as e:
            raise InputError(f"{e}; {room} of config.finetune.max_length={settings.max_length} tokens are kept for "
                             "the text to imitate") from e
        made = packing.training_example(
            prompt.ids, role.continuation(prompt, completion), role.end_id,
            prompt_weight=settings.prompt_loss_weight, scale=weight,
        )
        if len(made) <= limit:
            return made
        room += len(made) - limit  # the completion took more tokens behind its prompt than by itself
    raise InputError(f"the text to imitate for document {example.id!r} has about {room} tokens, and "
                     f"config.finetune.max_length={settings.max_length} (context of {role.model.max_positions}) leaves "
                     "no room for its prompt")


@dataclasses.dataclass(frozen=True)
class _Trained:
    params: Any
    loss: float  # nats a weighted token, mean of the last epoch's steps
    steps: int


def _train(run: run_lib.Run, role: Role, examples: Sequence[packing.TrainingExample]) -> _Trained:
    settings, folder = run.config.finetune, run.folder("finetune")
    train, dev = _split(examples, settings.dev_fraction, run.config.seed)
    shape = {"merge": settings.packing, "row_length": batching.bucket(max(map(len, examples))),
             "row_multiple": role.placement.batch_shards}
    steps_plan = plan.make_plan(
        train, epochs=settings.epochs, batch_size=settings.batch_size, accumulation=settings.accumulation,
        shuffle=settings.shuffle, seed=run.config.seed + 1000 * run.iteration, **shape,
    )
    dev_plan = plan.make_plan(dev, epochs=1, batch_size=settings.batch_size, accumulation=1, shuffle=False, seed=0,
                              **shape) if dev else None
    opt = optimizer.OptimizerConfig(
        learning_rate=settings.learning_rate, schedule=settings.schedule, num_steps=len(steps_plan),
        warmup_steps=round(settings.warmup_fraction * len(steps_plan)), weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm, b2=settings.b2,
    )
    objective = objectives.NextTokenLoss(role.model, role.dtype, settings.remat)
    # A copy: the step donates its state, and others go on using the params that training starts from.
    state = steps.init_state(jax.tree.map(jnp.copy, role.params), optimizer.make_optimizer(opt))
    # Every leaf on the whole mesh, counters too: a restored state is placed like this one.
    state = role.placement.params(state, "train")
    stopping = _EarlyStopping(settings.patience, state.params) if dev else None
    saved = checkpoint.TrainingCheckpoints(folder.path / "state")
    log = _StepLog(folder.path / "steps.jsonl")
    begun = saved.latest()
    if begun is not None:
        like = {"state": state, **(stopping.to_save() if stopping else {})}
        whole = saved.restore(begun, role.placement.params(like, "train"))
        state = whole.pop("state")
        if stopping:
            stopping.restore(whole)
    step = begun or 0
    log.rewind(step)
    schedule = optimizer.learning_rate_schedule(opt)
    pending: tuple[int, dict[str, jax.Array]] | None = None

    with progress.Progress(f"finetune {run.iteration}", len(steps_plan), "steps", done=step) as bar:
        while step < len(steps_plan) and not (stopping and stopping.stopped):
            batch = role.placement.batch(steps_plan.batch(step), axis=1)
            state, metrics = _train_step(objective, opt, state, batch)
            # Metrics are read one step late, so that the device always has the next step at hand.
            if pending is not None:
                bar.advance(1, loss=log.add(*pending))
            pending = (step, {**metrics, "learning_rate": schedule(step), "tokens": steps_plan.tokens(step)})
            step += 1
            if stopping and step % steps_plan.steps_per_epoch == 0:
                stopping.look(_mean_loss(role, objective, state.params, dev_plan), state.params)
            if step % settings.checkpoint_every == 0 and step < len(steps_plan):
                bar.advance(1, loss=log.add(*pending))
                pending = None
                saved.save(step, {"state": state, **(stopping.to_save() if stopping else {})})
        if pending is not None:
            bar.advance(1, loss=log.add(*pending))
    params = stopping.best if stopping else state.params
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params)):
        raise InputError(f"finetuning stopped: some params are no numbers after step {step}. {_REMEDY}")
    return _Trained(params, log.mean_of_last(steps_plan.steps_per_epoch), step)


def _split(
    examples: Sequence[packing.TrainingExample], dev_fraction: float, seed: int
) -> tuple[list[packing.TrainingExample], list[packing.TrainingExample]]:
    """Training and dev examples; a dev set has at least one if it is wanted at all, and never all."""
    count = min(len(examples) - 1, max(1, round(dev_fraction * len(examples)))) if dev_fraction > 0 else 0
    held_back = set(np.random.default_rng(seed).permutation(len(examples))[:count].tolist())
    return ([e for i, e in enumerate(examples) if i not in held_back],
            [e for i, e in enumerate(examples) if i in held_back])


def _mean_loss(role: Role, objective: steps.Objective, params: Any, dev_plan: plan.Plan) -> float:
    loss = weight = 0.0
    for step in range(len(dev_plan)):
        batch = {name: array[0] for name, array in dev_plan.batch(step).items()}
        sums = _dev_loss(objective, params, role.placement.batch(batch))
        loss, weight = loss + float(sums[0]), weight + float(sums[1])
    return float(np.float32(loss / weight))  # as a training checkpoint keeps it, so that a resumed run compares alike


class _EarlyStopping:
    """Remembers the params with the lowest dev loss, and stops after `patience` epochs without a better one."""

    def __init__(self, patience: int, params: Any) -> None:
        self._patience, self.best = patience, jax.tree.map(jnp.copy, params)
        self._best_loss, self._worse = float("inf"), 0

    @property
    def stopped(self) -> bool:
        return self._worse >= self._patience

    def look(self, loss: float, params: Any) -> None:
        if loss < self._best_loss:
            self.best, self._best_loss, self._worse = jax.tree.map(jnp.copy, params), loss, 0
        else:
            self._worse += 1
        progress.log(f"dev loss {loss:.4f} nats a token, best {self._best_loss:.4f}")

    def to_save(self) -> dict[str, Any]:
        return {"best": self.best, "best_loss": jnp.float32(self._best_loss), "worse": jnp.int32(self._worse)}

    def restore(self, saved: dict[str, Any]) -> None:
        self.best = saved["best"]
        self._best_loss, self._worse = float(saved["best_loss"]), int(saved["worse"])


class _StepLog:
    """Loss and the like of every step, a line each; a resumed run overwrites what came after its checkpoint."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._losses: list[float] = []

    def rewind(self, step: int) -> None:
        lines = self._path.read_text(encoding="utf-8").splitlines()[:step] if self._path.exists() else []
        self._losses = [json.loads(line)["loss"] for line in lines]
        write_atomically(self._path, "".join(line + "\n" for line in lines))

    def add(self, step: int, metrics: dict[str, Any]) -> float:
        """Writes a step's metrics and returns its loss. Raises InputError if that is no number."""
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        if not np.isfinite(row["loss"]) or not np.isfinite(row["grad_norm"]):
            raise InputError(f"finetuning stopped: loss {row['loss']}, gradient {row['grad_norm']} at step {step}. "
                             f"The last checkpoint is kept. {_REMEDY}")
        with self._path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        self._losses.append(row["loss"])
        return row["loss"]

    def mean_of_last(self, count: int) -> float:
        return float(np.mean(self._losses[-count:]))
