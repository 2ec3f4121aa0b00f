"""Shows what a run would do and whether it fits: sizes, compiled steps, one training example. Trains nothing."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import jax

from ilf_jax import config as config_lib
from ilf_jax import preflight, tasks
from ilf_jax.config import needed_stages
from ilf_jax.data import comparisons, documents
from ilf_jax.dry_run import advice, batch_shapes, compiled_steps, cost, loss_mask
from ilf_jax.errors import InputError
from ilf_jax.inference import model_pool, target_tokens
from ilf_jax.models import flops
from ilf_jax.models.placement import Placement
from ilf_jax.records import Example
from ilf_jax.remote import api_uris
from ilf_jax.runtime import hardware, progress, sharding
from ilf_jax.tasks.task import Task
from ilf_jax.tokenizers import bpe_training

_DOES_NOT_FIT = 3
_PARTS = ("refiner", "judge", "policy")
# Of an iteration, where neither data nor config.data.train_size say.
_ASSUMED_DOCUMENTS = 1000


def dry_run(config: config_lib.Config, topology: str | None = None) -> int:
    """Checks config, data and checkpoint headers, compiles the steps, and prints sizes and one training example.

    Args:
        config: the run's config.
        topology: remote TPUs to compile for, such as "v5e:4x4". Data and tokenizers may then be missing here.

    Returns:
        Exit code: 0, or 3 if a step does not fit into a device's memory.

    Raises:
        InputError: the run would refuse to start.
    """
    hardware.set_xla_flags(model_pool.are_small(config))
    task = tasks.make_task(config)
    devices = hardware.topology(topology) if topology else jax.devices()
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    config = model_pool.for_platform(config, devices[0].platform)
    model_pool.compute_of(config, mesh)
    preflight.check_sources(config, task)
    placements = {part: Placement(mesh, model_pool.read_model_config(compiled_steps.uri_of(config, part)))
                  for part in _PARTS if not api_uris.is_api(getattr(config, part).checkpoint)}
    _show_models(config, placements)
    try:
        sizes, counts = _show_documents(config, task, placements["policy"])
    except InputError as e:
        if topology is None:
            raise
        print(f"skipping documents and tokenizer: {e}")
        sizes = batch_shapes.assumed(config, placements["policy"])
        counts = config.data.train_size or _ASSUMED_DOCUMENTS, config.data.eval_size
    code = _show_steps(config, placements, sizes)
    _show_cost(config, placements, sizes, *counts)
    return code


def _show_documents(
    config: config_lib.Config, task: Task, policy: Placement
) -> tuple[batch_shapes.Shapes, tuple[int, int]]:
    """Prints the documents, the stages and a training example.

    Returns:
        The sizes of the steps, and how many documents an iteration and the evaluation have.
    """
    loaded = documents.load_documents(config)
    preflight.check_documents(config, task, loaded)
    pool = model_pool.ModelPool(policy.mesh, config.seed)
    loaded = preflight.fitting(config, task, loaded, pool)
    if config.reward.source is not None:
        preflight.fitting_comparisons(config, task, loaded, comparisons.load_comparisons(config.reward), pool)
    train = loaded.by_iteration.get(1) or loaded.held_out
    _show_run(config, loaded)
    counts = len(loaded.by_iteration.get(1, ())), len(loaded.held_out)
    if not train:
        return batch_shapes.assumed(config, policy), counts
    with tempfile.TemporaryDirectory() as folder:
        models = model_pool.ModelPool(policy.mesh, config.seed)
        # The policy's tokenizer stands in for those of endpoints, which only their servers know.
        here = {part: dataclasses.replace(settings, checkpoint="policy") for part in _PARTS
                if api_uris.is_api((settings := getattr(config, part)).checkpoint)}
        roles = model_pool.Roles(
            dataclasses.replace(config, **here), models, _tokenizer(config, task, train, folder), None)
        sizes = batch_shapes.measured(config, task, roles, train)
        _show_example(config, task, roles, train)
    return sizes, counts


def _show_models(config: config_lib.Config, placements: Mapping[str, Placement]) -> None:
    rows = []
    for part, placement in placements.items():
        if part != "policy" and getattr(config, part).checkpoint == "policy":
            rows.append([part, "the current policy", "", ""])
            continue
        count = flops.num_params(placement.model)
        rows.append([part, compiled_steps.uri_of(config, part), f"{count:,}", f"{4 * count / 2**20:,.0f} MiB"])
    rows += [[part, api_uris.parse(uri, part).model, "behind an endpoint, not in these tables", ""] for part in
             (*_PARTS, "critic") if api_uris.is_api(uri := getattr(config, part).checkpoint)]
    progress.print_table("models", ["part", "checkpoint", "parameters", "float32"], rows)


def _show_run(config: config_lib.Config, loaded: documents.Documents) -> None:
    progress.print_table("documents", ["iterations", "each", "held out"],
                         [[config.iterations, len(loaded.by_iteration.get(1, ())), len(loaded.held_out)]])
    held_out = ["evaluate", *(["best_of_n"] if config.evaluate.best_of_n > 1 else [])] if loaded.held_out else []
    rows = [["before", " -> ".join([*(["reward"] if config.reward.source else []), *held_out])],
            ["each iteration", " -> ".join([*needed_stages(config), "finetune", *held_out])],
            ["after", "rank"]]
    used = {"each iteration": config.iterations > 0, "after": config.evaluate.rank}
    progress.print_table("stages", ["when", "stages"], [row for row in rows if used.get(row[0], True)])


def _tokenizer(config: config_lib.Config, task: Task, train: Sequence[Example], folder: str) -> pathlib.Path:
    """The folder for a tokenizer that the run would train. Trains it there for the dry run."""
    tokenizer, path = config.policy.tokenizer or "", pathlib.Path(folder)
    if tokenizer.startswith("train:"):
        texts = (f"{e.document} {e.reference}" for e in train)
        bpe_training.train_bpe(texts, int(tokenizer.removeprefix("train:")), path, task.token_units)
    return path


def _show_example(config: config_lib.Config, task: Task, roles: model_pool.Roles, train: Sequence[Example]) -> None:
    policy = roles.without_params("policy")
    target = config.finetune.target if hasattr(train[0], config.finetune.target) else "human_refinement"
    completion = getattr(train[0], target) or "(the text that the run selects)"
    loss_mask.show(policy.tokenizer, target_tokens.encode_target(config.finetune, task, policy, train[0], completion))


def _show_steps(
    config: config_lib.Config, placements: Mapping[str, Placement], sizes: batch_shapes.Shapes
) -> int:
    mesh = placements["policy"].mesh
    device = mesh.devices.flat[0]
    chip = hardware.chip(device)
    memory = _memory(device, chip)
    print(f"\n{mesh.size} x {device.device_kind}: data {mesh.shape['data']}, fsdp {mesh.shape['fsdp']}, tensor "
          f"{mesh.shape['tensor']}; sizes {sizes.source}; config.precision={config.precision}; "
          f"XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}")
    compiled = compiled_steps.compile_all(config, placements, sizes)
    progress.print_table("on each device, GiB" + (f" of {memory / 2**30:.1f}" if memory else ""),
                         ["step", "params", "arguments", "temporaries", "outputs", "other models", "total", "fits"],
                         [_memory_row(step, memory) for step in compiled])
    progress.print_table("time and traffic of one step, on each device",
                         ["step", "TFLOP", "collectives", "compiled in", "lower bound", "limited by"],
                         [_time_row(step, chip, config.precision) for step in compiled])
    part_of = {"refine": "refiner", "score": "judge", "finetune": "policy"}
    too_large = [step for step in compiled if memory and step.total > memory]
    for step in too_large:
        assert memory is not None
        print(f"{step.name} does not fit: {step.total / 2**30:.1f} of {memory / 2**30:.1f} GiB. Best changes:")
        for line in advice.changes(config, placements[part_of[step.name]], sizes, step):
            print(f"  {line}")
    return _DOES_NOT_FIT if too_large else 0


def _show_cost(
    config: config_lib.Config, placements: Mapping[str, Placement], sizes: batch_shapes.Shapes, documents: int,
    held_out: int,
) -> None:
    """Prints what the stages will take on the devices at hand, or on slices of the kind that is compiled for."""
    mesh = placements["policy"].mesh
    device = mesh.devices.flat[0]
    known = hardware.reached(device)
    if known is None:
        print(f"no estimate of time: the peaks of {device.device_kind} are not known")
        return
    slices = (mesh.size,) if device.platform == "cpu" else tuple(sorted({mesh.size, *cost.SLICES}))
    models = {part: placement.model for part, placement in placements.items()} | cost.other_models(config)
    columns, rows = cost.rows(config, models, sizes, documents, held_out, *known, slices)
    progress.print_table(f"estimated time of {config.iterations} iterations of {documents} documents, {held_out} held "
                         f"out ({known[1].source})", columns, rows)


def _memory(device: jax.Device, chip: hardware.Chip | None) -> float | None:
    """Bytes that a device may use; None if unknown."""
    try:
        stats = device.memory_stats()
    except (jax.errors.JaxRuntimeError, NotImplementedError):  # the device is remote
        stats = None
    return (stats or {}).get("bytes_limit") or (chip.memory if chip else None)


def _memory_row(step: compiled_steps.Step, memory: float | None) -> list[str]:
    sizes = step.arguments, step.temporaries, step.outputs, step.other_models, step.total
    gib = [f"{size / 2**30:.2f}" for size in sizes]
    return [step.name, f"{step.parameters:,}", *gib, "" if memory is None else "yes" if step.total <= memory else "NO"]


def _time_row(step: compiled_steps.Step, chip: hardware.Chip | None, precision: str) -> list[str]:
    moved = ", ".join(f"{count} {kind} {_size(size)}" for kind, (count, size) in step.collectives.items()) or "none"
    compiled = progress.duration(step.compile_seconds)
    if len(step.depths) > 1:
        compiled += f" ({' and '.join(map(str, step.depths))} layers)"
    row = [step.name, f"{step.flops / 1e12:.3g}", moved, compiled]
    if chip is None:
        return [*row, "", ""]
    times = step.seconds(chip, precision)
    longest = max(times, key=times.__getitem__)
    return [*row, f"{times[longest]:.3g} s", longest]


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
