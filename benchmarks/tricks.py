"""What each device trick of ilf_jax gains on this machine's CPU, measured with and without it in alternation:

    python benchmarks/tricks.py [NAME ...] [--pairs=9] [--quick] [--json=FILE]

Prints a table in Markdown. Ratio: seconds without the trick / seconds with it, so above 1 it gains. The interval is
Student's t over the logarithms of the pairs' ratios. Compiled programs also have an exact size of temporary memory,
without the trick / with it. All tricks take about four minutes on two idle cores.
"""

import argparse
import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only a script's own folder there
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from benchmarks.pairs import ratio  # noqa: E402
from ilf_jax.models import architecture, transformer  # noqa: E402
from ilf_jax.runtime import compile_ahead, hardware, jax_settings  # noqa: E402
from ilf_jax.training import optimizer  # noqa: E402

_OPTIMIZER = optimizer.OptimizerConfig(weight_decay=0.01, clip_norm=1.0)
_SECONDS = 1.5  # of work a measurement, at least


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and a batch."""

    width: int
    layers: int
    rows: int
    length: int

    @property
    def config(self) -> architecture.ModelConfig:
        return architecture.small_shape(self.width, self.layers)


@dataclasses.dataclass
class Program:
    """A compiled program.

    Attributes:
        run: executes it once and waits for the result.
        temporary: bytes of its temporary buffers.
    """

    run: Callable[[], None]
    temporary: int


def _arguments(shape: Shape) -> tuple[transformer.Params, optax.OptState, jax.Array]:
    params = transformer.init_params(shape.config, jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, shape.config.vocab_size, (shape.rows, shape.length))
    return params, optimizer.make_optimizer(_OPTIMIZER).init(params), jnp.asarray(tokens, jnp.int32)


def _train_step(shape: Shape, remat: str = "none") -> Callable[..., Any]:
    config, make = shape.config, optimizer.make_optimizer(_OPTIMIZER)

    def loss(params: transformer.Params, tokens_BxL: jax.Array) -> jax.Array:
        hidden = transformer.forward(config, params, tokens_BxL[:, :-1], remat=remat)
        logits = transformer.unembed(config, params, hidden)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BxL[:, 1:]).mean()

    def step(params: transformer.Params, opt_state: optax.OptState, tokens_BxL: jax.Array) -> tuple:
        grads = jax.grad(loss)(params, tokens_BxL)
        updates, opt_state = make.update(grads, opt_state, params)
        return optax.apply_updates(params, jax.tree.map(lambda u: -1e-4 * u, updates)), opt_state

    return step


def training(shape: Shape, options: dict[str, str], remat: str = "none") -> Program:
    """A train step."""
    params, opt_state, tokens = _arguments(shape)
    jitted = jax.jit(_train_step(shape, remat), donate_argnums=(0, 1), compiler_options=options)
    lowered = jitted.lower(params, opt_state, tokens)
    compiled, state = lowered.compile(), [params, opt_state]

    def run() -> None:
        state[:] = jax.block_until_ready(compiled(*state, tokens))

    return Program(run, _temporary(compiled))


def rematerialised_training(shape: Shape, options: dict[str, str]) -> Program:
    """A train step that recomputes its layers in the backward pass."""
    return training(shape, options, "full")


def _temporary(compiled: jax.stages.Compiled) -> int:
    analysis = compiled.memory_analysis()
    assert analysis is not None, "this backend does not tell"
    return analysis.temp_size_in_bytes


_KEPT, _OPTIONS = hardware.KEPT_BARRIERS, hardware.train_step_on_cpu("none")
COMPILED: dict[str, tuple[Callable[[Shape, dict[str, str]], Program], dict[str, str], dict[str, str]]] = {
    "kept_barriers": (training, _KEPT, {}),
    "kept_barriers_remat": (rematerialised_training, _KEPT, {}),
    "memory_scheduler": (training, _OPTIONS, _KEPT),
}
"""Compiler options of the train step: the program, its options with the trick and without; both are in this process."""


def _programs(name: str, shape: Shape) -> tuple[Program, Program]:
    """With the trick, and without it."""
    make, ours, plain = COMPILED[name]
    return make(shape, ours), make(shape, plain)


def _seconds(program: Program, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        program.run()
    return (time.perf_counter() - start) / repeats


def freeze_imports(shape: Shape, on: bool) -> float:
    """Seconds to trace a train step, in a process that has imported everything."""
    import ilf_jax.ilf  # noqa: F401 (this is what is frozen)

    arguments = jax.eval_shape(lambda: _arguments(shape)[:2])
    tokens = jax.ShapeDtypeStruct((shape.rows, shape.length), jnp.int32)
    gc.collect()
    if on:
        jax_settings.freeze_imports()
    start = time.perf_counter()
    for _ in range(3):
        jax.clear_caches()
        jax.jit(_train_step(shape)).lower(*arguments, tokens)
    return time.perf_counter() - start


def ahead(shape: Shape, on: bool) -> float:
    """Seconds to make Adam's state and to compile a train step, which nothing has compiled before."""
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), transformer.param_shapes(shape.config))
    init = jax.jit(optimizer.make_optimizer(_OPTIMIZER).init)
    tokens = jax.ShapeDtypeStruct((shape.rows, shape.length), jnp.int32)
    step, state = jax.jit(_train_step(shape), compiler_options=_OPTIONS), jax.eval_shape(init, params)
    jax.block_until_ready(params)
    start = time.perf_counter()
    if on:
        with compile_ahead.compiling(step, params_shapes(params), state, tokens):
            jax.block_until_ready(init(params))
    else:
        jax.block_until_ready(init(params))
        step.lower(params_shapes(params), state, tokens).compile()
    return time.perf_counter() - start


