"""Texts that models have written and that leave no room in the next model's prompt: config.data.too_long rules.

What the data hold is checked before the run (`ilf_jax.preflight`); what models write is known only when it is there.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from ilf_jax.errors import TooLongError
from ilf_jax.evaluation import statistics
from ilf_jax.inference.fitting import longest_that
from ilf_jax.runtime import progress

D = TypeVar("D")
T = TypeVar("T")

LEFT_OUT = "too_long"
"""Source of a Feedback that was not asked for, because the draft does not fit."""


class WrittenTexts:
    """Fits prompts about written texts, for one stage, and counts those that were too long."""

    def __init__(self, stage: str, policy: str) -> None:
        """`policy`: config.data.too_long."""
        self._stage, self._policy = stage, policy
        self._reasons: dict[Hashable, str] = {}
        self._seen: set[Hashable] = set()

    def fit(self, example_id: str, texts: Sequence[str], encode: Callable[..., T]) -> T | None:
        """What `encode` makes of the texts; where they are too long, of shorter ones, or None to leave them out.

        Args:
            example_id: of the document.
            texts: what models have written about it.
            encode: takes them as arguments; raises TooLongError.

        Raises:
            TooLongError: they are too long, and config.data.too_long is 'stop'.
        """
        self._seen.add(example_id)
        try:
            return encode(*texts)
        except TooLongError as e:
            if self._policy == "stop":
                raise TooLongError(
                    f"{e}; some of it models have written. To go on from here, set config.data.too_long to 'skip' or "
                    "'truncate', with --allow_change=data.too_long") from e
            self._reasons[example_id] = str(e)
        return self._of_shorter(list(texts), encode) if self._policy == "truncate" else None

    @staticmethod
    def _of_shorter(texts: list[str], encode: Callable[..., T]) -> T | None:
        """Cuts the longest text, then the next, by no more than it takes; None if all of it does not help."""

        def made(i: int, text: str) -> T | None:
            try:
                return encode(*texts[:i], text, *texts[i + 1 :])
            except TooLongError:
                return None

        for i in sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: -len(texts[i])):

            def fits(text: str, i: int = i) -> bool:
                return made(i, text) is not None

            texts[i] = longest_that(fits, texts[i]) or texts[i].split()[0][:8]
            found = made(i, texts[i])
            if found is not None:
                return found
        return None

    def metrics(
        self, documents: Iterable[D], key: Callable[[D], str], encode: Callable[[D], object]
    ) -> list[statistics.Metric]:
        """How many documents were too long, if any were; logs it.

        Args:
            documents: all of the stage; those that an earlier process has worked on are encoded once more.
            key: their ids.
            encode: calls `fit`.
        """
        if self._policy == "stop":
            return []
        for document in documents:
            if key(document) not in self._seen:
                encode(document)
        if not self._reasons:
            return []
        progress.log(f"{self._stage}: texts about {len(self._reasons)} documents are too long and "
                     f"{'left out' if self._policy == 'skip' else 'cut'}: config.data.too_long={self._policy!r}; the "
                     f"first: {next(iter(self._reasons.values()))}")
        return [statistics.plain("too_long", len(self._reasons))]
