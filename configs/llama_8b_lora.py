"""An 8B model learns from your reviewers' comments on one 80 GB GPU: LoRA of rank 16 on a bfloat16 base.

    pip install '.[cuda13]'
    python -m ilf_jax.main --config=configs/llama_8b_lora.py --workdir=runs/llama \
        --config.policy.checkpoint=hf:DIR --config.data.source=jsonl:FILE [--dry_run]

FILE has one JSON object a line, with DeFacto's fields (article, candidate, feedback.explanation and, to measure
progress, feedback.summary); name yours by --config.data.fields.document=..., draft, feedback, human_refinement. DIR is
a Hugging Face folder of about 8B params; without the flag, Llama 3.1 comes from the hub.

Memory: with 8.03B params the dry run, compiled for a CPU, says 49 GiB for refine, 44 for score and 64 for finetune;
such a card gives 79 to a program. On the card itself --dry_run compiles for it. Time: the dry run's model says 10
minutes for 1,000 documents of the full length on an H100, beside loading and compiling. Neither was measured on a card.
"""

from ilf_jax.config import base_config


def get_config():
    c = base_config()
    c.task = "summarize"
    c.iterations = 1

    c.data.source = "jsonl:reviews.jsonl"
    c.data.fields.document = "article"
    c.data.fields.draft = "candidate"
    c.data.fields.feedback = "feedback.explanation"
    c.data.fields.human_refinement = "feedback.summary"
    c.data.skip_empty = ("feedback", "human_refinement")
    c.data.eval_size = 64

    c.policy.checkpoint = "hf:meta-llama/Llama-3.1-8B-Instruct"
    c.refiner.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.judge.checkpoint = c.policy.get_oneway_ref("checkpoint")
    for part in (c.policy, c.refiner, c.judge):
        part.max_prompt_length = 1536
    c.feedback.source = "recorded"
    c.precision = "bfloat16"

    c.draft.batch_size = 32
    c.refine.num_candidates = 8
    c.refine.batch_size = 16
    c.refine.max_new_tokens = c.evaluate.max_new_tokens = 128
    c.score.prompts = "tree"  # the five questions share the document: a fifth of the tokens
    c.score.batch_size = 8
    c.evaluate.batch_size = 64
    c.evaluate.headline = "nll_human_refinement"

    c.finetune.lora_rank, c.finetune.lora_alpha = 16, 32.0
    c.finetune.lora_base_precision = "bfloat16"
    c.finetune.learning_rate = 1e-4
    # 32 examples a step, four micro-batches; of a row of 1,536 tokens each layer keeps its input alone.
    c.finetune.batch_size, c.finetune.accumulation, c.finetune.remat = 32, 4, "full"
    c.finetune.max_length = 1792
    return c
