"""Compiles a program in the background while the main thread prepares its arguments."""

import concurrent.futures
import contextlib
import functools
from collections.abc import Hashable, Iterator
from typing import Any, cast

import jax


@contextlib.contextmanager
def compiling(program: jax.stages.Wrapped, *arguments: Any) -> Iterator[None]:
    """Inside, `program` is compiled, or loaded from the cache, in another thread; the exit waits for that.

    jax remembers compiled programs by the shapes and shardings of their arguments, so the first call with arrays like
    these finds the program. A process compiles a program once for the same arguments.

    This hides the shorter of the two: the system takes seconds to hand out the memory of a large model's state, page by
    page, and compiling takes seconds. Measured by `python benchmarks/tricks.py compile_ahead`; results in
    benchmarks/RESULTS.md.

    Args:
        program: a function under jax.jit.
        arguments: those of its first call; jax.ShapeDtypeStruct with a sharding may stand for an array.
    """
    leaves, tree = jax.tree.flatten(arguments)
    with concurrent.futures.ThreadPoolExecutor(1) as background:
        compiled = background.submit(_compile, cast(Hashable, program), tree, tuple(leaves))
        yield
        compiled.result()


@functools.cache
def _compile(program: jax.stages.Wrapped, tree: jax.tree_util.PyTreeDef, leaves: tuple[Any, ...]) -> None:
    program.lower(*jax.tree.unflatten(tree, leaves)).compile()
