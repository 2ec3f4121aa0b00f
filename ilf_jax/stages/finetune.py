"""Finetune: maximise log pi_theta(x1 | c) over the picked texts. Killed anywhere, it goes on to the same params."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax import checkpoint, distributed, performance, preemption, progress, storage
from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.models import flops, transformer
from ilf_jax.models.compute import in_precision
from ilf_jax.models.config import ModelConfig
from ilf_jax.records import Example
from ilf_jax.stages import batching, models, step_log, targets
from ilf_jax.stages import run as run_lib
from ilf_jax.stages.role import Role
from ilf_jax.steps import finetune as steps
from ilf_jax.tasks.base import Task
from ilf_jax.training import early_stopping, lora, objectives, optimizer, packing, plan

# XLA's CPU backend drops the barriers that keep what is rematerialised from being kept after all, and orders a program
# for speed; without either, a train step takes a fifth less memory and the same time.
_CPU_OPTIONS = {
    "xla_disable_hlo_passes": "cse_barrier_expander",
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


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
        compiler_options=_CPU_OPTIONS if platform == "cpu" else None,
    )


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


def check(config: config_lib.Config) -> None:
    """Raises InputError if config.finetune asks for what the policy has not. Reads the checkpoint's header only."""
    settings = config.finetune
    if settings.lora_rank:
        lora.target_paths(transformer.param_shapes(models.read_model_config(config.policy.checkpoint)),
                          settings.lora_targets)
    elif settings.lora_base_precision != "float32":
        raise InputError(f"config.finetune.lora_base_precision={settings.lora_base_precision!r} needs a "
                         "config.finetune.lora_rank above 0: without LoRA the base itself is trained, in float32")


def run(run: run_lib.Run, examples_of: dict[int, tuple]) -> None:
    """Writes the training pairs and the params after training.

    Args:
        examples_of: the examples of this iteration and of those before it.
    """
    folder, settings = run.folder("finetune"), run.config.finetune
    folder.begin()
    meter = performance.Meter()
    first = 1 if settings.data == "cumulative" else run.iteration
    learnt_from = range(first, run.iteration + 1)
    pairs = [pair for k in learnt_from for pair in targets.of_iteration(run, k, examples_of[k])]
    if not pairs:
        raise InputError(f"iteration {run.iteration}: every text to imitate is empty, there is nothing to learn from")
    folder.write_shard(0, 1, pairs)
    part = "policy" if settings.init == "previous" else "base"
    role = run.roles.without_params(part)
    by_id = {e.id: e for k in learnt_from for e in examples_of[k]}
    examples = [training_example(settings, run.task, role, by_id[pair.id], pair.completion, pair.weight)
                for pair in pairs]
    trained = train(run, part, examples)
    target_folder = run.workdir.checkpoint(run.iteration)
    if distributed.is_main():
        with storage.written_locally(target_folder / "tokenizer") as place:
            role.tokenizer.save(place)
    params = role.placement.params(trained.params, "train")
    checkpoint.save_model(target_folder, params, role.model)
    run.roles.keep(target_folder, params)
    metrics = [
        run.metric("finetune", "loss", trained.loss), run.metric("finetune", "steps", trained.steps),
        run.metric("finetune", "examples", len(pairs)),
        run.metric("finetune", "target_tokens", sum(e.num_targets for e in examples)),
    ]
    folder.finish(shards=1, count=len(pairs), cost=meter.cost(trained.work, run.config.precision), metrics=metrics)
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
class Trained:
    """What training made."""

    params: transformer.Params  # of an ordinary model
    loss: float  # nats a weighted token, mean of the last epoch's steps
    steps: int
    work: performance.Work  # of the steps that this process made


def _with_adapters(run: run_lib.Run, params: transformer.Params) -> transformer.Params:
    """The params, and LoRA's beside them where it is wanted: the same ones whenever they are asked for."""
    settings = run.config.finetune
    key = jax.random.fold_in(jax.random.key(run.config.seed), run.iteration)
    return lora.add(params, settings.lora_rank, settings.lora_alpha, settings.lora_targets, key)


