"""ILF, imitation learning from language feedback, in JAX.

    import ilf_jax
    config = ilf_jax.base_config()
    config.data.source = "jsonl:reviews.jsonl"
    result = ilf_jax.run(config, "runs/reviews")
    print(result.metrics[-1], result.report)
    outputs = ilf_jax.load("runs/reviews").generate(["A document."], n=4)

Importing this loads no jax; what needs it does so when it is called.
"""

import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from ilf_jax.config import Config, base_config
from ilf_jax.errors import InputError
from ilf_jax.registry import register
from ilf_jax.version import __version__

if TYPE_CHECKING:
    from ilf_jax.policy.run_result import RunResult
    from ilf_jax.policy.trained_policy import Policy

__all__ = ["InputError", "__version__", "base_config", "load", "register", "run"]

# Argument of `run` -> (kind of registry, the config key that chooses from it).
_OWN_CODE = {"reward": ("scorer", "score.method"), "feedback": ("feedback", "feedback.source"),
             "task": ("task", "task"), "objective": ("objective", "finetune.objective")}


def run(
    config: Config | Mapping[str, Any], workdir: str | pathlib.Path, *, reward: Callable[..., Any] | None = None,
    feedback: Callable[..., Any] | None = None, task: Any = None, objective: Any = None,
    allow_change: Collection[str] = (), on_metrics: Callable[[list[dict[str, Any]]], Any] | None = None,
) -> "RunResult":
    """Runs, or resumes, a whole ILF run.

    Args:
        config: start from `base_config()`.
        workdir: the run's folder; created if need be.
        reward: `reward(document, draft, feedback, refinement) -> float`, which picks refinements in place of
            config.score.method. With parameters named `documents, drafts, feedbacks, refinements` it takes lists and
            returns a list.
        feedback: `feedback(document, draft) -> str`, in place of config.feedback.source; lists likewise.
        task: a Task, or a class or function that makes one, in place of config.task.
        objective: an Objective class, or a function, in place of config.finetune.objective.
        allow_change: sections of the config, or keys, in which a resumed run may differ from what `workdir` holds, as
            long as no stage that reads them has begun: ("finetune",) for example. The change is noted in
            `workdir`/changes.jsonl.
        on_metrics: is called with the new lines of metrics.jsonl whenever a stage is complete; those of a baseline
            also have its name, as `baseline`. A resumed run calls it with what it has not been called with; only a
            process killed during a call repeats that one. Of several processes, process 0 calls it.

    Returns:
        The metrics, and where policy, checkpoints and report are.

    Raises:
        InputError: bad input of any kind, an exception in code of yours included; nothing that was written is lost.
    """
    from ilf_jax import config as config_lib
    from ilf_jax.entry import early_checks
    from ilf_jax.runtime import storage

    if not isinstance(config, Config):
        config = config_lib.read(config)
    own_code = {"reward": reward, "feedback": feedback, "task": task, "objective": objective}
    choices = {}
    for argument, target in own_code.items():
        if target is not None:
            kind, key = _OWN_CODE[argument]
            name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', type(target).__qualname__)}"
            register(kind, name, target)
            choices[key] = name
    config = config_lib.with_overrides(config, choices)
    early_checks.check(config)
    from ilf_jax import ilf  # loads jax, so after what can be checked without
    from ilf_jax.policy import run_result

    metrics = ilf.run(config, workdir, allow_change=allow_change, on_metrics=on_metrics)
    return run_result.of(storage.path(workdir), metrics, config.iterations, list(config.baselines or {}))


def load(workdir: str | pathlib.Path, iteration: int | None = None, baseline: str = "") -> "Policy":
    """The policy that a run has trained; its method `generate(documents, n)` writes outputs.

    Args:
        workdir: the run's folder.
        iteration: after which; 0 is the policy before training. None: the last one that is finished.
        baseline: name of a baseline of the run, whose policy is meant instead.

    Raises:
        InputError: it is not a work folder, there is no such baseline, or the iteration has no checkpoint.
    """
    from ilf_jax.policy import finished

    found = finished.find(workdir, iteration, baseline)
    from ilf_jax.policy import trained_policy  # loads jax, so after what can be checked without

    return trained_policy.of(found)
