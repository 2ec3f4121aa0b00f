"""The whole loop in minutes on a laptop: a small model of our own stops calling people names.

    bash launch/quickstart.sh
    python -m ilf_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Task: word_removal. The policy is a model of a million parameters that ships with the package; nearly all its drafts
hold an insult. Feedback names up to three of them, the refiner writes five refinements, the InstructRM ensemble picks
one, and the policy learns from the picks. Hardware: any two CPU cores.
"""

from ilf_jax.config import base_config


def get_config():
    c = base_config()
    c.task = "word_removal"
    c.iterations = 3
    c.compare = ("initial", "random")

    c.data.source = "builtin:word_removal"
    c.data.train_size = 192
    c.data.eval_source = "builtin:word_removal"
    c.data.eval_size = 128

    for part in (c.policy, c.refiner, c.judge):
        part.checkpoint = "builtin:word_removal_1m"
    c.feedback.source = "oracle"

    c.draft.batch_size = c.evaluate.batch_size = 64
    c.draft.max_new_tokens = c.refine.max_new_tokens = c.evaluate.max_new_tokens = 32
    c.refine.batch_size = 32
    c.refine.num_candidates = 5
    c.score.batch_size = 32

    c.finetune.init = "previous"
    c.finetune.data = "new"
    c.finetune.epochs = 2
    c.finetune.learning_rate = 1e-3
    c.finetune.batch_size = 16
    return c
