"""Which row lengths a pass over texts is worth compiling programs for, on the devices at hand."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax

from ilf_jax.models import flops, kernels, layer_stack, padding
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.compute import ComputeOptions
from ilf_jax.models.padding import MOST_PROGRAMS
from ilf_jax.runtime import hardware, progress


@dataclasses.dataclass(frozen=True)
class RowPlanner:
    """Weighs padding against compiling, for one model on one kind of device.

    What it says follows from the texts, the configuration and the kind of device, so that a resumed run pads alike.

    Attributes:
        model: its architecture.
        device: one of those that compute it.
        compute: precision and kernels.
    """

    model: ModelConfig
    device: jax.Device
    compute: ComputeOptions

    @property
    def multiple(self) -> int:
        """Row lengths are multiples of this."""
        return max(hardware.programs(self.device).row_multiple, kernels.row_multiple(self.compute.attention))

    @property
    def program_tokens(self) -> float:
        """Tokens that could be computed while a program compiles."""
        costs = hardware.programs(self.device)
        rate = costs.flops * (self.compute.num_devices if costs.together else 1)
        layers = layer_stack.compiled_layers(self.model) if self.compute.scans else self.model.num_layers
        return (layers + costs.beside) * costs.layer_seconds * rate / (2 * flops.num_params(self.model))

    def bucket(self, length: int) -> int:
        """The row length for `length` tokens where nothing is known of other rows."""
        return padding.bucket(length, self.multiple)

    def row_lengths(
        self, lengths: Iterable[int], share: float = 1.0, *, most: int = MOST_PROGRAMS, each: int = 1,
        purpose: str = "",
    ) -> tuple[int, ...]:
        """What rows of these lengths are padded to; the smaller the model, the fewer lengths are worth a program.

        Args:
            lengths: tokens of each row.
            share: part of all rows that these are.
            most: programs that there may be.
            each: programs for each length.
            purpose: what the rows are for; logged with what was chosen.
        """
        lengths = list(lengths)
        chosen = padding.row_lengths(lengths, share * each * self.program_tokens, most=max(1, most // each),
                                     multiple=self.multiple)
        if purpose and chosen:
            self._say(purpose, each * len(chosen), f"rows of {_listed(chosen)} tokens", [(lengths, chosen)])
        return chosen

    def paired_row_lengths(
        self, first: Iterable[int], second: Iterable[int], share: float = 1.0, *, most: int = MOST_PROGRAMS,
    ) -> tuple[float, tuple[int, ...], tuple[int, ...]]:
        """As `row_lengths`, for programs that take rows of two kinds; and what all of it costs, in tokens.

        Rows of the second kind are not for a kernel, and have any length.
        """
        return padding.paired_row_lengths(first, second, share * self.program_tokens, most=most,
                                          multiple=self.multiple)

    def say_pairs(
        self, purpose: str, first: tuple[Sequence[int], tuple[int, ...]], second: tuple[Sequence[int], tuple[int, ...]],
        names: tuple[str, str],
    ) -> None:
        """Logs what `paired_row_lengths` chose: of either kind the rows' lengths and those that they are padded to."""
        kinds = " by ".join(f"{name} of {_listed(chosen)}" for name, (_, chosen) in zip(names, (first, second),
                                                                                       strict=True))
        self._say(purpose, len(first[1]) * len(second[1]), f"{kinds} tokens", [first, second])

    def _say(
        self, purpose: str, count: int, rows: str, padded: Sequence[tuple[Sequence[int], tuple[int, ...]]]
    ) -> None:
        real = sum(map(sum, (lengths for lengths, _ in padded)))
        total = sum(padding.row_length(length, chosen) for lengths, chosen in padded for length in lengths)
        programs = "1 program" if count == 1 else f"up to {count} programs"
        progress.log(f"{purpose}: {programs}, {rows}; {1 - real / total:.0%} of the tokens are padding, and one more "
                     f"program costs as much as {self.program_tokens:,.0f} tokens")


def _listed(lengths: Sequence[int]) -> str:
    """'128', '128 and 640', '128, 256 and 640'."""
    *others, last = map(str, lengths)
    return f"{', '.join(others)} and {last}" if others else last
