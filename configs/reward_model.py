"""Trains a reward model on comparisons and picks the best of N outputs with it. The policy is not finetuned.

    python -m ilf_jax.main --config=configs/reward_model.py --workdir=runs/reward_model
    python -m ilf_jax.main --config=configs/reward_model.py:scalar --workdir=runs/reward_scalar      # or comparison

The built-in model learns from 2,000 comparisons which of two descriptions is kinder, then picks the best of 64
descriptions by the policy. For your own data: --config.reward.source=jsonl:FILE --config.reward.fields.first=... Any
other run can use the reward model: add
--config.reward_model.checkpoint=orbax:runs/reward_model/iteration_000/reward_model and either
--config.score.method=reward_model or --config.evaluate.best_of_n=64. Expected: accuracy 0.99 (classification);
insult_rate 0.99 for single outputs, 0.19 for the best of 64. Hardware: any two CPU cores, half a minute.
"""

from ilf_jax.config import base_config


def get_config(kind="classification"):
    c = base_config()
    c.task = "word_removal"
    c.iterations = 0

    c.data.source = c.data.eval_source = "builtin:word_removal"
    c.data.eval_size = 128
    c.policy.checkpoint = "builtin:word_removal_1m"

    c.reward.kind = kind
    c.reward.source = c.reward.eval_source = "builtin:word_removal_comparisons"
    c.reward.eval_size = 500
    c.reward.learning_rate = 3e-4
    c.reward.batch_size = 32
    c.reward.max_length = 128

    c.evaluate.best_of_n = 64
    c.evaluate.batch_size = 256
    c.evaluate.max_new_tokens = 32
    c.score.batch_size = 64
    return c
