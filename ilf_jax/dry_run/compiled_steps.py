"""Compiles the steps of a run ahead of time, without weights or data, and reads off what each will take."""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ilf_jax import config as config_lib
from ilf_jax.config import needed_stages
from ilf_jax.dry_run import hlo
from ilf_jax.dry_run.batch_shapes import Shapes
from ilf_jax.inference import generation, language_model, model_pool
from ilf_jax.models import flops, layer_stack, transformer
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions, in_precision
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import hardware, progress
from ilf_jax.runtime.sharding import batch_sharding
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.training import objectives, optimizer, packing, train_program

_OUT_OF_MEMORY = re.compile(r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?)")
# Deeper models whose layers are unrolled are not compiled as they are, but at these depths: this many layers (or a
# multiple of what their pattern of sliding windows takes), and twice as many.
_DEEPEST, _SHALLOW = 40, 8
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step takes, on one device.

    Attributes:
        parameters: of its model, all devices together.
        arguments, temporaries, outputs: bytes; outputs that take the place of arguments do not count again.
        other_models: bytes of other models that stay loaded meanwhile.
        flops: that the model needs.
        traffic: bytes of device memory that must be read or written at least.
        collectives: kind -> (how many, bytes); empty where the compiler gave up.
        compile_seconds: how long compiling took here.
        depths: layers of the models that were compiled; where these are two, the rest was extrapolated from them.
    """

    name: str
    parameters: int
    arguments: int
    temporaries: int
    outputs: int
    other_models: int
    flops: float
    traffic: float
    collectives: Mapping[str, tuple[int, int]]
    compile_seconds: float
    depths: tuple[int, ...]

    @property
    def total(self) -> int:
        """Bytes that must fit."""
        return self.arguments + self.temporaries + self.outputs + self.other_models

    def seconds(self, chip: hardware.Chip, precision: str) -> dict[str, float]:
        """At least, by the roofline (Williams et al. 2009): for matmuls, memory and links, whichever is longest."""
        return {
            "matmuls": self.flops / chip.peak(precision), "memory": self.traffic / chip.bandwidth,
            "links": sum(size for _, size in self.collectives.values()) / chip.link,
        }


def compile_all(config: config_lib.Config, placements: Mapping[str, Placement], shapes: Shapes) -> list[Step]:
    """Refine, score (where a judge does it) and finetune.

    Args:
        placements: of the models that play refiner, judge and policy; without those behind an endpoint.
    """
    config = model_pool.for_platform(config, placements["policy"].mesh.devices.flat[0].platform)
    needed = needed_stages(config)
    chosen = [("refine", "refiner", _refine)] if "refine" in needed and "refiner" in placements else []
    if "score" in needed and "judge" in placements and config.score.method == "instruct_rm":
        chosen.append(("score", "judge", _score))
    chosen.append(("finetune", "policy", _finetune))
    precision = "highest" if config.precision == "float32" else None  # as in a run
    steps = []
    with jax.default_matmul_precision(precision):
        for name, part, lower in chosen:
            others = [placement for uri, placement in _loaded(config, placements) if uri != uri_of(config, part)]
            other_models = sum(_bytes(_decode_params(placement, config)) for placement in others)
            steps.append(_at_full_depth(name, config, placements[part], shapes, lower, other_models))
    return steps


def _at_full_depth(
    name: str, config: config_lib.Config, placement: Placement, shapes: Shapes, lower: "_Lower", other_models: int
) -> Step:
    """The step compiled; of a deep model from two shallow ones, for layers are alike and each adds as much.

    The compiler's time and memory grow faster than the layers: 80 of them took it more than 24 GB.
    """
    # How often XLA's loops run is known, but for the one that draws tokens.
    loops = config.refine.max_new_tokens + config.refiner.thinking_tokens if name == "refine" else 1
    compiled: list[Step] = []
    for depth in _depths(config, placement.model):
        progress.log(f"compiling {name}, {depth} of {placement.model.num_layers} layers")
        shallow = dataclasses.replace(placement, model=dataclasses.replace(placement.model, num_layers=depth))
        compiled.append(_compile(name, shallow, other_models, *lower(config, shallow, shapes), loops=loops))
    if len(compiled) == 1:
        return compiled[0]
    _, arguments, work, traffic = lower(config, placement, shapes)
    return _extrapolated(compiled[0], compiled[1], placement, arguments, work, traffic)


def _depths(config: config_lib.Config, model: ModelConfig) -> tuple[int, ...]:
    if model.num_layers <= _DEEPEST or (config.layers == "scan" and layer_stack.stacks(model)):
        return (model.num_layers,)
    pattern = max(1, model.sliding_pattern)
    first = -(-_SHALLOW // pattern) * pattern
    return first, 2 * first


def _extrapolated(
    first: Step, second: Step, placement: Placement, arguments: int, work: float, traffic: float
) -> Step:
    a, b = first.depths[0], second.depths[0]

    def line(one: float, other: float) -> int:
        return round(one + (other - one) * (placement.model.num_layers - a) / (b - a))

    temporaries = line(first.temporaries, second.temporaries)
    kinds = {**first.collectives, **second.collectives}
    collectives = {}
    for kind in kinds:
        one, other = (step.collectives.get(kind, (0, 0)) for step in (first, second))
        collectives[kind] = line(one[0], other[0]), line(one[1], other[1])
    return Step(
        name=first.name, parameters=flops.num_params(placement.model), other_models=first.other_models,
        flops=work / placement.mesh.size,
        arguments=line(first.arguments, second.arguments), temporaries=temporaries,
        outputs=line(first.outputs, second.outputs), traffic=traffic + 2 * temporaries,
        collectives=collectives,
        compile_seconds=first.compile_seconds + second.compile_seconds, depths=(a, b),
    )


def _compile(
    name: str, placement: Placement, other_models: int, lowered: jax.stages.Lowered, arguments: int, work: float,
    traffic: float, *, loops: int,
) -> Step:
    facts: dict[str, Any] = {
        "name": name, "parameters": flops.num_params(placement.model), "other_models": other_models,
        "flops": work / placement.mesh.size, "depths": (placement.model.num_layers,)}
    start = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
        used = _OUT_OF_MEMORY.search(str(e))
        if used is None:
            raise
        total = int(float(used.group(1)) * _UNITS[used.group(2)])
        return Step(**facts, arguments=arguments, temporaries=max(0, total - arguments), outputs=0, traffic=traffic,
                    collectives={}, compile_seconds=time.monotonic() - start)
    seconds = time.monotonic() - start
    memory: Any = compiled.memory_analysis()
    return Step(
        **facts, arguments=memory.argument_size_in_bytes, temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        traffic=traffic + 2 * memory.temp_size_in_bytes,
        collectives=hlo.collectives(compiled.as_text() or "", loops), compile_seconds=seconds,
    )


# What `_compile` is given: the step, bytes of its params and state on a device, FLOPs of all devices, bytes of traffic.
_Lowered = tuple[jax.stages.Lowered, int, float, float]
_Lower = Callable[[config_lib.Config, Placement, Shapes], _Lowered]


def _refine(config: config_lib.Config, placement: Placement, shapes: Shapes) -> _Lowered:
    model, settings, params = placement.model, config.refine, _decode_params(placement, config)
    B, C = placement.padded(settings.batch_size), settings.num_candidates
    # Of a model that thinks the largest program is the one that draws thoughts, or what follows them: both fit in here.
    new_tokens = settings.max_new_tokens + language_model.thinking_room(config.refiner.thinking_tokens)
    arrays = _batch(placement, ((B, shapes.prompt), np.int32), ((B,), np.int32), ((B, C, 2), np.uint32))
    sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
    compute = model_pool.compute_of(config, placement.mesh, model)
    lowered = generation.refine_program(placement).lower(
        model, params, *arrays, sampling, np.zeros(model.vocab_size, np.int8), max_new_tokens=new_tokens,
        compute=compute,
    )
    work = flops.generation(model, prompts=B, candidates=C, prompt_tokens=shapes.prompt,
                            new_tokens=new_tokens)
    weights = _bytes(params)
    cached = _cache_bytes(model, compute, placement, B, shapes.prompt + C * new_tokens // 2)
    return lowered, weights, work, new_tokens * (weights + cached)


def _score(config: config_lib.Config, placement: Placement, shapes: Shapes) -> _Lowered:
    model, params = placement.model, _decode_params(placement, config)
    B, C = placement.padded(config.score.batch_size), config.refine.num_candidates
    P, L, Q = shapes.prefix, shapes.branch, shapes.questions
    branch = ((B, C, L), np.int32)
    arrays = _batch(placement, ((B, P), np.int32), ((B,), np.int32), branch, branch, branch, ((B, C, Q), np.int32),
                    ((B, C, Q, 2), np.int32))
    lowered = language_model.answer_logits_program(placement).lower(
        model, params, *arrays, compute=model_pool.compute_of(config, placement.mesh, model))
    work = (flops.forward(model, tokens=B * P, seen=P / 2, unembedded=0)
            + flops.forward(model, tokens=B * C * L, seen=P + L / 2, unembedded=0))
    return lowered, _bytes(params), work, _bytes(params)


def _finetune(config: config_lib.Config, placement: Placement, shapes: Shapes) -> _Lowered:
    model, settings = placement.model, config.finetune
    compute = model_pool.compute_of(config, placement.mesh, model)
    objective = objectives.make(model, compute, settings)
    params = jax.eval_shape(
        lambda params: train_program.trainable(model, settings, "finetune", params, jax.random.key(0)),
        _param_shapes(config, model))
    trained, frozen = train_program.split(settings, placement, params)
    opt = optimizer.OptimizerConfig.from_settings(settings)
    arguments = train_program.argument_shapes(opt, placement, objective, trained, frozen)
    A, R, L, T = shapes.accumulation, shapes.rows, shapes.row, shapes.targets
    batch = train_program.batch_shapes(placement, packing.array_shapes(
        (A, R), row_length=L, num_targets=T, reference_logprobs=objective.reference == "logprobs",
        advantages=objective.advantages, beside={name: shapes.beside.get(name, T) for name in objective.beside}))
    lowered = train_program.lower(opt, objective, arguments, batch)
    work = flops.training(model, tokens=A * R * L, seen=L / 2, targets=A * R * T)
    resident = _bytes((arguments.state, arguments.frozen, arguments.reference))
    return lowered, resident, work, 2 * resident


def _batch(placement: Placement, *of: tuple[tuple[int, ...], Any], axis: int = 0) -> list[jax.ShapeDtypeStruct]:
    sharding = batch_sharding(placement.mesh, axis)
    return [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in of]


def _decode_params(placement: Placement, config: config_lib.Config) -> transformer.Params:
    shapes = in_precision(_param_shapes(config, placement.model), jnp.dtype(config.precision))
    return placement.with_shardings(shapes, "decode")


def _param_shapes(config: config_lib.Config, model: ModelConfig) -> transformer.Params:
    shapes = transformer.param_shapes(model)
    return layer_stack.stacked(model, shapes) if config.layers == "scan" else shapes


def _bytes(tree: Any) -> int:
    """On one device."""
    return sum(leaf.dtype.itemsize * int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
               for leaf in jax.tree.leaves(tree))


def _cache_bytes(model: ModelConfig, compute: ComputeOptions, placement: Placement, rows: int, slots: float) -> float:
    """Keys and values of `slots` tokens in each of `rows` rows, on one device."""
    tensor = placement.mesh.shape["tensor"]
    heads = model.num_kv_heads / (tensor if model.num_kv_heads % tensor == 0 else 1)
    of_token = 2 * model.num_layers * heads * model.head_dim * jnp.dtype(compute.dtype).itemsize
    return rows / placement.batch_shards * slots * of_token


def uri_of(config: config_lib.Config, part: str) -> str:
    """The checkpoint that plays a part at first; "policy" is the policy's own."""
    uri = getattr(config, part).checkpoint
    return config.policy.checkpoint if uri == "policy" else uri


def _loaded(config: config_lib.Config, placements: Mapping[str, Placement]) -> list[tuple[str, Placement]]:
    """Each checkpoint once. What an iteration has trained may take the base's place, and is as large."""
    return list({uri_of(config, part): placement for part, placement in placements.items()}.items())
