"""The paper's summarization run on SLF5K: n posts with human feedback, N = 5, InstructRM ensemble, one epoch.

    python -m ilf_jax.main --config=configs/tldr_5k.py --workdir=DIR [--config.policy.checkpoint=hf:DIR]
    python -m ilf_jax.main --config=configs/tldr_5k.py:n=100 --workdir=DIR        # or n=1000

Refiner and judge follow `policy.checkpoint`; set `refiner.checkpoint` or `judge.checkpoint` to give one a model of its
own.

Hardware: eight or more devices that together hold an 8B Llama in float32 (32 GB) twice over, Adam's
state and gradients: 160 GB without activations; not run at this size yet. Weights are split eight ways over `tensor`;
what remains of the devices is `fsdp`. The data come from the Hugging Face hub, or from a folder with the dataset's
files: --config.data.folder=DIR. Measured are ROUGE and likelihood against human summaries, and the win rate against
the policy's own outputs before training. Learning rates stand for the paper's multipliers 0.05 / 0.02 / 0.2.
"""

from ilf_jax.config import base_config
from ilf_jax.errors import InputError

_SETTINGS = {100: (5e-6, 0.0), 1000: (2e-6, 0.0), 5000: (2e-5, 0.1)}  # n: learning rate, prompt loss weight


def get_config(arg="n=5000"):
    name, _, value = arg.partition("=")
    if name != "n" or not value.isdecimal() or int(value) not in _SETTINGS:
        raise InputError(f"configs/tldr_5k.py:{arg}: allowed are n=100, n=1000, n=5000")
    n = int(value)

    c = base_config()
    c.task = "summarize"
    c.iterations = 1

    c.data.source = "tfds:slf5k"
    c.data.fields.id = "id"
    c.data.fields.title = "title"
    c.data.fields.document = "post"
    c.data.fields.draft = "generated_summary_for_feedback"
    c.data.fields.feedback = "feedback"
    c.data.fields.reference = "tldr_human_reference_summary"
    c.data.fields.human_refinement = "ideal_human_summary"
    c.data.train_size = n
    c.data.eval_source = "tfds:slf5k"
    c.data.eval_split = "test"
    c.data.eval_size = 698

    c.policy.checkpoint = "hf:meta-llama/Llama-3.1-8B-Instruct"
    c.refiner.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.judge.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.precision = "bfloat16"
    c.refine.batch_size = 32
    c.score.batch_size = 64
    c.evaluate.batch_size = 128
    c.evaluate.win_rate = True
    c.evaluate.headline = "win_rate"

    c.finetune.learning_rate, c.finetune.prompt_loss_weight = _SETTINGS[n]
    c.finetune.batch_size = 32
    c.finetune.remat = "full"
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, -1, 8
    return c
