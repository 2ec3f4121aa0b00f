"""What a run will take, by stage: seconds, and hours of device time, for slices of several sizes.

A stage works through its documents B at a time. On n devices, of which `tensor` share each row, a device has
r = ceil(B / (n / tensor)) rows of a batch, and the batch takes the longest of three terms of the roofline (Williams et
al. 2009), the first two divided by the share of it that our programs were seen to reach (`hardware.reached`):

    matmuls   FLOPs of r rows / tensor / peak FLOP/s / share
    memory    bytes of weights / tensor and of cache / bandwidth / share   (in each decode step; elsewhere it is less)
    links     bytes moved between devices / links' bytes/s

Generation is a prefill, and max_new_tokens (thoughts included) times a decode step; scoring is a forward pass over a
prefix and its branches; a training step is three forward passes. Links carry two activations a layer where `tensor`
splits it, forward and backward; in training, besides, gradients and, with `fsdp`, params: 3 x 4 bytes a parameter.

Texts that models write count at their longest; prompts at their mean. Not counted: compiling, loading, saving, what is
drawn once more, win rates, ranking, divergence, likelihood, baselines.
"""

import dataclasses
import math
from collections.abc import Mapping

from ilf_jax import config as config_lib
from ilf_jax.config import needed_stages
from ilf_jax.dry_run.batch_shapes import Shapes
from ilf_jax.errors import InputError
from ilf_jax.inference import model_pool
from ilf_jax.models import flops, padding
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.runtime.hardware import Chip, Reached
from ilf_jax.stages.context import uses_recorded_drafts

SLICES = (4, 8, 16, 32, 64, 128, 256)
"""Numbers of devices that are compared."""


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How many parts a batch, and a row, is split into."""

    data: int
    fsdp: int
    tensor: int

    @property
    def devices(self) -> int:
        """All of them."""
        return self.data * self.fsdp * self.tensor

    def rows(self, batch: int) -> int:
        """Rows of a batch on one device."""
        return -(-batch // (self.data * self.fsdp))


def mesh_of(config: config_lib.Config, devices: int) -> Mesh | None:
    """The mesh of config.mesh on that many devices, `data` grown or shrunk where no axis is free; None if none fits."""
    sizes = [config.mesh.data, config.mesh.fsdp, config.mesh.tensor]
    free = sizes.index(-1) if -1 in sizes else 0
    others = math.prod(size for i, size in enumerate(sizes) if i != free)
    if devices % others:
        return None
    sizes[free] = devices // others
    return Mesh(*sizes)


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The devices, and what of them may be counted on.

    Attributes:
        precision: config.precision.
    """

    chip: Chip
    reached: Reached
    mesh: Mesh
    precision: str

    @property
    def _bytes(self) -> int:
        return 2 if self.precision == "bfloat16" else 4

    def forward(self, model: ModelConfig, rows: int, tokens: float, seen: float, unembedded: float = 0.0) -> float:
        """Seconds of a forward pass over rows of that many tokens on each device."""
        work = flops.forward(model, tokens=rows * tokens, seen=seen, unembedded=rows * unembedded) / self.mesh.tensor
        return max(work / self.chip.peak(self.precision) / self.reached.forward, self._links(model, rows * tokens))

    def decode_step(self, model: ModelConfig, rows: int, prefixes: int, prefix: float, written: float) -> float:
        """Seconds of one token more in each of `rows` rows, which have `prefixes` prompts of `prefix` tokens."""
        of_token = 2 * model.num_layers * model.num_kv_heads * model.head_dim * self._bytes
        cached = (prefixes * prefix + rows * written) * of_token
        read = (flops.num_params(model) * self._bytes + cached) / self.mesh.tensor
        return max(self.forward(model, rows, 1, prefix + written, 1), read / self.chip.bandwidth / self.reached.decode)

    def generation(self, model: ModelConfig, batch: int, candidates: int, prompt: float, new_tokens: int) -> float:
        """Seconds of `candidates` samples behind each of a batch's prompts."""
        rows = self.mesh.rows(batch)
        return self.forward(model, rows, prompt, prompt / 2, 1) + new_tokens * self.decode_step(
            model, rows * candidates, rows, prompt, new_tokens / 2)

    def scoring(self, model: ModelConfig, batch: int, candidates: int, prefix: float, branch: float) -> float:
        """Seconds of a batch of prefixes with a branch for each candidate."""
        rows = self.mesh.rows(batch)
        return self.forward(model, rows, prefix, prefix / 2) + self.forward(
            model, rows * candidates, branch, prefix + branch / 2)

    def training_step(self, model: ModelConfig, micro_batches: int, rows: int, length: float, targets: float) -> float:
        """Seconds of a step over `micro_batches` of that many rows, of all devices together."""
        each = micro_batches * self.mesh.rows(rows)
        work = flops.training(model, tokens=each * length, seen=length / 2, targets=each * targets) / self.mesh.tensor
        shards = self.mesh.data * self.mesh.fsdp
        gradients = 3 * 4 * flops.num_params(model) / self.mesh.tensor / self.chip.link if shards > 1 else 0.0
        return max(work / self.chip.peak(self.precision) / self.reached.train,
                   gradients + 2 * self._links(model, each * length))

    def _links(self, model: ModelConfig, tokens: float) -> float:
        if self.mesh.tensor == 1:
            return 0.0
        return 2 * 2 * model.num_layers * tokens * model.hidden_size * self._bytes / self.chip.link


