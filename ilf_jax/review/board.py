"""Who has what: items and the states of their reviews in memory, so that a queue takes no query over all of them."""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping

from ilf_jax.review.entries import PENDING, status_of


@dataclasses.dataclass
class _Place:
    round: str
    gain: float | None
    reviews: Mapping[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    outcome: str = PENDING


class Board:
    """What the store holds, without the texts. The store keeps it up to date, and its lock."""

    def __init__(self, overlap: int) -> None:
        """`overlap`: reviewers wanted for each item."""
        self._overlap = overlap
        self._places: dict[int, _Place] = {}
        self._by_gain: list[int] | None = None
        self._outcomes: dict[str, collections.Counter[str]] = {}

    def put_item(self, number: int, round_: str, gain: float | None) -> None:
        """A new item, or the new gain of one. Items come by rising numbers."""
        place = self._places.get(number)
        if place is not None:
            if place.gain != gain:
                place.gain, self._by_gain = gain, None
            return
        self._places[number], self._by_gain = (place := _Place(round_, gain)), None
        self._outcomes.setdefault(round_, collections.Counter())[place.outcome] += 1

    def put_reviews(self, number: int, reviews: Mapping[str, tuple[str, float]], decided: bool) -> None:
        """What there is of an item now: reviewer -> (status, when it changed); whether somebody chose between them."""
        place = self._places[number]
        counts = self._outcomes[place.round]
        counts[place.outcome] -= 1
        place.reviews = reviews
        place.outcome = status_of(collections.Counter(status for status, _ in reviews.values()), self._overlap, decided)
        counts[place.outcome] += 1

    def queue(
        self, reviewer: str, rounds: Collection[str] | None, by_gain: bool, since: float
    ) -> list[tuple[int, str]]:
        """Numbers and status of the items that a reviewer may work on: begun by them, or not by enough others.

        Args:
            rounds: of these; None: of all.
            since: an item that somebody opened after this, in seconds since 1970, is theirs even if they said nothing.
        """
        found = []
        everything = rounds is None or self._outcomes.keys() <= set(rounds)
        for number, place in self._in_order(by_gain):
            if not everything and place.round not in (rounds or ()):
                continue
            reviews = place.reviews
            if reviews and (own := reviews.get(reviewer)) is not None:
                found.append((number, own[0]))
            elif len(reviews) < self._overlap or sum(
                    status != PENDING or changed > since for status, changed in reviews.values()) < self._overlap:
                found.append((number, PENDING))
        return found

    def _in_order(self, by_gain: bool) -> Iterable[tuple[int, _Place]]:
        if not by_gain:
            return self._places.items()
        if self._by_gain is None:  # sorting keeps the order of equals
            gains = {number: place.gain for number, place in self._places.items()}
            self._by_gain = sorted(gains, key=lambda n: -1.0 if (gain := gains[n]) is None else gain, reverse=True)
        return ((number, self._places[number]) for number in self._by_gain)

    def outcomes(self, rounds: Collection[str]) -> collections.Counter[str]:
        """What items have come to -> how many of these rounds have."""
        return sum((self._outcomes.get(name, collections.Counter()) for name in rounds), collections.Counter())
