"""Finetune: maximise log pi_theta(x1 | c) over the picked texts."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.inference import likelihoods, model_pool, trained_model, training_texts
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.records import Example, Target
from ilf_jax.runtime import performance
from ilf_jax.stages import context as run_lib
from ilf_jax.stages import targets
from ilf_jax.tasks.task import Task
from ilf_jax.training import loop, objectives, packing, reference_logprobs


def check(config: config_lib.Config) -> None:
    """Raises InputError if config.finetune asks for what the policy has not. Reads the checkpoint's header only."""
    loop.check("finetune", config.finetune, model_pool.read_model_config(config.policy.checkpoint))


def run(run: run_lib.Run, examples_of: dict[int, tuple]) -> Callable[[], None]:
    """Writes the training pairs, trains, and begins to write the params.

    Args:
        examples_of: the examples of this iteration and of those before it.

    Returns:
        Waits until the params are written, and completes the stage. The stage's cost does not hold that wait: who has
        nothing better to do meanwhile counts it.
    """
    folder, settings = run.folder("finetune"), run.config.finetune
    folder.begin()
    meter = performance.Meter()
    first = 1 if settings.data == "cumulative" else run.iteration
    learnt_from = range(first, run.iteration + 1)
    pairs = [pair for k in learnt_from for pair in targets.of_iteration(run, k, examples_of[k])]
    if not pairs:
        raise InputError(f"iteration {run.iteration}: every text to imitate is empty, there is nothing to learn from")
    folder.write_shard(0, 1, pairs)
    part = "policy" if settings.init == "previous" else "base"
    lm = run.roles.without_params(part)
    by_id = {e.id: e for k in learnt_from for e in examples_of[k]}
    examples = [training_example(settings, run.task, lm, by_id[pair.id], pair.completion, pair.weight)
                for pair in pairs]
    numbers = []
    if run.config.evaluate.target_nll:
        texts = [(by_id[pair.id], pair.completion) for pair in pairs]
        numbers.append(likelihoods.nll(run.task, run.roles.get("base"), "target_nll_before_training", texts))
        if part != "base":
            run.roles.forget("base")  # nothing is held beside the optimizer's state
    if objectives.BUILT_IN[settings.objective].reference == "logprobs":
        examples = _with_reference_logprobs(run, part, examples)
    trained = train(run, part, examples)
    wait = trained_model.save(run.roles, run.workdir.checkpoint(run.iteration), lm, trained.params)
    metrics = [
        run.metric("finetune", "loss", trained.loss), run.metric("finetune", "steps", trained.steps),
        run.metric("finetune", "examples", len(pairs)),
        run.metric("finetune", "target_tokens", sum(e.num_targets for e in examples)),
        *run.summarise("finetune", numbers),
    ]
    cost = meter.cost(trained.work, run.config.precision)

    def complete() -> None:
        wait()
        folder.finish(shards=1, count=len(pairs), cost=cost, metrics=metrics)
        tidy(run)

    return complete


def _with_reference_logprobs(
    run: run_lib.Run, part: str, examples: list[packing.TrainingExample]
) -> list[packing.TrainingExample]:
    """Under the model that training starts from; kept with the stage's records, so that a resumed run has the same."""

    def compute_all() -> list[np.ndarray]:
        lm = run.roles.get(part)
        return reference_logprobs.compute(
            lm.architecture, lm.params, examples, placement=lm.placement, options=lm.compute,
            batch_size=run.config.finetune.batch_size)

    return reference_logprobs.attach(run.folder("finetune").path / "reference_logprobs.jsonl", examples, compute_all)


def train(run: run_lib.Run, part: str, examples: Sequence[packing.TrainingExample]) -> loop.Trained:
    """Trains from the params of `part` ("policy" or "base"), see `loop.train`."""
    lm, settings = run.roles.without_params(part), run.config.finetune
    objective = objectives.BUILT_IN[settings.objective].make(lm.architecture, lm.compute, settings)
    trainer = loop.Trainer(
        section="finetune", settings=settings, placement=lm.placement, compute=lm.compute, seed=run.config.seed,
        iteration=run.iteration, folder=run.folder("finetune").path, checkpointing=run.config.checkpoint,
        profile=performance.Profile(run.workdir.path / "profile", run.profiled_steps),
    )
    return loop.train(trainer, objective, functools.partial(run.roles.take, part), examples)


def tidy(run: run_lib.Run) -> None:
    """Deletes the states of a training that is complete; a kill may have come before that."""
    loop.delete_states(run.folder("finetune").path)


def training_example(
    settings: config_lib.Finetune, task: Task, lm: LanguageModel, example: Example, completion: str,
    weight: float = 1.0,
) -> packing.TrainingExample:
    """Token ids and loss weights of one pair; a document that leaves no room is shortened, the completion never.

    Args:
        settings: how the model is trained.
        task: gives the prompt.
        lm: whose tokens and template.
        example: the document.
        completion: what to imitate.
        weight: of its loss.

    Raises:
        InputError: prompt and completion do not fit into config.finetune.max_length even so.
    """
    prompt = task.policy_prompt(example)

    def encode(texts: Sequence[str]) -> list[packing.TrainingExample]:
        return training_texts.encode_texts(
            lm, example.id, prompt, texts, "finetune", settings, settings.prompt_loss_weight)

    target = Target(example.id, prompt.text, completion, settings.target, weight)
    made = objectives.BUILT_IN[settings.objective].training_example(target, encode)
    return dataclasses.replace(made, document=example.document)
