"""Trains a model's params on examples, step by step. Killed at any point and resumed, it ends in the same params."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax import config_sections
from ilf_jax.errors import InputError
from ilf_jax.models import flops, lora, padding, transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.placement import Placement
from ilf_jax.models.row_planner import RowPlanner
from ilf_jax.models.transformer import Params
from ilf_jax.runtime import checkpoint, performance, preemption, progress, seeds, storage
from ilf_jax.steps.finetune_step import Batch
from ilf_jax.training import batch_schedule, dev_split, early_stopping, optimizer, step_log, train_program
from ilf_jax.training.batch_schedule import Plan
from ilf_jax.training.objectives import Objective
from ilf_jax.training.packing import TrainingExample

_STATES = "state"


@dataclasses.dataclass(frozen=True)
class Trainer:
    """How to train, whatever the objective and the examples.

    Attributes:
        section: "finetune" or "reward": the section of the config that messages talk about.
        settings: that section.
        placement: where the trained model lies.
        compute: how it is computed.
        seed: of the run; order, dev split and LoRA's random matrices follow from it.
        iteration: of the run, which order and LoRA depend on too.
        folder: of the stage: the log steps.jsonl and the training checkpoints in state/ go there.
        checkpointing: how often to save the state.
        profile: records some steps, if it is asked to.
        on_step: is told of each step, see `step_log.StepLog`.
    """

    section: str
    settings: config_sections.Training
    placement: Placement
    compute: ComputeOptions
    seed: int
    iteration: int
    folder: storage.Path
    checkpointing: config_sections.Checkpoint
    profile: performance.Profile
    on_step: step_log.Listener | None = None


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training made."""

    params: Params  # of an ordinary model
    loss: float  # nats a weighted token, mean of the last epoch's steps
    steps: int
    tokens: int  # of all steps, padding left out
    log_digest: str  # of steps.jsonl
    work: performance.Work  # of the steps that this process made


def check(section: str, settings: config_sections.Training, model: ModelConfig) -> None:
    """Raises InputError if config.`section` asks for what the model does not have."""
    if settings.lora_rank:
        lora.target_paths(transformer.param_shapes(model), settings.lora_targets, section)
    elif settings.lora_base_precision != "float32":
        raise InputError(f"config.{section}.lora_base_precision={settings.lora_base_precision!r} needs a "
                         f"config.{section}.lora_rank above 0: without LoRA the base itself is trained, in float32")


def train(
    trainer: Trainer, objective: Objective, load_params: Callable[[], Params], examples: Sequence[TrainingExample],
    load_reference: Callable[[], Params] | None = None,
) -> Trained:
    """Trains, or resumes after the last training checkpoint in the stage's folder.

    Args:
        trainer: how.
        objective: what is minimised, and the architecture that is trained.
        load_params: gives the params to start from, the same ones each time; training uses them up. A scalar head that
            the architecture has and they do not is added, all zeros.
        examples: what to learn. Those of one document are all trained on, or all held back.
        load_reference: gives the params of a frozen reference; None: those to start from.

    Raises:
        InputError: loss or params are not finite any more, or a checkpoint cannot be written.
    """
    plan, dev_plan = _plans(trainer, objective.architecture, examples)
    first, step, params, log = _optimise(trainer, objective, load_params, load_reference, plan, dev_plan)
    if trainer.settings.lora_rank:
        # Merged into the base as it was loaded: in a lower precision it is not what is learned.
        params = lora.merge(lora.join(_starting_params(trainer, objective, load_params), params))
    if not performance.fetch(_all_finite(params)):
        raise InputError(f"{trainer.section}: training stopped, some params are not finite after step {step}. "
                         f"{step_log.remedy(trainer.section)}")
    return Trained(params, log.mean_of_last(plan.steps_per_epoch), step, sum(map(plan.tokens, range(step))),
                   log.digest(), _work(objective.architecture, plan, range(first, step)))


