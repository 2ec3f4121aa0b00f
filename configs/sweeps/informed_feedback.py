"""configs/informed_feedback.py with three seeds on your data: one table, means over seeds, paired differences.

    python launch/sweep.py --config=configs/sweeps/informed_feedback.py:articles.jsonl,article,abstract \
        --workdir=runs/informed_seeds

Behind the colon: a JSONL file, and its fields of the document and of the reference.
Three runs, each ILF and its baselines. Sized for any two CPU cores and an hour a run.
"""

from ilf_jax.errors import InputError
from ilf_jax.sweeps.grid import Sweep, axis


def get_sweep(data="articles.jsonl,article,abstract"):
    parts = data.split(",")
    if len(parts) != 3:
        raise InputError(f"configs/sweeps/informed_feedback.py:{data}: expected FILE,DOCUMENT_FIELD,REFERENCE_FIELD")
    return Sweep(
        config="configs/informed_feedback.py",
        cells=axis("seed", 0, 1, 2),
        always={
            "data.source": f"jsonl:{parts[0]}",
            "data.fields.document": parts[1],
            "data.fields.reference": parts[2],
        },
        metrics=("evaluate/nll_reference", "evaluate/rouge_1", "evaluate/rouge_l", "evaluate/made_up",
                 "evaluate/stop_rate", "score/score_chosen"),
    )
