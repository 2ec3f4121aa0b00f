"""What frames the verdict on the first screen: what was taught to which model, and what to do next."""

import dataclasses
import itertools
import shlex

from ilf_jax.reporting import explanations, methods, tables
from ilf_jax.reporting.workfolder import WorkFolder

_TAUGHT = {
    "word_removal": "to describe people without insults",
    "summarize": "to summarize texts",
    "template": "what config.template asks for",
}
_FEEDBACK = {
    "oracle": "feedback by the task's own program",
    "recorded": "feedback from the data",
    "critic": "feedback by a model",
    "human": "feedback by people",
    "none": "no feedback",
}
_WITHHELD = {"shuffled": "another document's ", "withheld": "withheld ", "empty_praise": "empty words instead of "}


@dataclasses.dataclass(frozen=True)
class Step:
    """Something to do next: what for, and the command; "" where there is none."""

    what: str
    command: str


def about(work: WorkFolder) -> str:
    """What was taught, on what, by which models, with which seed."""
    task = explanations.value(work.config, "task")
    trained = bool(work.config.get("iterations"))
    taught = _TAUGHT.get(str(task), f"the task {explanations.short(task)}") if task else ""
    parts = [f"Taught: {taught}" if trained and taught else f"Task: {taught}" if taught else "", _models(work),
             _documents(work) if trained else "", _held_out(work), _seed(work)]
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts if part)


def _models(work: WorkFolder) -> str:
    """Which checkpoint played which part, of those that played one."""
    feedback, scorer = (explanations.value(work.config, key) for key in ("feedback.source", "score.method"))
    done = {stage for iteration in work.iterations for stage in iteration.stages}
    played = {
        "policy": True,
        "refiner": "refine" in done and explanations.value(work.config, "refine.source") != "policy",
        "judge": "score" in done and scorer == "instruct_rm",
        "critic": "feedback" in done and feedback == "critic",
    }
    by_checkpoint: dict[str, list[str]] = {}
    for role, has_played in played.items():
        checkpoint = explanations.value(work.config, f"{role}.checkpoint")
        if has_played and checkpoint:
            by_checkpoint.setdefault(str(checkpoint), []).append(role)
    shown = [f"{tables.listed(roles)} {'the policy itself' if checkpoint == 'policy' else checkpoint}"
             for checkpoint, roles in by_checkpoint.items()]
    return "; ".join(shown)


def _documents(work: WorkFolder) -> str:
    counts = {len(i.examples) for i in work.iterations if i.number > 0 and i.examples}
    if not counts:
        return ""
    number = sum(1 for i in work.iterations if i.number > 0)
    few = f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"
    source = explanations.value(work.config, "data.source")
    feedback = explanations.value(work.config, "feedback.source")
    control = _WITHHELD.get(str(explanations.value(work.config, "feedback.control") or ""), "")
    if not any(i.rows("feedback") for i in work.iterations):
        said = ""
    else:
        said = f", {control}{_FEEDBACK.get(str(feedback), f'feedback by {explanations.short(feedback)}')}"
    each = "" if number == 1 else f" in each of {number} iterations"
    return f"{few} documents{f' of {source}' if source else ''}{each}{said}"


def _held_out(work: WorkFolder) -> str:
    count = max((len(i.rows("evaluate")) for i in work.iterations), default=0)
    return f"{count:,} held-out documents" if count else ""


def _seed(work: WorkFolder) -> str:
    seed = work.config.get("seed")
    return "" if seed is None else f"One seed, {seed}: the intervals do not cover how runs vary"


def next_steps(work: WorkFolder) -> list[Step]:
    """Where the policy is, how to use it, what shows whether feedback mattered; [] before anything is trained."""
    trained = [i.number for i in work.iterations if "finetune" in i.stages and i.stages["finetune"].complete]
    if not trained:
        return []
    place = _workdir(work)
    given = f"--workdir={shlex.quote(place)}"
    document = next((e.title or e.document for i in work.iterations for e in i.heldout.values()), "")
    asked = shlex.quote(document) if 0 < len(document) <= 60 and "\n" not in document else "'A document of yours'"
    steps = [
        Step(f"The trained policy is {place}/iteration_{trained[-1]:03d}/checkpoint. Let it write:",
             f"ilf-jax generate {given} {asked}"),
        Step("Export it for transformers or vLLM; with --format=gguf for llama.cpp or Ollama:",
             f"ilf-jax export {given} --out={shlex.quote(f'{place}_exported')}"),
    ]
    if explanations.value(work.config, "feedback.control") or methods.controls(tables.runs(work)):
        return steps
    if any(i.rows("feedback") for i in work.iterations):
        again = ("Did it matter what the feedback said? Run this configuration again with another --workdir and "
                 "--config.feedback.control=shuffled")
        all_methods = Step(f"{again}, or all methods with such controls:",
                           "ilf-jax run --config=methods --workdir=runs/methods")
        steps.append(all_methods if work.config.get("task") == "word_removal" else Step(f"{again}.", ""))
    return steps


def _workdir(work: WorkFolder) -> str:
    """As the command that started the run named it; else where the files are."""
    command = str(work.starts[-1].get("command", "")) if work.starts else ""
    try:
        words = shlex.split(command)
    except ValueError:  # cut in the middle of a quoted word
        words = []
    for word, following in itertools.pairwise([*words, ""]):
        flag, equals, given = word.lstrip("-").partition("=")
        if flag == "workdir" and (given if equals else following):
            return given if equals else following
    return str(work.path)
