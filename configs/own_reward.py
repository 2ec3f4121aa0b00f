"""Your own reward function picks the refinements: plain Python over text, in this very file.

    python -m ilf_jax.main --config=configs/own_reward.py --workdir=runs/own_reward

`reward` is called for each candidate refinement and returns a number; the highest wins. Here it likes short texts
that call nobody names that the feedback objects to. Replace it by a call to your own checker or service; a run that is
stopped resumes, and is refused if this file has changed meanwhile. Feedback (config.feedback.source), tasks
(config.task) and objectives (config.finetune.objective) are named in the same way.
Expected: insult_rate 0.99 before, 0.45 after one iteration; 0.93 of the picks are exactly right, 0.83 of random ones.
Hardware: any two CPU cores, under a minute.
"""

from ilf_jax.config import base_config


def reward(document, draft, feedback, refinement):
    objections = [word.strip(".,'\"").lower() for word in feedback.split()]
    words = [word.strip(".,").lower() for word in refinement.split()]
    named = sum(word in objections for word in words if len(word) > 3 and word not in document.lower())
    return -10.0 * named - abs(len(words) - 0.5 * len(draft.split()))


def get_config():
    c = base_config()
    c.task = "word_removal"
    c.score.method = f"file:{__file__}:reward"

    c.data.source = c.data.eval_source = "builtin:word_removal"
    c.data.train_size, c.data.eval_size = 192, 128
    c.policy.checkpoint = "builtin:word_removal_1m"
    c.refiner.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.judge.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.feedback.source = "oracle"

    c.draft.batch_size = c.evaluate.batch_size = 64
    c.draft.max_new_tokens = c.refine.max_new_tokens = c.evaluate.max_new_tokens = 32
    c.refine.batch_size, c.refine.num_candidates = 32, 5
    c.refine.temperature, c.refine.top_p, c.refine.redraw = 1.3, 1.0, False
    c.finetune.learning_rate, c.finetune.batch_size = 2e-4, 16
    return c
