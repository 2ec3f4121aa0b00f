"""What to change if a step does not fit: config changes with the memory each saves, largest first."""

from ilf_jax import config as config_lib
from ilf_jax.dry_run.batch_shapes import Shapes
from ilf_jax.dry_run.compiled_steps import Step
from ilf_jax.models.placement import Placement


def changes(config: config_lib.Config, placement: Placement, shapes: Shapes, step: Step, count: int = 3) -> list[str]:
    """The most effective config changes, each with a rough estimate of the memory it saves per device.

    Args:
        config: the run's config.
        placement: placement of the step's model.
        shapes: array sizes of the steps.
        step: the step that does not fit.
        count: number of changes to return at most.
    """
    if step.name == "finetune":
        options = _for_training(config, placement, shapes, step)
    else:
        options = _for_inference(config, placement, step)
    if step.other_models:
        one_checkpoint = ("one checkpoint for refiner, judge and policy: set config.refiner.checkpoint and "
                          "config.judge.checkpoint to config.policy.checkpoint")
        options.append((step.other_models, one_checkpoint))
    best = sorted(options, key=lambda option: -option[0])[:count]
    return [f"{text} (saves about {saved / 2**30:.1f} GiB)" for saved, text in best if saved > 0]


def _for_training(
    config: config_lib.Config, placement: Placement, shapes: Shapes, step: Step
) -> list[tuple[float, str]]:
    """(bytes saved, change) of each option."""
    settings, mesh = config.finetune, placement.mesh.shape
    options = []
    if mesh["data"] > 1:
        options.append((step.arguments * (1 - 1 / mesh["data"]),
                        f"--config.mesh.data=1 --config.mesh.fsdp={mesh['fsdp'] * mesh['data']}: shards params, "
                        "gradients and Adam's state over more devices"))
    options.append((step.arguments / 2, "twice the devices, with twice the --config.mesh.fsdp"))
    if settings.remat != "full":
        share = 0.8 if settings.remat == "none" else 0.5
        options.append((share * step.temporaries, "--config.finetune.remat=full: recomputes activations"))
    if shapes.rows > placement.batch_shards:
        options.append((0.4 * step.temporaries, f"--config.finetune.accumulation={2 * shapes.accumulation}: smaller "
                                                "micro-batches"))
    if not settings.lora_rank:
        options.append((0.7 * step.arguments, "--config.finetune.lora_rank=16: Adam state for the adapters only"))
    return options


def _for_inference(config: config_lib.Config, placement: Placement, step: Step) -> list[tuple[float, str]]:
    """(bytes saved, change) of each option."""
    settings = config.refine if step.name == "refine" else config.score
    options = []
    if settings.batch_size > placement.batch_shards:
        options.append((step.temporaries / 2, f"--config.{step.name}.batch_size={settings.batch_size // 2}"))
    tensor = placement.mesh.shape["tensor"]
    if placement.model.num_heads % (2 * tensor) == 0:
        options.append(((step.arguments + step.temporaries) / 2,
                        f"--config.mesh.tensor={2 * tensor}: shards weights and caches over more devices"))
    if config.precision == "float32":
        options.append(((step.arguments + step.temporaries) / 2, "--config.precision=bfloat16"))
    if step.name == "refine":
        fewer = max(1, config.refine.num_candidates // 2)
        options.append((step.temporaries / 4, f"--config.refine.num_candidates={fewer}"))
    return options