def train(run: run_lib.Run, part: str, examples: Sequence[packing.TrainingExample]) -> Trained:
    """Trains from the params of `part` ("policy" or "base"), or goes on after this stage's last training checkpoint.

    Those params are used up, and loaded again when they are next asked for.
    """
    settings, folder, role = run.config.finetune, run.folder("finetune"), run.roles.without_params(part)
    params, frozen = lora.split(_with_adapters(run, run.roles.take(part)))
    frozen = role.placement.params(in_precision(frozen, jnp.dtype(settings.lora_base_precision)), "train")
    params = role.placement.params(params, "train")
    trained, kept = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, frozen))
    progress.log(f"{trained:,} of {trained + kept:,} parameters are trained")
    learnt, dev = _split(examples, settings.dev_fraction, run.config.seed)
    shape = {"merge": settings.packing, "row_length": batching.bucket(max(map(len, examples))),
             "row_multiple": role.placement.batch_shards}
    steps_plan = plan.make_plan(
        learnt, epochs=settings.epochs, batch_size=settings.batch_size, accumulation=settings.accumulation,
        shuffle=settings.shuffle, seed=run.config.seed + 1000 * run.iteration, **shape,
    )
    dev_plan = plan.make_plan(dev, epochs=1, batch_size=settings.batch_size, accumulation=1, shuffle=False, seed=0,
                              **shape) if dev else None
    schedule = optimizer.Schedule(settings.schedule, settings.learning_rate, num_steps=len(steps_plan),
                                  warmup_steps=round(settings.warmup_fraction * len(steps_plan)))
    opt = optimizer.OptimizerConfig(settings.weight_decay, settings.clip_norm, b2=settings.b2)
    objective = objectives.NextTokenLoss(role.model, role.compute, settings.remat)
    state = _first_state(params, opt, role)
    del params  # the state holds them, until the step, or a restored state, takes their place
    stopping = early_stopping.EarlyStopping(settings.patience, state.params) if dev else None
    keeping = run.config.checkpoint
    saved = checkpoint.TrainingCheckpoints(folder.path / "state", keeping.states)
    clock = checkpoint.Clock(keeping.every_steps, keeping.every_minutes)
    log = step_log.StepLog(folder.path / "steps.jsonl")
    begun = saved.latest()
    if begun is not None:
        saved_now = {"state": state, **(stopping.to_save() if stopping else {})}
        like = role.placement.with_shardings(saved_now, "train")
        del state, saved_now  # a run that goes on needs no more memory than one that begins
        whole = saved.restore(begun, like)
        state = whole.pop("state")
        if stopping:
            stopping.restore(whole)
    step = begun or 0
    log.rewind(step)
    train_step = train_step_program(state)
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

    with (progress.Progress(f"finetune {run.iteration}", len(steps_plan), "steps", done=step) as bar,
          preemption.only_at_safe_points(), saved.writing()):
        while step < len(steps_plan) and not (stopping and stopping.stopped):
            batch = role.placement.batch(steps_plan.batch(step), axis=1)
            rate = np.float32(schedule(step))
            profile.step()
            state, metrics = train_step(objective, opt, state, frozen, batch, rate)
            log_pending()  # one step late, so that the device always has the next step at hand
            pending = (step, {**metrics, "learning_rate": rate, "tokens": steps_plan.tokens(step)})
            step += 1
            if stopping and step % steps_plan.steps_per_epoch == 0:
                stopping.look(_mean_loss(role, objective, state.params, frozen, dev_plan), state.params)
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
        params = lora.merge(lora.join(_with_adapters(run, run.roles.take(part)), params))
    if not performance.fetch(_all_finite(params)):
        raise InputError(f"finetuning stopped: some params are no numbers after step {step}. {step_log.REMEDY}")
    return Trained(params, log.mean_of_last(steps_plan.steps_per_epoch), step,
                   run_lib.total(_work(role.model, steps_plan, i) for i in range(begun or 0, step)))


def _work(model: ModelConfig, steps_plan: plan.Plan, step: int) -> performance.Work:
    examples = [steps_plan.examples[i] for i in steps_plan.order[step]]
    return run_lib.total(
        performance.Work(len(e), flops.training(model, tokens=len(e), seen=len(e) / 2, targets=e.num_targets))
        for e in examples)


def _first_state(params: transformer.Params, config: optimizer.OptimizerConfig, role: Role) -> steps.TrainState:
    """State before the first step, every leaf on the whole mesh, counters too: a restored one is placed like it."""
    init = optimizer.make_optimizer(config).init
    # In one program: leaf by leaf, zeros for Adam's moments are filled by one core.
    shardings = role.placement.shardings(jax.eval_shape(init, params), "train")
    return steps.TrainState(jnp.zeros((), jnp.int32, device=role.placement.replicated), params,
                            jax.jit(init, out_shardings=shardings)(params))


def _split(
    examples: Sequence[packing.TrainingExample], dev_fraction: float, seed: int
) -> tuple[list[packing.TrainingExample], list[packing.TrainingExample]]:
    """Training and dev examples; a dev set has at least one if it is wanted at all, and never all."""
    count = min(len(examples) - 1, max(1, round(dev_fraction * len(examples)))) if dev_fraction > 0 else 0
    held_back = set(np.random.default_rng(seed).permutation(len(examples))[:count].tolist())
    return ([e for i, e in enumerate(examples) if i not in held_back],
            [e for i, e in enumerate(examples) if i in held_back])


def _mean_loss(
    role: Role, objective: steps.Objective, params: transformer.Params, frozen: transformer.Params, dev_plan: plan.Plan
) -> float:
    loss = weight = 0.0
    for step in range(len(dev_plan)):
        batch = {name: array[0] for name, array in dev_plan.batch(step).items()}
        sums = performance.fetch(_dev_loss(objective, params, frozen, role.placement.batch(batch)))
        loss, weight = loss + float(sums[0]), weight + float(sums[1])
    return float(np.float32(loss / weight))  # as a training checkpoint keeps it, so that a resumed run compares alike
