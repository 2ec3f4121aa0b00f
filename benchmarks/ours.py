"""Our side as a worker: the package's own code paths with the settings of configs/summarize_smollm2.py."""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import protocol
from configs import summarize_smollm2
from ilf_jax import config as config_lib
from ilf_jax import tasks
from ilf_jax.inference import answer_scoring, generation, model_pool, target_tokens
from ilf_jax.records import Example
from ilf_jax.runtime import jax_settings, performance, provenance, sharding, workdir
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages import finetune
from ilf_jax.stages.context import StageContext
from ilf_jax.tasks.prompts import Prompt, Question
from ilf_jax.training import packing


def make_config(work: dict[str, Any], layout: str) -> config_lib.Config:
    """The shipped config, adapted to the size of this work. `layout`: config.score.prompts."""
    c = summarize_smollm2.get_config()
    c.policy.checkpoint = c.refiner.checkpoint = c.judge.checkpoint = work["checkpoint"]
    c.seed = work["seed"]
    for section in (c.draft, c.refine):
        section.temperature, section.top_p, section.top_k = work["temperature"], work["top_p"], 0
        section.max_new_tokens = work["new_tokens"]
    c.refine.num_candidates = work["num_candidates"]
    c.score.prompts = layout
    c.score.batch_size = min(c.score.batch_size, len(work["examples"]))  # else rows stay empty
    # One example at a time, as in the config, and as many per step as the peer takes.
    c.finetune.batch_size = c.finetune.accumulation = min(work["examples_per_step"], len(work["examples"]))
    c.finetune.learning_rate, c.finetune.epochs = work["learning_rate"], work["epochs"]
    return config_lib.read(c)


