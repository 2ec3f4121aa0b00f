"""Trains a model's params on examples, step by step. Killed anywhere, it goes on to the same params."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.models import flops, kernels, lora, padding, transformer
from ilf_jax.models.architecture import ModelConfig, to_facts
from ilf_jax.models.compute import in_precision
from ilf_jax.runtime import (
    checkpoint,
    compile_ahead,
    distributed,
    jax_settings,
    performance,
    preemption,
    progress,
    storage,
)
from ilf_jax.runtime.pending import Pending
from ilf_jax.stages import context as run_lib
from ilf_jax.steps import finetune_step as steps
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.training import batch_schedule, early_stopping, optimizer, packing, step_log


def train_step_program(state: steps.TrainState) -> jax.stages.Wrapped:
    """The train step, jitted; see `_train_step` for what it takes.

    Args:
        state: arrays, or jax.ShapeDtypeStruct; the next state lies where this one does.
    """
    shardings, tree = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, state))
    devices = next((s.device_set for s in shardings if s is not None), jax.devices())
    return _jitted_train_step(tree, tuple(shardings), next(iter(devices)).platform)


@functools.cache
def _jitted_train_step(tree: jax.tree_util.PyTreeDef, shardings: tuple, platform: str) -> jax.stages.Wrapped:
    return jax.jit(
        _train_step, static_argnames=("objective", "optimizer_config"), donate_argnames="state",
        out_shardings=(jax.tree.unflatten(tree, shardings), None),
        compiler_options=jax_settings.TRAIN_STEP_ON_CPU if platform == "cpu" else None,
    )


@functools.cache
def _jitted_init(
    opt: optimizer.OptimizerConfig, tree: jax.tree_util.PyTreeDef | None = None, shardings: tuple | None = None
) -> jax.stages.Wrapped:
    """Adam's state in one program: leaf by leaf, zeros for the moments are filled by one core."""
    out = None if tree is None else jax.tree.unflatten(tree, shardings)
    return jax.jit(optimizer.make_optimizer(opt).init, out_shardings=out)


def _train_step(
    objective: steps.Objective, optimizer_config: optimizer.OptimizerConfig, state: steps.TrainState,
    frozen: transformer.Params, batch: steps.Batch, learning_rate: np.float32,
) -> tuple[steps.TrainState, dict[str, jax.Array]]:
    made = optimizer.make_optimizer(optimizer_config)
    return steps.train_step(objective, made, state, frozen, batch, learning_rate)


@functools.partial(jax.jit, static_argnames="objective")
def _dev_loss(
    objective: steps.Objective, params: transformer.Params, frozen: transformer.Params, batch: steps.Batch
) -> tuple[jax.Array, jax.Array]:
    return objective(lora.join(frozen, params), batch)