def params_shapes(params: transformer.Params) -> transformer.Params:
    """Shapes and dtypes in place of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


PROCESSES: dict[str, tuple[Callable[[Shape, bool], float], Shape]] = {
    "freeze_imports": (freeze_imports, Shape(64, 12, 2, 64)),
    "compile_ahead": (ahead, Shape(2048, 2, 2, 64)),
}
"""Tricks that take a fresh process for each measurement, and its work."""
_FULL, _QUICK = Shape(256, 6, 4, 257), Shape(32, 2, 2, 17)


def _in_a_process(name: str, on: bool, quick: bool) -> float:
    command = [sys.executable, __file__, f"--measure={name}", *([] if on else ["--without"])]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run([*command, *(["--quick"] if quick else [])], stdout=subprocess.PIPE, text=True, check=True,
                          env=environment)
    return float(done.stdout.splitlines()[-1])


def measure(name: str, pairs: int, quick: bool) -> dict[str, Any]:
    """Seconds with and without a trick, pair by pair, and what follows from them."""
    memory = None
    if name in COMPILED:
        shape = _QUICK if quick else _FULL
        programs = _programs(name, shape)
        for program in programs:
            program.run()
        repeats = 1 if quick else max(1, round(_SECONDS / _seconds(programs[0], 1)))
        gc.collect()

        def seconds(on: bool) -> float:
            return _seconds(programs[0 if on else 1], repeats)

        memory = programs[1].temporary / programs[0].temporary
    else:

        def seconds(on: bool) -> float:
            return _in_a_process(name, on, quick)

    measured: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        for on in ((True, False) if pair % 2 == 0 else (False, True)):
            measured[on].append(seconds(on))
    return {"name": name, "with_s": measured[True], "without_s": measured[False], "memory_ratio": memory,
            **ratio(measured[True], measured[False])}


def row(result: dict[str, Any]) -> str:
    """A line of the table."""
    memory = "" if result["memory_ratio"] is None else f"{result['memory_ratio']:.2f}"
    seconds = [f"{np.median(result[key]):.3f}" for key in ("with_s", "without_s")]
    ratios = [f"{result['ratio']:.3f}", f"{result['low']:.3f} to {result['high']:.3f}"]
    return f"| {' | '.join([result['name'], *seconds, *ratios, memory])} |"


def main(arguments: Sequence[str]) -> int:
    """Measures the tricks named, or all."""
    names = [*COMPILED, *PROCESSES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="tiny programs, which show that it works and no gain")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("--measure", choices=PROCESSES, help=argparse.SUPPRESS)
    parser.add_argument("--without", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.measure:
        work, shape = PROCESSES[flags.measure]
        print(work(_QUICK if flags.quick else shape, not flags.without))
        return 0
    unknown = sorted(set(flags.names) - set(names))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; tricks are {', '.join(names)}")
    if flags.pairs < 1:
        parser.error(f"--pairs={flags.pairs}: at least 1")
    print("| trick | s with | s without | ratio | 95 % interval | memory ratio |")
    print("|---|---|---|---|---|---|", flush=True)
    results = []
    for name in flags.names or names:
        results.append(measure(name, flags.pairs, flags.quick))
        print(row(results[-1]), flush=True)
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