def _optimise(
    trainer: Trainer, objective: Objective, load_params: Callable[[], Params],
    load_reference: Callable[[], Params] | None, plan: Plan, dev_plan: Plan | None,
) -> tuple[int, int, Params, step_log.StepLog]:
    """Takes all steps. When it returns, nothing but the params that were trained is left in memory.

    Returns:
        (Steps that an earlier process took, steps in all, the trained params, the log.)
    """
    settings, placement = trainer.settings, trainer.placement
    trained, frozen = train_program.split(settings, placement, _starting_params(trainer, objective, load_params))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, frozen)]
    progress.log(f"{sizes[0]:,} of {sum(sizes):,} parameters are trained")
    schedule = optimizer.Schedule(settings.schedule, settings.learning_rate, num_steps=len(plan),
                                  warmup_steps=round(settings.warmup_fraction * len(plan)))
    opt = optimizer.OptimizerConfig.from_settings(settings)
    reference = None
    if objective.reference == "frozen" and load_reference is not None:
        reference = placement.params(load_reference(), "train")
    train_step, first = train_program.begin(opt, placement, objective, trained, frozen, plan.batch(0), reference)
    state, reference = first.state, first.reference
    del trained, first  # the state holds them, until the step, or a restored state, takes their place
    stopping = early_stopping.EarlyStopping(settings.patience, state.params) if dev_plan else None
    states = checkpoint.TrainingCheckpoints(trainer.folder / _STATES, trainer.checkpointing.states)
    clock = checkpoint.Clock(trainer.checkpointing.every_steps, trainer.checkpointing.every_minutes)
    log = step_log.StepLog(trainer.folder / "steps.jsonl", trainer.section, trainer.on_step)
    resumed_at, logged = None, None
    if states.latest() is not None:
        to_restore = {"state": state, **(stopping.to_save() if stopping else {})}
        like = placement.with_shardings(to_restore, "train")
        del state, to_restore  # a resumed run needs no more memory than a new one
        resumed_at, restored, facts = states.restore_newest(like)
        logged = facts.get("log")
        state = restored.pop("state")
        if stopping:
            stopping.restore(restored)

    def dev_loss() -> float:
        assert dev_plan is not None
        instead = state.ema if objective.reference == "ema" else reference
        return _mean_loss(objective, placement, state.params, frozen, instead, dev_plan)

    if stopping and resumed_at is None:
        stopping.score_start(dev_loss())
    step = resumed_at or 0
    log.rewind(step, logged)
    pending: tuple[int, dict[str, Any]] | None = None

    def log_pending() -> None:
        nonlocal pending
        if pending is not None:
            bar.advance(1, loss=log.add(*pending))
            pending = None

    def save() -> None:
        log_pending()
        log.flush()
        states.save(step, {"state": state, **(stopping.to_save() if stopping else {})}, log=log.digest())

    with (progress.Progress(f"{trainer.section} {trainer.iteration}", len(plan), "steps", done=step) as bar,
          preemption.only_at_safe_points(), states.writing()):
        while step < len(plan) and not (stopping and stopping.stopped):
            batch = placement.batch(plan.batch(step), axis=1)
            rate = np.float32(schedule(step))
            trainer.profile.step()
            performance.batch_begins()
            state, metrics = train_step(objective, opt, state, frozen, batch, rate, reference)
            log_pending()  # one step late, so that the device always has the next step at hand
            pending = (step, {**metrics, "learning_rate": rate, "tokens": plan.tokens(step)})
            step += 1
            if stopping and step % plan.steps_per_epoch == 0:
                stopping.score_epoch(dev_loss(), state.params)
            if clock.is_due(step) and step < len(plan):
                save()
            preemption.safe_point(save)
        log_pending()
        log.flush()
        trainer.profile.stop()
    return resumed_at or 0, step, stopping.best if stopping else state.params, log


def delete_states(folder: storage.Path) -> None:
    """Deletes the training checkpoints in a stage's folder; for a training that is complete."""
    checkpoint.TrainingCheckpoints(folder / _STATES).clear()


def row_shape(
    settings: config_sections.Training, model: ModelConfig, placement: Placement, compute: ComputeOptions,
    examples: Sequence[TrainingExample],
) -> dict[str, Any]:
    """Arguments of `batch_schedule.make_plan` that say what rows may look like.

    Args:
        settings: how the model is trained.
        model: its architecture.
        placement: where it lies; each shard gets as many rows.
        compute: the kernels; some take only some row lengths.
        examples: all examples, held-back ones too.
    """
    planner = RowPlanner(model, placement.mesh.devices.flat[0], compute)
    lengths = padding.lengths_between(max(map(len, examples)), settings.max_length, planner.multiple)
    return {"merge": settings.packing, "row_lengths": lengths, "row_multiple": placement.batch_shards,
            "row_cost": lambda length: flops.training(model, tokens=length, seen=length, targets=0)}


def _starting_params(trainer: Trainer, objective: Objective, load_params: Callable[[], Params]) -> Params:
    key = jax.random.fold_in(seeds.key(trainer.seed), trainer.iteration)
    return train_program.trainable(objective.architecture, trainer.settings, trainer.section, load_params(), key)


def _plans(trainer: Trainer, model: ModelConfig, examples: Sequence[TrainingExample]) -> tuple[Plan, Plan | None]:
    """All training steps, and the batches of a dev loss if there is one."""
    settings = trainer.settings
    train_examples, dev_examples = dev_split.split(examples, settings.dev_fraction, trainer.seed)
    shape = row_shape(settings, model, trainer.placement, trainer.compute, examples)
    plan = batch_schedule.make_plan(
        train_examples, epochs=settings.epochs, batch_size=settings.batch_size, accumulation=settings.accumulation,
        shuffle=settings.shuffle, seed=trainer.seed + 1000 * trainer.iteration, **shape,
    )
    if not dev_examples:
        return plan, None
    return plan, batch_schedule.make_plan(
        dev_examples, epochs=1, batch_size=settings.batch_size, accumulation=1, shuffle=False, seed=0, **shape)


def _mean_loss(
    objective: Objective, placement: Placement, trained: Params, frozen: Params, reference: Params | None, plan: Plan
) -> float:
    """Of all examples of a plan, in nats a weighted token."""
    loss = weight = 0.0
    for step in range(len(plan)):
        batch = {name: array[0] for name, array in plan.batch(step).items()}
        sums = performance.fetch(_loss_sums(objective, trained, frozen, reference, placement.batch(batch)))
        loss, weight = loss + float(sums[0]), weight + float(sums[1])
    return float(np.float32(loss / weight))  # rounded as in a training checkpoint, so that a resumed run compares alike


@functools.partial(jax.jit, static_argnames="objective")
def _loss_sums(
    objective: Objective, trained: Params, frozen: Params, reference: Params | None, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    ref_params = {} if reference is None else lora.join(frozen, reference)
    return objective(lora.join(frozen, trained), ref_params, batch)[:2]


@jax.jit
def _all_finite(params: Params) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def _work(model: ModelConfig, plan: Plan, steps: range) -> performance.Work:
    tokens, total_flops = 0, 0.0
    for step in steps:
        for e in (plan.examples[i] for i in plan.order[step]):
            for text in (e, *e.beside.values()):
                n = len(text.tokens)
                tokens += n
                total_flops += flops.training(model, tokens=n, seen=n / 2, targets=text.num_targets)
    return performance.Work(tokens, total_flops)
