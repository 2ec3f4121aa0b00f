"""Which models can use feedback? the paper's targeted word removal, with models of five sizes that differ only in size.

    python launch/sweep.py --config=configs/sweeps/word_removal_scaling.py --workdir=runs/word_removal_scaling

Each model trains on the same 32,768 examples. It then removes, with greedy decoding, one to three named insults from
sentences with one to ten: 50 sentences for each pair of counts. Only an exact match counts. Ten runs of one iteration,
two seeds of each size. Hardware: any two CPU cores; 92 minutes of training on a shared machine. Measured exact match:
0.28 (100k), 0.27, 0.40, 0.47 and 0.37 (10m), means of two seeds; the two seeds of the smallest gave 0.46 and 0.11.
"""

from ilf_jax.sweeps.grid import Sweep, axis, named, product
from ilf_jax.tasks.word_removal import MODEL_SIZES

_PARAMETERS = {"100k": 0.1e6, "300k": 0.3e6, "1m": 1e6, "3m": 3e6, "10m": 10e6}


def _size(name):
    """One recipe. The learning rate is inversely proportional to width (Yang et al. 2022, hidden matrices under Adam).

    benchmarks/RESULTS.md lists what else was tried.
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
