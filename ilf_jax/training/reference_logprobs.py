"""Log-probabilities under a fixed reference, computed once per example instead of once per step."""

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.models import padding
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.placement import Placement
from ilf_jax.models.row_planner import RowPlanner
from ilf_jax.models.transformer import Params
from ilf_jax.runtime import distributed, files, performance, storage
from ilf_jax.training import packing
from ilf_jax.training.objectives import sequence_logprobs

# The stage compiles training's programs beside these.
_PROGRAMS = 2
_CURE = "delete it to compute it again"


def compute(
    architecture: ModelConfig, params: Params, examples: Sequence[packing.TrainingExample], *, placement: Placement,
    options: ComputeOptions, batch_size: int,
) -> list[np.ndarray]:
    """For each example, the log-probability of each of its predicted tokens, in nats, float32.

    Goes into `TrainingExample.reference_logprobs`.

    Args:
        architecture: of the reference.
        params: of the reference.
        examples: one a row.
        placement: where the reference lies.
        options: precision and kernels.
        batch_size: examples a batch.
    """
    program = placement.jit(sequence_logprobs, static_argnames=("config", "compute"))
    logprobs = [np.zeros(0, np.float32)] * len(examples)
    rows = placement.padded(batch_size)
    planner = RowPlanner(architecture, placement.mesh.devices.flat[0], options)
    _, row_lengths, target_lengths = planner.paired_row_lengths(
        map(len, examples), (e.num_targets for e in examples), most=_PROGRAMS)
    for indices in padding.batches_by_length([len(e) for e in examples], batch_size):
        group = [examples[i] for i in indices]
        batch = packing.assemble(
            group, [[i] for i in range(len(group))], num_rows=rows,
            row_length=padding.row_length(max(map(len, group)), row_lengths),
            num_targets=padding.row_length(max(e.num_targets for e in group), target_lengths),
        )
        logprobs_RxT = performance.fetch(program(architecture, params, placement.batch(batch), compute=options))
        for row, i in enumerate(indices):
            logprobs[i] = logprobs_RxT[row, : examples[i].num_targets]
    return logprobs


def attach(
    path: storage.Path, examples: Sequence[packing.TrainingExample], compute_all: Callable[[], list[np.ndarray]]
) -> list[packing.TrainingExample]:
    """The examples with their `reference_logprobs`, which are read from a file if an earlier process wrote them.

    Args:
        path: the file, one line of JSON for each example.
        examples: in the order of the file.
        compute_all: see `compute`; called where there is no file.

    Raises:
        InputError: the file is about other examples.
    """
    if distributed.on_main(path.exists):
        rows = _read(path)
        if [len(row) for row in rows] != [example.num_targets for example in examples]:
            raise InputError(f"{path}: does not belong to these training examples; {_CURE}")
    else:
        rows = compute_all()
        unknown = next((i for i, row in enumerate(rows) if not np.isfinite(row).all()), None)
        if unknown is not None:
            raise InputError(f"finetune: the log-probability of training example {unknown} under the reference is not "
                             "finite: check the policy's weights and config.precision")
        text = "".join(json.dumps(row.tolist()) + "\n" for row in rows)
        distributed.on_main(lambda: files.write_lines(path, text))
    return [dataclasses.replace(example, reference_logprobs=row) for example, row in zip(examples, rows, strict=True)]


def _read(path: storage.Path) -> list[np.ndarray]:
    lines = distributed.on_main(lambda: [line.decode() for line in files.read_lines(path, _CURE) if line])
    try:
        rows = [np.array(json.loads(line), np.float32) for line in lines]
    except (ValueError, TypeError, RecursionError) as e:
        raise InputError(f"{path}: is damaged ({e}); {_CURE}") from e
    if not all(row.ndim == 1 and np.isfinite(row).all() for row in rows):
        raise InputError(f"{path}: is damaged: a line is no list of finite numbers; {_CURE}")
    return rows
