"""How many documents does the quickstart's policy need? ILF against training on its own drafts, three seeds each.

    python launch/sweep.py --config=configs/sweeps/quickstart_data.py --workdir=runs/quickstart_data

24 runs of one iteration. Hardware: any two CPU cores. Expected: with ILF, the share of held-out outputs with an insult
falls as documents are added; with drafts it stays near 1.
"""

from ilf_jax.sweeps.grid import Sweep, axis, product


def get_sweep():
    return Sweep(
        config="configs/quickstart.py",
        cells=product(
            axis("finetune.target", "refinement", "initial"),
            axis("data.train_size", 32, 64, 128, 256),
            axis("seed", 0, 1, 2),
        ),
        always={"iterations": 1, "baselines": ()},
        metrics=("evaluate/insult_rate", "score/exact_match_chosen"),
        x="data.train_size",
    )