class Ours:
    """Repeats the work of one suite."""

    def __init__(self, work: dict[str, Any]) -> None:
        self._work = work
        self._examples = tuple(Example(**row) for row in work["examples"])

    def setup(self, suite: str, tuned: dict[str, Any]) -> dict[str, Any]:
        """Loads the model. `tuned`: the peer's settings from an earlier worker; ours has none to tune."""
        self._suite = suite
        self._config = config = make_config(self._work, "tree" if suite.endswith("_tree") else "paper")
        mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        self._task = tasks.make_task(config)
        self._roles = model_pool.Roles(config, model_pool.ModelPool(mesh, config.seed), Path("unused"), None)
        self.lm = self._roles.get("base")
        return {"settings": self._settings(), "versions": provenance.versions()}

    def _settings(self) -> dict[str, Any]:
        """The settings that this suite uses, named for the notes."""
        config, part = self._config, self._suite.removesuffix("_tree")
        settings = {
            "draft": {"drafts per batch": config.draft.batch_size},
            "refine": {"documents per batch": config.refine.batch_size},
            "score": {"prefixes per batch": config.score.batch_size},
            "finetune": {"micro-batches": config.finetune.accumulation, "packing": config.finetune.packing,
                         "remat": config.finetune.remat},
        }
        return {name: value for step, values in settings.items() if part in (step, "iteration")
                for name, value in values.items()}

    def run(self) -> dict[str, Any]:
        """One timed call of the suite."""
        config = self._config
        self.lm = self._roles.get("base")  # training consumed the params of the last call
        parts = {
            "draft": lambda: self._generate(
                "draft", [self._task.policy_prompt(e) for e in self._examples], 1, config.draft.batch_size),
            "refine": lambda: self._generate(
                "refine", [self._task.refine_prompt(e, e.draft, e.feedback) for e in self._examples],
                config.refine.num_candidates, config.refine.batch_size),
            "score": lambda: self.score(config.score.prompts),
            "finetune": self._finetune,
        }
        if self._suite.startswith("iteration"):
            return protocol.join({name: self._timed(part) for name, part in parts.items()})
        return self._timed(parts[self._suite.removesuffix("_tree")])

    def _timed(self, work: Callable[[], Callable[[], dict[str, Any]]]) -> dict[str, Any]:
        """Times `work`. It returns a function that counts what was done, which is not timed."""
        meter = performance.Meter()
        count, seconds, peak_mb = protocol.timed(work)
        cost = meter.cost()
        compiled = {name: cost[name] for name in ("compile_seconds", "compilations", "cache_hits")}
        return {**compiled, **count(), "seconds": seconds, "peak_mb": peak_mb}

    def generator(self, new_tokens: int, batch_size: int) -> generation.Generator:
        """A generator of samples of forced length."""
        settings = self._config.refine
        return generation.Generator(
            self.lm, make_sampling(settings.temperature, settings.top_k, settings.top_p), new_tokens, batch_size,
            self._task.stop, forced_length=True,
        )

    def _generate(
        self, purpose: str, prompts: Sequence[Prompt], candidates: int, batch_size: int
    ) -> Callable[[], dict[str, Any]]:
        new_tokens, ids = self._work["new_tokens"], [e.id for e in self._examples]
        encoded = [self.lm.encode(i, [prompt], new_tokens)[0] for i, prompt in zip(ids, prompts, strict=True)]
        keys = decode.candidate_keys(self._config.seed, 1, purpose, ids, range(candidates))
        generator = dataclasses.replace(self.generator(new_tokens, min(batch_size, len(ids))),
                                        row_lengths=self.lm.planner.row_lengths(len(e.ids) for e in encoded))
        samples = generator.start(encoded, keys).result()
        return lambda: {"tokens": sum(len(s.tokens) for group in samples for s in group),
                        "prompt_tokens": sum(len(e.ids) for e in encoded)}

    def score(self, layout: str) -> Callable[[], dict[str, Any]]:
        """InstructRM over all candidates, as in stages/score.py. `layout`: config.score.prompts."""
        questions = [
            [self._task.judge_questions(e, e.draft, e.feedback, text, layout)
             for text in self._work["candidates"][e.id]] for e in self._examples
        ]
        tokenized = [answer_scoring.ask(self.lm, e.id, of_one)
                     for e, of_one in zip(self._examples, questions, strict=True)]
        prompt_layout = answer_scoring.choose_layout(self.lm, tokenized)
        scores = answer_scoring.start_scoring(
            self.lm, tokenized, self._config.score.batch_size, prompt_layout).result()

        def count() -> dict[str, Any]:
            flat = [q for of_one in questions for about_one in of_one for q in about_one]
            tokens = self._count(flat)
            return {"tokens": tokens, "prompt_tokens": tokens,
                    "computed_tokens": sum(one.num_tokens(prompt_layout.together) for one in tokenized),
                    "check": np.concatenate([scores_CxQ.reshape(-1) for scores_CxQ in scores]).tolist()}

        return count

    def _count(self, questions: Sequence[Question]) -> int:
        return sum(len(e.ids) for q in questions for e in self.lm.encode("", [q.prompt], 0))

    def training_examples(self) -> list[packing.TrainingExample]:
        """The training pairs, tokenised."""
        return [target_tokens.encode_target(self._config.finetune, self._task, self.lm, e, e.human_refinement)
                for e in self._examples]

    def _finetune(self) -> Callable[[], dict[str, Any]]:
        config = self._config
        with tempfile.TemporaryDirectory() as folder:
            place, lock = workdir.open_workdir(folder, config_lib.to_dict(config))
            with lock:
                context = StageContext(config, place, self._task, 1, self._examples, (), self._roles)
                examples = self.training_examples()
                stage = context.folder("finetune")
                stage.begin()
                finetune.train(context, "base", examples)
                steps = (stage.path / "steps.jsonl").read_text(encoding="utf-8").splitlines()
        mean_loss = float(np.mean([json.loads(step)["loss"] for step in steps]))
        tokens = config.finetune.epochs * sum(map(len, examples))
        return lambda: {"tokens": tokens, "prompt_tokens": tokens, "check": [mean_loss]}


def main() -> None:
    """Answers requests until stdin closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="JSON file written by run.py")
    flags = parser.parse_args()
    ours = Ours(json.loads(flags.work.read_text(encoding="utf-8")))
    jax_settings.freeze_imports()  # as ilf_jax.main
    protocol.serve({"setup": ours.setup, "run": ours.run})


if __name__ == "__main__":
    main()
