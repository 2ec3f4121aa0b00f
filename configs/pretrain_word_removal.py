"""Trains the model of configs/quickstart.py: 4 layers of width 128, a million parameters, on generated text.

    python -m ilf_jax.main --config=configs/pretrain_word_removal.py --workdir=runs/pretrain
    python -m ilf_jax.export --workdir=runs/pretrain --iteration=1 --out=ilf_jax/assets/word_removal_1m

Training on references is ILF with another target, so this is an ordinary run without drafts and feedback.
"""

from ilf_jax.config import base_config
from ilf_jax.tasks.word_removal import TOKEN_UNITS


def get_config():
    c = base_config()
    c.task = "template"
    c.template.policy = "{document}"
    c.template.token_units = TOKEN_UNITS
    c.policy.checkpoint = "init:word_removal_1m"
    c.policy.tokenizer = "train:1024"

    c.data.source = "builtin:word_removal_pretraining"
    c.data.eval_source = "builtin:word_removal_pretraining"
    c.data.eval_size = 200

    c.finetune.target = "reference"
    c.finetune.shuffle = False  # short sentences come first
    c.finetune.learning_rate = 2e-3
    c.finetune.schedule = "cosine"
    c.finetune.warmup_fraction = 0.03
    c.finetune.weight_decay = 0.1
    c.finetune.b2 = 0.98
    c.finetune.batch_size = 64
    c.finetune.prompt_loss_weight = 0.1
    c.finetune.max_length = 256
    c.checkpoint.every_steps = 500

    c.evaluate.temperature = 0.0
    return c