def stages(
    config: config_lib.Config, models: Mapping[str, ModelConfig], shapes: Shapes, documents: int, held_out: int,
    roofline: Roofline,
) -> dict[str, float]:
    """Seconds of each stage, of all iterations together, in the order in which they run.

    Args:
        models: of policy, refiner and judge; of critic and reward model where the run has them. Stages of models that
            are missing, behind an endpoint say, are left out.
        shapes: of the largest batches; `shapes.typical` says how much shorter prompts are in the mean.
        documents: of an iteration.
        held_out: documents that are evaluated on.
    """
    needed, K, N = needed_stages(config), config.iterations, config.refine.num_candidates
    prompt, policy_prompt, prefix = (
        shapes.typical * n for n in (shapes.prompt, shapes.policy_prompt or shapes.prompt, shapes.prefix))

    def batches(count: int, size: int) -> int:
        return -(-count // size)

    def generation(part: str, count: int, size: int, candidates: int, tokens: float, new_tokens: int) -> float:
        size = padding.batch_size(size, count)
        return batches(count, size) * roofline.generation(
            models[part], size, candidates, tokens, new_tokens + getattr(config, part).thinking_tokens)

    seconds: dict[str, float] = {}
    if "draft" in needed and not uses_recorded_drafts(config):
        seconds["draft"] = K * generation("policy", documents, config.draft.batch_size, 1, policy_prompt,
                                          config.draft.max_new_tokens)
    if "feedback" in needed and "critic" in models:
        seconds["feedback"] = K * generation("critic", documents, config.feedback.batch_size, 1, prompt,
                                             config.feedback.max_new_tokens)
    if "refine" in needed and "refiner" in models:
        seconds["refine"] = K * generation("refiner", documents, config.refine.batch_size, N, prompt,
                                           config.refine.max_new_tokens)
    if "score" in needed and config.score.method == "instruct_rm" and "judge" in models:
        seconds["score"] = K * batches(shapes.groups * documents, config.score.batch_size) * roofline.scoring(
            models["judge"], config.score.batch_size, N, prefix, shapes.branch)
    elif "score" in needed and "reward_model" in models:
        seconds["score"] = K * batches(documents, config.score.batch_size) * roofline.scoring(
            models["reward_model"], config.score.batch_size, N, policy_prompt, config.refine.max_new_tokens)
    if K:
        # With data='cumulative' an iteration learns from those before, too.
        learned = documents * (K * (K + 1) // 2 if config.finetune.data == "cumulative" else K)
        length = shapes.row if config.finetune.packing else shapes.typical * shapes.row
        of_packed = shapes.typical if config.finetune.packing else 1.0
        steps = config.finetune.epochs * batches(learned, config.finetune.batch_size)
        seconds["finetune"] = steps * of_packed * roofline.training_step(
            models["policy"], shapes.accumulation, shapes.rows, length, shapes.targets)
    if held_out:
        settings = config.evaluate
        seconds["evaluate"] = (1 + K) * generation("policy", held_out, settings.batch_size, 1, policy_prompt,
                                                   settings.max_new_tokens)
        if settings.best_of_n > 1 and "reward_model" in models:
            drawn = max(1, settings.batch_size // settings.best_of_n)
            seconds["best_of_n"] = (1 + K) * (
                generation("policy", held_out, drawn, settings.best_of_n, policy_prompt, settings.max_new_tokens)
                + batches(held_out, drawn) * roofline.scoring(
                    models["reward_model"], drawn, settings.best_of_n, policy_prompt, settings.max_new_tokens))
    return seconds


def other_models(config: config_lib.Config) -> dict[str, ModelConfig]:
    """The critic and the reward model, where they are models that can be looked up before the run."""
    names = [name for name, used in (
        ("critic", config.feedback.source == "critic"),
        ("reward_model", config.score.method == "reward_model" or config.evaluate.best_of_n > 1)) if used]
    found = {}
    for name in names:
        uri = getattr(config, name).checkpoint
        try:
            found[name] = model_pool.read_model_config(config.policy.checkpoint if uri == "policy" else uri)
        except InputError:  # of a topology's dry run, whose checkpoints may be elsewhere
            continue
    return found


def rows(
    config: config_lib.Config, models: Mapping[str, ModelConfig], shapes: Shapes, documents: int, held_out: int,
    chip: Chip, reached: Reached, slices: tuple[int, ...],
) -> tuple[list[str], list[list[str]]]:
    """A table: a row for each number of devices that config.mesh can be laid over, a column for each stage."""
    names: list[str] = []
    table = []
    for count in slices:
        mesh = mesh_of(config, count)
        if mesh is None or any(model.num_heads % mesh.tensor or model.intermediate_size % mesh.tensor
                               for model in models.values()):
            continue
        seconds = stages(config, models, shapes, documents, held_out,
                         Roofline(chip, reached, mesh, config.precision))
        names, total = list(seconds), sum(seconds.values())
        table.append([str(count), f"{mesh.data}, {mesh.fsdp}, {mesh.tensor}", *map(_short, seconds.values()),
                      _short(total), f"{total * count / 3600:.3g}"])
    return ["devices", "data, fsdp, tensor", *(f"{name}, s" for name in names), "all, s", "device hours"], table


def _short(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 1000 else f"{seconds:.0f}"
