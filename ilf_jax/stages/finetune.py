"""Finetune: maximise log pi_theta(x1 | c) over the picked texts."""

from collections.abc import Callable, Sequence

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.inference import likelihoods, model_pool
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.records import Example
from ilf_jax.runtime import performance
from ilf_jax.stages import context as run_lib
from ilf_jax.stages import targets
from ilf_jax.tasks.task import Task
from ilf_jax.training import loop, objectives, packing


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
    trained = train(run, part, examples)
    saved = loop.save_model(run, run.workdir.checkpoint(run.iteration), lm, trained.params)
    metrics = [
        run.metric("finetune", "loss", trained.loss), run.metric("finetune", "steps", trained.steps),
        run.metric("finetune", "examples", len(pairs)),
        run.metric("finetune", "target_tokens", sum(e.num_targets for e in examples)),
        *run.summarise("finetune", numbers),
    ]
    cost = meter.cost(trained.work, run.config.precision)

    def complete() -> None:
        saved.result()
        folder.finish(shards=1, count=len(pairs), cost=cost, metrics=metrics)
        tidy(run)

    return complete


def train(run: run_lib.Run, part: str, examples: Sequence[packing.TrainingExample]) -> loop.Trained:
    """Trains from the params of `part` ("policy" or "base"), see `training.train`."""
    lm, settings = run.roles.without_params(part), run.config.finetune
    objective = objectives.NextTokenLoss(lm.architecture, lm.compute, settings.remat)
    return loop.train(run, "finetune", settings, part, lm, objective, examples)


def tidy(run: run_lib.Run) -> None:
    """Deletes the states of a training that is complete; a kill may have come before that."""
    loop.tidy(run, "finetune")


def training_example(
    settings: config_lib.Finetune, task: Task, lm: LanguageModel, example: Example, completion: str,
    weight: float = 1.0,
) -> packing.TrainingExample:
    """Token ids and loss weights of one pair; a document that leaves no room is shortened, the completion never.

    Raises:
        InputError: prompt and completion do not fit into config.finetune.max_length even so.
    """
    limit = min(settings.max_length, lm.architecture.max_positions)
    room = len(lm.tokenizer.encode(completion)) + 2
    while True:
        prompt = loop.encode_prompt(lm, example.id, task.policy_prompt(example), room, "finetune", settings)
        made = packing.training_example(
            prompt.ids, lm.continuation(prompt, completion), lm.end_id,
            prompt_weight=settings.prompt_loss_weight, scale=weight,
        )
        if len(made) <= limit:
            return made
        room += len(made) - limit  # the completion took more tokens behind its prompt than by itself
