"""Work folders as runs leave them, without a run: for tests of what reads them."""

import dataclasses
import json
import random

from ilf_jax import records

TEXT = "the plan was to leave early but a storm came over the hills and nobody wanted to drive home so"
WORDS = TEXT.split()


def sentence(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count)).capitalize() + "."


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_stage(folder, rows, seconds=3.0, complete=True, shards=2):
    for shard in range(shards):
        write_lines(folder / f"{shard:05d}-of-{shards:05d}.jsonl", rows[shard::shards])
    manifest = {
        "complete": complete,
        "count": len(rows),
        "config_hash": "c0ffee",
        "versions": {"jax": "0.10.2", "ilf_jax": "0.1"},
        "cost": {"seconds": seconds},
        "shards": shards,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def make_run(path, iterations=2, count=12, candidates=6, arm=False, better=1.0):
    rng = random.Random(len(str(path.name)))
    config = {"task": "word_removal", "iterations": iterations, "seed": 0, "score": {"method": "instruct_rm"}}
    config |= {"evaluate": {"headline": "insult_rate"}, "policy": {"checkpoint": "init:tiny<&>"}}
    config |= {"finetune": {"target": "reference" if arm else "refinement"}}
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    metrics = []

    def metric(k, stage, name, value, stderr=0.02, n=count):
        metrics.append({"iteration": k, "stage": stage, "metric": name, "value": value, "stderr": stderr, "n": n})

    heldout = [
        records.Example(f"h{i}", sentence(rng, 150), f"Held out {i}", reference=sentence(rng, 15)) for i in range(9)
    ]
    for k in range(0, iterations + 1):
        folder = path / f"iteration_{k:03d}"
        outputs = [records.Output(e.id, sentence(rng, 24 - 4 * k), 30, i != 3, -20.0,
                                  {"insult_rate": 0.6 - 0.2 * k * better + i / 100}) for i, e in enumerate(heldout)]
        write_stage(folder / "evaluate", outputs, 61.0)
        write_lines(folder / "evaluate" / "examples.jsonl", heldout)
        metric(k, "evaluate", "rouge_l", 0.2 + 0.05 * k * better)
        metric(k, "evaluate", "insult_rate", 0.6 - 0.2 * k * better)
        metric(k, "evaluate", "mean_words", 24.0 - 4 * k, 0.5)
        if k == 0:
            continue
        examples = [records.Example(f"t{i}", sentence(rng, 40 + 20 * i), f"Text {i}") for i in range(count)]
        write_lines(folder / "examples.jsonl", examples)
        targets = [records.Target(e.id, "prompt", "completion", "chosen") for e in examples]
        write_stage(folder / "finetune", targets, 321.0)
        losses = [{"step": s, "loss": 3 / (1 + s / 50) + rng.random() / 5, "learning_rate": 1e-4} for s in range(400)]
        write_lines(folder / "finetune" / "steps.jsonl", losses)
        metric(k, "finetune", "loss", 1.2, None, None)
        if arm:
            continue
        drafts = [sentence(rng, 20) for _ in examples]
        write_stage(folder / "draft", [records.Draft(e.id, d, "policy") for e, d in zip(examples, drafts, strict=True)])
        write_stage(folder / "feedback", [records.Feedback(e.id, "Leave out “storm”.", "oracle") for e in examples])
        texts = [
            [" ".join(w for w in d.split() if w != "storm" and rng.random() > 0.1) for _ in range(candidates)]
            for d in drafts
        ]
        write_stage(
            folder / "refine",
            [
                records.Candidates(e.id, t, [-9.0] * candidates, [20] * candidates, [True] * (candidates - 1) + [False])
                for e, t in zip(examples, texts, strict=True)
            ],
        )
        scored = []
        for e in examples:
            scores = [rng.random() for _ in range(candidates)]
            scored.append(
                records.Scored(e.id, scores, scores.index(max(scores)), {"random": 1, "longest": 2, "first": 0})
            )
        write_stage(folder / "score", scored)
        metric(k, "refine", "exact_match", 0.31)
        metric(k, "refine", "equal_candidates", 0.07)
        for name, value in (("chosen", 0.8), ("random", 0.3), ("longest", 0.25), ("first", 0.35)):
            metric(k, "score", f"exact_match_{name}", value + 0.02 * k)
    write_lines(path / "metrics.jsonl", metrics)
    return path


def declare(path, directions):
    """As if the run's task declared these metrics."""
    (path / "run.json").write_text(json.dumps({"format": 2, "started": 0.0, "metric_directions": directions}))
