"""Algorithm 1 (Scheurer et al. 2023): K iterations of draft, feedback, refine, score, finetune and evaluate.

Each call runs one stage over all documents and returns its records; finetuning leaves a checkpoint. A stage that is
complete is not run again: a run that was stopped resumes where its files end, see `ilf_jax.stages.context`. While the
checkpoint is being written the evaluation is under way; finetuning is complete, and the evaluation's first record
written, once the checkpoint is on the disk.

The path of one document: `stages/draft`, `stages/feedback`, `stages/refine` and `stages/score` turn it into records on
disk; `stages/finetune` turns the picked text into token ids (`inference/training_texts`); `training/loop` batches them
and takes the steps (`steps/finetune_step`); `inference/trained_model` has `runtime/checkpoint` write the params.
"""

import contextlib
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from ilf_jax import config as config_lib
from ilf_jax import setting_up
from ilf_jax.runtime import told
from ilf_jax.setting_up import Method
from ilf_jax.stages.best_of_n import best_of_n
from ilf_jax.stages.draft import draft
from ilf_jax.stages.evaluate import evaluate
from ilf_jax.stages.feedback import give_feedback
from ilf_jax.stages.finetune import IterationRecords, finetune
from ilf_jax.stages.rank import rank
from ilf_jax.stages.refine import refine
from ilf_jax.stages.reward import train_reward_model
from ilf_jax.stages.score import score


def run(
    config: config_lib.Config | ml_collections.ConfigDict | Mapping[str, Any], workdir: str | pathlib.Path,
    profiled_steps: int = 0, allow_change: Collection[str] = (), on_metrics: told.Listener | None = None,
) -> list[dict[str, Any]]:
    """Runs, or resumes, a whole ILF run and the baselines beside it.

    Args:
        config: see `ilf_jax.config`; start from `base_config()`.
        workdir: the run's folder; created if need be.
        profiled_steps: training steps to record a profile of, in `workdir`/profile.
        allow_change: sections of the config, or keys, in which a resumed run may differ from what `workdir` holds, as
            long as no stage that reads them has begun.
        on_metrics: is called with the new lines of metrics.jsonl whenever a stage is complete, on process 0.

    Returns:
        The lines of metrics.jsonl.

    Raises:
        InputError: bad input of any kind; nothing that was written is lost.
        WaitingError: people have yet to write feedback.
    """
    with setting_up.set_up(config, workdir, profiled_steps, allow_change, on_metrics) as setup:
        if setup.comparisons is not None:
            train_reward_model(setup.run.before_training(), setup.comparisons)
        with contextlib.closing(setup.methods()) as methods:
            for method in methods:
                learn(method)
        if setup.run.config.evaluate.rank:
            rank(setup.run.after_training(), setup.systems())
        return setup.report()


def learn(method: Method) -> None:
    """Algorithm 1 for one configuration: the run's own, or that of a baseline."""
    context = method.before_training()
    initial = evaluate(context)
    best_of_n(context)
    history: list[IterationRecords] = []
    for k in range(1, method.config.iterations + 1):
        context = method.begin_iteration(k)
        drafts = draft(context)
        feedback = give_feedback(context, drafts)
        context = context.with_feedback(feedback)
        candidates = refine(context, drafts, feedback)
        scored = score(context, drafts, feedback, candidates)
        history.append(IterationRecords(context.examples, drafts, feedback, candidates, scored))
        with finetune(context, history) as saved:  # complete once the checkpoint is on disk, at the latest when left
            trained = method.with_policy(k)
            evaluate(trained, initial, saved)
            best_of_n(trained, initial)
        method.delete_old_checkpoints(k)