@jax.jit
def _all_finite(params: transformer.Params) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def check(stage: str, settings: config_lib.Training, model: ModelConfig) -> None:
    """Raises InputError if config.`stage` asks for what the model has not."""
    if settings.lora_rank:
        lora.target_paths(transformer.param_shapes(model), settings.lora_targets, stage)
    elif settings.lora_base_precision != "float32":
        raise InputError(f"config.{stage}.lora_base_precision={settings.lora_base_precision!r} needs a "
                         f"config.{stage}.lora_rank above 0: without LoRA the base itself is trained, in float32")


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training made."""

    params: transformer.Params  # of an ordinary model
    loss: float  # nats a weighted token, mean of the last epoch's steps
    steps: int
    work: performance.Work  # of the steps that this process made


def _start(
    run: run_lib.StageContext, stage: str, settings: config_lib.Training, part: str, lm: LanguageModel
) -> transformer.Params:
    """The params to start from, with a scalar head if the trained model has one, and LoRA's where it is wanted.

    The same ones whenever they are asked for.
    """
    params = run.roles.take(part)
    if lm.architecture.scalar_head and transformer.SCALAR_HEAD not in params:
        params = transformer.with_scalar_head(lm.architecture, params)
    key = jax.random.fold_in(jax.random.key(run.config.seed), run.iteration)
    return lora.add(params, settings.lora_rank, settings.lora_alpha, settings.lora_targets, key, stage)


def train(
    run: run_lib.StageContext, stage: str, settings: config_lib.Training, part: str, lm: LanguageModel,
    objective: steps.Objective, examples: Sequence[packing.TrainingExample],
) -> Trained:
    """Trains from the params of `part`, or goes on after the stage's last training checkpoint.

    Those params are used up, and loaded again when they are next asked for.

    Args:
        stage: "finetune" or "reward": whose folder, and which section of the configuration is talked about.
        part: whose params to start from, see `Roles.take`.
        lm: the model to train, its params left out; that of `part`, or the same with a scalar head.
    """
    folder = run.folder(stage)
    params, frozen = lora.split(_start(run, stage, settings, part, lm))
    frozen = lm.placement.params(in_precision(frozen, jnp.dtype(settings.lora_base_precision)), "train")
    params = lm.placement.params(params, "train")
    trained, kept = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, frozen))
    progress.log(f"{trained:,} of {trained + kept:,} parameters are trained")
    learnt, dev = _split(examples, settings.dev_fraction, run.config.seed)
    shape = row_shape(settings, lm, examples)
    steps_plan = batch_schedule.make_plan(
        learnt, epochs=settings.epochs, batch_size=settings.batch_size, accumulation=settings.accumulation,
        shuffle=settings.shuffle, seed=run.config.seed + 1000 * run.iteration, **shape,
    )
    dev_plan = batch_schedule.make_plan(
        dev, epochs=1, batch_size=settings.batch_size, accumulation=1, shuffle=False, seed=0, **shape) if dev else None
    schedule = optimizer.Schedule(settings.schedule, settings.learning_rate, num_steps=len(steps_plan),
                                  warmup_steps=round(settings.warmup_fraction * len(steps_plan)))
    opt = optimizer.OptimizerConfig(settings.weight_decay, settings.clip_norm, b2=settings.b2)
    train_step, state = _made_ready(objective, opt, params, frozen, lm, steps_plan)
    del params  # the state holds them, until the step, or a restored state, takes their place
    stopping = early_stopping.EarlyStopping(settings.patience, state.params) if dev else None
    keeping = run.config.checkpoint
    saved = checkpoint.TrainingCheckpoints(folder.path / "state", keeping.states)
    clock = checkpoint.Clock(keeping.every_steps, keeping.every_minutes)
    log = step_log.StepLog(folder.path / "steps.jsonl", stage)
    begun = saved.latest()
    if begun is not None:
        saved_now = {"state": state, **(stopping.to_save() if stopping else {})}
        like = lm.placement.with_shardings(saved_now, "train")
        del state, saved_now  # a run that goes on needs no more memory than one that begins
        whole = saved.restore(begun, like)
        state = whole.pop("state")
        if stopping:
            stopping.restore(whole)
    step = begun or 0
    log.rewind(step)
    pending: tuple[int, dict[str, jax.Array]] | None = None

    def log_pending() -> None:
        nonlocal pending
        if pending is not None:
            bar.advance(1, loss=log.add(*pending))
            pending = None

    def save() -> None:
        log_pending()
        log.flush()
        saved.save(step, {"state": state, **(stopping.to_save() if stopping else {})})

    profile = performance.Profile(run.workdir.path / "profile", run.profiled_steps)

    with (progress.Progress(f"{stage} {run.iteration}", len(steps_plan), "steps", done=step) as bar,
          preemption.only_at_safe_points(), saved.writing()):
        while step < len(steps_plan) and not (stopping and stopping.stopped):
            batch = lm.placement.batch(steps_plan.batch(step), axis=1)
            rate = np.float32(schedule(step))
            profile.step()
            state, metrics = train_step(objective, opt, state, frozen, batch, rate)
            log_pending()  # one step late, so that the device always has the next step at hand
            pending = (step, {**metrics, "learning_rate": rate, "tokens": steps_plan.tokens(step)})
            step += 1
            if stopping and step % steps_plan.steps_per_epoch == 0:
                stopping.look(_mean_loss(lm, objective, state.params, frozen, dev_plan), state.params)
            if clock.is_due(step) and step < len(steps_plan):
                save()
            preemption.safe_point(save)
        log_pending()
        log.flush()
        profile.stop()
    params = stopping.best if stopping else state.params
    frozen = state = None  # lets go of Adam's moments
    if settings.lora_rank:
        # Onto the base as it was loaded: in a lower precision it is not what is learned.
        params = lora.merge(lora.join(_start(run, stage, settings, part, lm), params))
    if not performance.fetch(_all_finite(params)):
        raise InputError(f"{stage}: training stopped, some params are no numbers after step {step}. "
                         f"{step_log.remedy(stage)}")
    work = functools.reduce(
        performance.Work.plus, (_work(lm.architecture, steps_plan, i) for i in range(begun or 0, step)),
        performance.Work())
    return Trained(params, log.mean_of_last(steps_plan.steps_per_epoch), step, work)


def encode_prompt(
    lm: LanguageModel, example_id: str, prompt: Prompt, room: int, stage: str, settings: config_lib.Training
) -> Encoded:
    """A prompt that leaves `room` tokens of config.`stage`.max_length free; the document is cut where need be.

    Raises:
        InputError: that cannot be.
    """
    limit = min(settings.max_length, lm.architecture.max_positions)
    if room >= limit:
        raise InputError(f"what is to be learned about document {example_id!r} has about {room} tokens, and "
                         f"config.{stage}.max_length={settings.max_length} (context of "
                         f"{lm.architecture.max_positions}) leaves no room for its prompt")
    try:
        return lm.encode(example_id, [prompt], lm.architecture.max_positions - limit + room)[0]
    except InputError as e:
        raise InputError(f"{e}; {room} of config.{stage}.max_length={settings.max_length} tokens are kept for what is "
                         "to be learned") from e


def save_model(
    run: run_lib.StageContext, folder: storage.Path, lm: LanguageModel, params: transformer.Params,
    replaces: storage.Path | None = None,
) -> Pending[None]:
    """Begins to write a trained model with its tokenizer, and holds it for who asks for it next.

    Returns:
        Done when it is complete on the disk.
    """
    params = lm.placement.params(params, "train")
    saved = checkpoint.save_model(folder, params, to_facts(lm.architecture))
    if distributed.is_main():
        with performance.saving(), storage.written_locally(folder / "tokenizer") as place:
            lm.tokenizer.save(place)
    run.roles.put(folder, params, lm.architecture, replaces)
    return saved


def tidy(run: run_lib.StageContext, stage: str) -> None:
    """Deletes the states of a training that is complete; a kill may have come before that."""
    checkpoint.TrainingCheckpoints(run.folder(stage).path / "state").clear()


def row_shape(
    settings: config_lib.Training, lm: LanguageModel, examples: Sequence[packing.TrainingExample]
) -> dict[str, Any]:
    """Arguments of `plan.make_plan` that say what rows may look like."""
    lengths = padding.lengths_between(max(map(len, examples)), settings.max_length)
    if lm.compute.attention == "splash":  # takes no other lengths
        lengths = sorted({-(-length // kernels.SPLASH_BLOCK) * kernels.SPLASH_BLOCK for length in lengths})
    return {"merge": settings.packing, "row_lengths": lengths,
            "row_multiple": lm.placement.batch_shards,
            "row_cost": lambda length: flops.training(lm.architecture, tokens=length, seen=length, targets=0)}


def _work(model: ModelConfig, steps_plan: batch_schedule.Plan, step: int) -> performance.Work:
    examples = [steps_plan.examples[i] for i in steps_plan.order[step]]
    return functools.reduce(performance.Work.plus, (
        performance.Work(len(e), flops.training(model, tokens=len(e), seen=len(e) / 2, targets=e.num_targets))
        for e in examples), performance.Work())


def _made_ready(
    objective: steps.Objective, opt: optimizer.OptimizerConfig, params: transformer.Params, frozen: transformer.Params,
    lm: LanguageModel, steps_plan: batch_schedule.Plan,
) -> tuple[jax.stages.Wrapped, steps.TrainState]:
    """The train step and the state before the first step, every leaf on the whole mesh, counters too.

    On a CPU, Adam's moments are gigabytes that the system hands out page by page; meanwhile the step is compiled, or
    loaded. jax keeps what was compiled by shapes and shardings: the first call with arrays like these finds it there.
    """
    shapes = lm.placement.with_shardings(_jitted_init(opt).eval_shape(params), "train")
    counter = jnp.zeros((), jnp.int32, device=lm.placement.replicated)
    like = jax.tree.map(_shape_of, steps.TrainState(counter, params, shapes))
    train_step = train_step_program(like)
    batch = lm.placement.batch(steps_plan.batch(0), axis=1)
    others = jax.tree.map(_shape_of, (frozen, batch))
    with compile_ahead.compiling(train_step, objective, opt, like, *others, np.float32(0)):
        shardings, tree = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, shapes))
        opt_state = _jitted_init(opt, tree, tuple(shardings))(params)
    return train_step, steps.TrainState(counter, params, opt_state)


def _shape_of(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _split(
    examples: Sequence[packing.TrainingExample], dev_fraction: float, seed: int
) -> tuple[list[packing.TrainingExample], list[packing.TrainingExample]]:
    """Training and dev examples; a dev set has at least one if it is wanted at all, and never all."""
    count = min(len(examples) - 1, max(1, round(dev_fraction * len(examples)))) if dev_fraction > 0 else 0
    held_back = set(np.random.default_rng(seed).permutation(len(examples))[:count].tolist())
    return ([e for i, e in enumerate(examples) if i not in held_back],
            [e for i, e in enumerate(examples) if i in held_back])


def _mean_loss(
    lm: LanguageModel, objective: steps.Objective, params: transformer.Params, frozen: transformer.Params,
    dev_plan: batch_schedule.Plan,
) -> float:
    loss = weight = 0.0
    for step in range(len(dev_plan)):
        batch = {name: array[0] for name, array in dev_plan.batch(step).items()}
        sums = performance.fetch(_dev_loss(objective, params, frozen, lm.placement.batch(batch)))
        loss, weight = loss + float(sums[0]), weight + float(sums[1])
    return float(np.float32(loss / weight))  # as a training checkpoint keeps it, so that a resumed run compares alike
