"""The methods of configs/methods.py with three seeds: one table, means over seeds, paired differences.

    python launch/sweep.py --config=configs/sweeps/methods.py --workdir=runs/methods_seeds

Three runs, each ILF and its baselines. Sized for any two CPU cores and a quarter of an hour a run.
"""

from ilf_jax.sweeps.grid import Sweep, axis


def get_sweep():
    return Sweep(config="configs/methods.py", cells=axis("seed", 0, 1, 2),
                 metrics=("evaluate/insult_rate", "evaluate/kl_policy_base", "finetune/tokens_trained"))
