"""The peer as a worker: transformers and TRL, in float32 on the CPU.

It gets the settings that suit it best: all cores, inference mode, sdpa attention, left padding, and prompts of similar
length together. Before anything is timed, it tunes the rest on part of the work: its batch sizes, oneDNN or MKL for its
linear layers, and packing or none.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights come from a package; stay off the network

import accelerate
import torch
import transformers
import trl

from benchmarks import peer_inference, peer_model, peer_training, protocol


class Peer:
    """Repeats the work of one suite."""

    def __init__(self, work: dict[str, Any], folder: Path) -> None:
        """`folder`: keeps the converted weights, which all workers of a run share."""
        self._work, self._folder = work, folder
        self._suite = ""

    def setup(self, suite: str, tuned: dict[str, Any], warm_up: bool = True) -> dict[str, Any]:
        """Loads what the suite needs and tunes the settings that are missing from `tuned`.

        Args:
            suite: name of the suite.
            tuned: settings that an earlier worker found.
            warm_up: whether to make the calls that warm up and tune. Without them `tuned` must have every setting.
        """
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(protocol.cores())
        torch.manual_seed(self._work["seed"])
        peer_model.convert(self._work["checkpoint"], self._folder)
        self._suite = suite
        whole, layout = suite.startswith("iteration"), "score_tree" if suite.endswith("_tree") else "score"
        self._layout = layout
        tuned = dict(tuned)
        if suite != "finetune":
            settings = tuned.get("inference")
            self._inference = peer_inference.Inference(
                self._folder, self._work, settings and peer_inference.Settings(**settings)
            )
            if warm_up:
                self._inference.tune(generates=whole or suite == "refine", scores=None if suite == "refine" else layout)
            tuned["inference"] = dataclasses.asdict(self._inference.settings)
        if whole or suite == "finetune":
            settings = tuned.get("training")
            self._training = peer_training.Training(
                self._folder, self._work, settings and peer_training.Settings(**settings)
            )
            if warm_up:
                self._training.tune()
            tuned["training"] = dataclasses.asdict(self._training.settings)
            tuned["training_tried"] = self._training.tried or tuned.get("training_tried", {})
        return {"tuned": tuned, "settings": self._settings(tuned), "versions": versions()}

    def _settings(self, tuned: dict[str, Any]) -> dict[str, Any]:
        """The settings that this suite uses, named for the notes."""
        settings: dict[str, Any] = {"threads": torch.get_num_threads()}
        inference, training = tuned.get("inference", {}), tuned.get("training", {})
        whole = self._suite.startswith("iteration")
        if self._suite != "finetune":
            settings["linear layers"] = inference["linear"]
        if whole or self._suite == "refine":
            settings["documents per batch"] = inference["documents"]
        if whole or self._layout == self._suite:
            settings["prompts per batch"] = inference["prompts"]
        if whole or self._suite == "finetune":
            settings |= {"rows per micro-batch": training["rows"], "packing": training["packing"]}
            settings |= {f"best {name}": seconds for name, seconds in tuned["training_tried"].items()}
        return settings

    def run(self) -> dict[str, Any]:
        """One timed call of the suite."""
        parts = {
            "draft": lambda: self._inference.generate(self._work["texts"]["draft"], 1),
            "refine": lambda: self._inference.generate(self._work["texts"]["refine"], self._work["num_candidates"]),
            "score": lambda: self._inference.score(self._work["texts"][self._layout]),
        }
        if not self._suite.startswith("iteration"):
            return self._finetune() if self._suite == "finetune" else _timed(parts[self._suite.removesuffix("_tree")])
        return protocol.join({**{name: _timed(part) for name, part in parts.items()}, "finetune": self._finetune()})

    def _finetune(self) -> dict[str, Any]:
        trainer = self._training.trainer()
        return _timed(lambda: self._training.train(trainer))


def _timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    result, seconds, peak_mb = protocol.timed(work)
    return {**result, "seconds": seconds, "peak_mb": peak_mb}


def versions() -> dict[str, str]:
    """Versions of the measured libraries."""
    return {module.__name__: module.__version__ for module in (torch, transformers, trl, accelerate)}


def peaks() -> dict[str, Any]:
    """GFLOP/s of torch's float32 matmul with MKL and with oneDNN, for the roofline."""
    torch.set_num_threads(protocol.cores())
    size = 2048
    a, b = torch.rand(size, size), torch.rand(size, size)
    linear = peer_model.with_onednn(torch.nn.Sequential(torch.nn.Linear(size, size, bias=False)))
    gflops = {}
    with torch.inference_mode():
        for name, work in (("MKL", lambda: a @ b), ("oneDNN", lambda: linear(a))):
            work()
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - start)
            gflops[name] = 2 * size**3 / min(seconds) / 1e9
    return {"matmul_gflops": gflops}


def main() -> None:
    """Answers requests until stdin closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="JSON file written by run.py")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the converted weights")
    flags = parser.parse_args()
    peer = Peer(json.loads(flags.work.read_text(encoding="utf-8")), flags.folder / "peer")
    protocol.serve({"setup": peer.setup, "run": peer.run, "peaks": peaks})


if __name__ == "__main__":
    main()
