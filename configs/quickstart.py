"""The whole loop in minutes on a laptop: a small model of our own stops calling people names.

    bash launch/quickstart.sh
    python -m ilf_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Task: word_removal. The policy is a model of a million parameters that ships with the package; nearly all its drafts
hold an insult. Feedback names up to three of them, the refiner writes five refinements, the InstructRM ensemble picks
one, and the policy learns from the picks. Expected: insult_rate 1.00 before, 0.46 after one iteration, 0.00 after two;
imitating its own drafts leaves it above 0.95. Hardware: any two CPU cores, about two minutes.
"""

from ilf_jax.config import base_config


def get_config():
    c = base_config()
    c.task = "word_removal"
    c.iterations = 3
    c.baselines = ("initial", "random")

    c.data.source = "builtin:word_removal"
    c.data.train_size = 192
    c.data.eval_source = "builtin:word_removal"
    c.data.eval_size = 128

    c.policy.checkpoint = "builtin:word_removal_1m"
    c.refiner.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.judge.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.feedback.source = "oracle"

    c.draft.batch_size = c.evaluate.batch_size = 64
    c.draft.max_new_tokens = c.refine.max_new_tokens = c.evaluate.max_new_tokens = 32
    c.refine.batch_size = 32
    c.refine.num_candidates = 5
    # Warm sampling makes refinements differ, so that picking matters. One answer is right: equal ones are no fault.
    c.refine.temperature, c.refine.top_p, c.refine.redraw = 1.3, 1.0, False
    c.score.batch_size = 32

    c.finetune.init = "previous"
    c.finetune.data = "new"
    c.finetune.learning_rate = 2e-4
    c.finetune.batch_size = 16
    return c
