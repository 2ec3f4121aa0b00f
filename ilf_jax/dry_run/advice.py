"""What to change where a step does not fit: estimates of the memory that each change saves, largest first."""

from ilf_jax import config as config_lib
from ilf_jax.dry_run.batch_shapes import Shapes
from ilf_jax.dry_run.compiled_steps import Step
from ilf_jax.models.placement import Placement


def changes(config: config_lib.Config, placement: Placement, shapes: Shapes, step: Step, count: int = 3) -> list[str]:
    """The most effective changes of the configuration, with the bytes that each saves a device, roughly.

    Args:
        placement: of the step's model.
    """
    found = _training(config, placement, shapes, step) if step.name == "finetune" else _reading(config, placement, step)
    if step.held:
        found.append((step.held, "one checkpoint for refiner, judge and policy: config.refiner.checkpoint and "
                                 "config.judge.checkpoint as config.policy.checkpoint"))
    best = sorted(found, key=lambda change: -change[0])[:count]
    return [f"{text} (about {saved / 2**30:.1f} GiB less)" for saved, text in best if saved > 0]


def _training(config: config_lib.Config, placement: Placement, shapes: Shapes, step: Step) -> list[tuple[float, str]]:
    settings, mesh = config.finetune, placement.mesh.shape
    found = []
    if mesh["data"] > 1:
        found.append((step.arguments * (1 - 1 / mesh["data"]),
                      f"--config.mesh.data=1 --config.mesh.fsdp={mesh['fsdp'] * mesh['data']}: params, gradients and "
                      "Adam's state split further"))
    found.append((step.arguments / 2, "twice the devices, as more --config.mesh.fsdp"))
    if settings.remat != "full":
        share = 0.8 if settings.remat == "none" else 0.5
        found.append((share * step.temporaries, "--config.finetune.remat=full: activations computed again"))
    if shapes.rows > placement.batch_shards:
        found.append((0.4 * step.temporaries, f"--config.finetune.accumulation={2 * shapes.accumulation}: smaller "
                                              "micro-batches"))
    if not settings.lora_rank:
        found.append((0.7 * step.arguments, "--config.finetune.lora_rank=16: no Adam state for the params themselves"))
    return found


def _reading(config: config_lib.Config, placement: Placement, step: Step) -> list[tuple[float, str]]:
    settings = config.refine if step.name == "refine" else config.score
    found = []
    if settings.batch_size > placement.batch_shards:
        found.append((step.temporaries / 2, f"--config.{step.name}.batch_size={settings.batch_size // 2}"))
    tensor = placement.mesh.shape["tensor"]
    if placement.model.num_heads % (2 * tensor) == 0:
        found.append(((step.arguments + step.temporaries) / 2,
                      f"--config.mesh.tensor={2 * tensor}: weights and caches split further"))
    if config.precision == "float32":
        found.append(((step.arguments + step.temporaries) / 2, "--config.precision=bfloat16"))
    if step.name == "refine":
        fewer = max(1, config.refine.num_candidates // 2)
        found.append((step.temporaries / 4, f"--config.refine.num_candidates={fewer}"))
    return found
