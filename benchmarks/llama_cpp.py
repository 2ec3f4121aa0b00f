"""llama.cpp as a worker, the peer that people on a CPU would pick: 4-bit weights, all cores, its prefix cache.

It draws the refinements of the suite `refine`. A document's prompt stays in the cache of each slot that draws for it,
so that a slot computes it once. Of the numbers of slots in SLOTS, the fastest is taken.
"""

import argparse
import importlib.metadata
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xllamacpp

from benchmarks import protocol
from ilf_jax.models.checkpoint_uris import resolve

SLOTS = (1, 4, 8)


class LlamaCpp:
    """Repeats the work of `refine`."""

    def __init__(self, work: dict[str, Any]) -> None:
        self._work = work
        self._model = resolve(work["checkpoint"])[1]

    def setup(self, suite: str, tuned: dict[str, Any], warm_up: bool = True) -> dict[str, Any]:
        """Loads the model; finds the number of slots that takes the least time, unless `tuned` has it.

        Args:
            suite: name of the suite.
            tuned: settings that an earlier worker found.
            warm_up: whether to make the calls that warm up and tune. Without them `tuned` must have every setting.
        """
        del suite
        slots = tuned.get("slots")
        tried: dict[str, float] = {}
        if slots is None:
            for count in SLOTS:
                self._start(count)
                self._draw(documents=1)  # the first call of a process is slower
                start = time.perf_counter()
                self._draw()
                tried[str(count)] = time.perf_counter() - start
            slots = int(min(tried, key=tried.__getitem__))
        self._start(slots)
        if warm_up:
            self._draw(documents=1)
        settings = {"threads": protocol.cores(), "slots": slots, "weights": Path(self._model).name}
        settings |= {f"{count} slots": round(seconds, 1) for count, seconds in tried.items()}
        return {"tuned": {"slots": slots}, "settings": settings,
                "versions": {"xllamacpp": importlib.metadata.version("xllamacpp")}}

    def _start(self, slots: int) -> None:
        params = xllamacpp.CommonParams()
        params.model.path, params.n_parallel, params.n_gpu_layers = str(self._model), slots, 0
        params.n_ctx = 1024 * slots
        params.kv_unified = params.fit_params = params.warmup = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = protocol.cores()
        self._slots = slots
        self._server = xllamacpp.Server(params)

    def run(self) -> dict[str, Any]:
        """One timed call."""
        result, seconds, peak_mb = protocol.timed(self._draw)
        return {**result, "seconds": seconds, "peak_mb": peak_mb}

    def _draw(self, documents: int | None = None) -> dict[str, Any]:
        """All candidates of all documents, or of the first `documents`."""
        prompts, candidates = self._work["texts"]["refine"][:documents], self._work["num_candidates"]

        def of_slot(slot: int) -> tuple[int, int]:
            tokens = of_prompts = 0
            for prompt in prompts:
                for candidate in range(slot, candidates, self._slots):
                    answer = self._server.handle_completions({
                        "prompt": prompt, "n_predict": self._work["new_tokens"], "ignore_eos": True, "id_slot": slot,
                        "cache_prompt": True, "samplers": ["top_p", "temperature"], "seed": candidate,
                        "temperature": self._work["temperature"], "top_p": self._work["top_p"],
                    })
                    if "usage" not in answer:
                        raise RuntimeError(f"llama.cpp: {answer}")
                    tokens += answer["usage"]["completion_tokens"]
                    of_prompts += answer["usage"]["prompt_tokens"] if candidate == 0 else 0
            return tokens, of_prompts

        with ThreadPoolExecutor(self._slots) as pool:
            counts = list(pool.map(of_slot, range(self._slots)))
        return {"tokens": sum(tokens for tokens, _ in counts), "prompt_tokens": sum(count for _, count in counts)}


def main() -> None:
    """Answers requests until stdin closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="JSON file written by run.py")
    flags = parser.parse_args()
    peer = LlamaCpp(json.loads(flags.work.read_text(encoding="utf-8")))
    protocol.serve({"setup": peer.setup, "run": peer.run})


if __name__ == "__main__":
    main()
