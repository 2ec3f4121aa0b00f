"""How good is each target with 100, 1,000 and 5,000 documents? the paper's main table, on the controlled task.

    python launch/sweep.py --config=configs/sweeps/word_removal_data.py --workdir=runs/word_removal_data

Compares ILF with training on drafts, references and random refinements. A reward model trained on as many comparisons
picks the best of 16 outputs, both of the untrained policy and of ILF's. There are 1,200 training names, so 5,000
documents repeat them, each time with a new draft. Three seeds each; 45 runs of one iteration.
Hardware: any two CPU cores, about an hour. benchmarks/RESULTS.md has the table.
"""

from ilf_jax.sweeps.grid import Sweep, axis, named, product

_REWARD = {"reward.source": "builtin:word_removal_comparisons:5000",
           "reward.eval_source": "builtin:word_removal_comparisons", "evaluate.best_of_n": 16}
_SIZES = (100, 1000, 5000)
_NUMBERS = ("insult_rate", "insults_per_text", "well_formed")


def get_sweep():
    return Sweep(
        config="configs/quickstart.py",
        cells=product(
            named(
                "method",
                ilf={"finetune.target": "refinement", **_REWARD},
                random={"finetune.target": "random", "score.method": "random"},
                initial={"finetune.target": "initial"},
                reference={"finetune.target": "reference"},
                no_finetuning={"iterations": 0, **_REWARD},
            ),
            named("documents", **{str(n): {"data.train_size": n, "reward.train_size": n} for n in _SIZES}),
            axis("seed", 0, 1, 2),
        ),
        always={
            "iterations": 1, "baselines": (), "evaluate.target_nll": True,
            "data.source": "builtin:word_removal_references:5000",
            "finetune.learning_rate": 1e-4,
            "reward.learning_rate": 3e-4, "reward.batch_size": 32, "reward.max_length": 128, "reward.eval_size": 500,
        },
        metrics=(*(f"evaluate/{name}" for name in _NUMBERS), *(f"best_of_n/{name}" for name in _NUMBERS),
                 "reward/accuracy", "finetune/target_nll_before_training"),
        side_by_side="insult_rate",
        x="documents",
        x_numbers={str(n): n for n in _SIZES},
    )
