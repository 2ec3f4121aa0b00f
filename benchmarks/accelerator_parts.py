"""Runs the parts of benchmarks/accelerator.sh, each in processes of its own, and writes one JSON and one table.

Imports only the standard library: a part that cannot import jax loses nothing of the others.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_TINY = [f"--config.{key}={value}" for key, value in {
    "policy.checkpoint": "builtin:word_removal_1m", "data.train_size": 4, "data.eval_size": 2,
    "refine.num_candidates": 2, "refine.max_new_tokens": 4, "draft.max_new_tokens": 4, "evaluate.max_new_tokens": 4,
    "policy.max_prompt_length": 440, "refiner.max_prompt_length": 440, "judge.max_prompt_length": 440,
    "finetune.max_length": 512, "data.too_long": "skip"}.items()]


@dataclasses.dataclass(frozen=True)
class Step:
    """One process. It may write a JSON object to `json`, or leave a work folder `workdir`."""

    name: str
    command: Sequence[str]
    json: Path | None = None
    workdir: Path | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """Steps that share a time limit in seconds."""

    limit: float
    steps: Sequence[Step]


def parts(out: Path, smoke: bool, peer_python: str | None) -> dict[str, Part]:
    """The parts by their numbers, in the order of value.

    Args:
        out: folder for what they write.
        smoke: tiny shapes, on any device.
        peer_python: interpreter of the peer; without one there is no part 5.
    """
    small = ["--smoke"] if smoke else []

    def run(name: str) -> Step:
        folder = out / name
        return Step(name, ["-m", "ilf_jax.main", "--config=configs/summarize_smollm2.py:sample", f"--workdir={folder}",
                           "--config.precision=bfloat16", *(_TINY if smoke else [])], workdir=folder)

    def measured(name: str, *flags: str) -> Step:
        file = out / f"{name}.json"
        return Step(name, ["benchmarks/accelerator.py", f"--json={file}", *flags, *small], json=file)

    tests = ["tests/models/test_kernels.py", *(["--collect-only"] if smoke else ["tests/models/test_parity.py"])]
    found = {
        "1": Part(150, [run("summarize_cold"), run("summarize_warm")]),
        "4": Part(90, [Step("tests", ["-m", "pytest", "-q", "-n", "0", *tests])]),
        "2": Part(90, [measured("rates")]),
        "3": Part(90, [measured(f"iteration_{shape}", "--suite=iteration", f"--shape={shape}")
                       for shape in (("llama_1b",) if smoke else ("llama_1b", "llama_8b"))]),
    }
    if peer_python:
        found["5"] = Part(60, [measured("peer", f"--peer_python={peer_python}")])
    if smoke:  # shows that all works, on a machine that may be busy
        found = {number: dataclasses.replace(part, limit=900) for number, part in found.items()}
    return found


def run_part(part: Part, out: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Runs the steps one after another until the part's time is over.

    Returns:
        Of each step its name, exit code (None: out of time), wall seconds, result, and where its output is.
    """
    end, done = time.monotonic() + part.limit, []
    for step in part.steps:
        log, start = out / f"{step.name}.log", time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            try:
                code: int | None = subprocess.run(
                    [sys.executable, *step.command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                    env=environment, timeout=max(1.0, end - start)).returncode
            except subprocess.TimeoutExpired:
                code = None
        done.append({"step": step.name, "code": code, "seconds": time.monotonic() - start, "log": log.name,
                     "result": _result(step)})
    return done


def _result(step: Step) -> dict[str, Any]:
    if step.json is not None and step.json.exists():
        return json.loads(step.json.read_text(encoding="utf-8"))
    performance = None if step.workdir is None else step.workdir / "performance.jsonl"
    if performance is None or not performance.exists():
        return {}
    stages: dict[str, dict[str, float]] = {}
    for line in performance.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        metric = row["metric"].removeprefix("performance/")
        stages.setdefault(f"{row['iteration']} {row['stage']}", {})[metric] = row["value"]
    return {"stages": stages, "compile_seconds": sum(cost.get("compile_seconds", 0.0) for cost in stages.values())}


def markdown(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A table with a row a step, and the numbers of each under it."""
    rows = ["| part | step | exit code | seconds | numbers |", "|---|---|---|---|---|"]
    for number, steps in results.items():
        for step in steps:
            code = "out of time" if step["code"] is None else step["code"]
            rows.append(f"| {number} | {step['step']} | {code} | {step['seconds']:.1f} | {_numbers(step['result'])} |")
    return "\n".join(rows) + "\n"


def _numbers(result: Mapping[str, Any]) -> str:
    plain = [f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, float)]
    stages = [f"{name} {cost['seconds']:.1f} s (compiling {cost['compile_seconds']:.1f})"
              for name, cost in result.get("stages", {}).items() if "seconds" in cost]
    return "; ".join([*plain, *stages])


def main(arguments: Sequence[str]) -> int:
    """Runs the parts. Exit code 0 if all did what they should, 1 if one did not, 2 if there is no such part."""
    out = Path(arguments[0]).resolve()
    smoke = os.environ.get("SMOKE", "") not in ("", "0")
    available = parts(out, smoke, os.environ.get("PEER_PYTHON"))
    chosen = list(arguments[1:]) or list(available)
    unknown = [number for number in chosen if number not in available]
    if unknown:
        print(f"error: no part {', '.join(unknown)}; there are {', '.join(sorted(available))}"
              + ("" if "5" in available else ", and 5 with PEER_PYTHON=PYTHON"), file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        print(f"error: {out} is not empty; the first part measures a cold start", file=sys.stderr)
        return 2
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(out / "compiled")}
    results: dict[str, list[dict[str, Any]]] = {}
    for number in chosen:
        results[number] = run_part(available[number], out, environment)
        (out / "accelerator.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (out / "accelerator.md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results), end="")
    return int(any(step["code"] != 0 for steps in results.values() for step in steps))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
