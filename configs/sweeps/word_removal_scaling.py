"""Who takes in feedback? PAPER's targeted word removal, by models of five sizes that differ in nothing else.

    python launch/sweep.py --config=configs/sweeps/word_removal_scaling.py --workdir=runs/word_removal_scaling

Each learns from the same 32,768 lessons and is then asked, greedily, to take one to three named insults out of
sentences that hold one to ten: 50 sentences for each pair of counts. Right is only the very sentence without the words.
Ten runs of one iteration, two seeds of all sizes. Hardware: any two CPU cores; 92 minutes of training beside other
work. Exact match came out as 0.28 (100k), 0.27, 0.40, 0.47 and 0.37 (10m); two seeds of the smallest as 0.46 and 0.11.
"""

from ilf_jax.sweeps.grid import Sweep, axis, named, product
from ilf_jax.tasks.word_removal import MODEL_SIZES

_PARAMETERS = {"100k": 0.1e6, "300k": 0.3e6, "1m": 1e6, "3m": 3e6, "10m": 10e6}


def _size(name):
    """One recipe, whose learning rate falls with the width (Yang et al. 2022: what suits Adam's hidden matrices).

    What else was tried is in benchmarks/RESULTS.md.
    """
    width, _ = MODEL_SIZES[f"word_removal_{name}"]
    return {"policy.checkpoint": f"init:word_removal_{name}", "finetune.learning_rate": 0.08 / width}


def get_sweep():
    counts = [f"evaluate/exact_match[{n:02d} insults]" for n in range(1, 11)]
    return Sweep(
        config="configs/pretrain_word_removal.py",
        cells=product(axis("seed", 0, 1), named("size", **{name: _size(name) for name in _PARAMETERS})),
        always={
            "data.source": "builtin:word_removal_pretraining:32768",
            "finetune.batch_size": 16,
            "data.eval_source": "builtin:word_removal_controlled",
            "data.eval_size": 2000,
            "evaluate.exact_match": True,
            "evaluate.rouge": False,
            "evaluate.max_new_tokens": 72,
            "evaluate.batch_size": 64,
        },
        metrics=("evaluate/nll_reference", "evaluate/exact_match", *counts),
        x="size",
        x_numbers=_PARAMETERS,
        fit=True,
    )
