"""What the pages are made from: the store and what is open in it, the run that waits, and the learner, if any."""

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ilf_jax.data import reviewed
from ilf_jax.errors import InputError
from ilf_jax.evaluation import agreement
from ilf_jax.review import entries
from ilf_jax.review.batches import Batches
from ilf_jax.review.entries import SKIPPED, SUBMITTED
from ilf_jax.review.outbox import Outbox
from ilf_jax.review.rounds import Round, WaitingRun, of_run, waiting_name
from ilf_jax.review.run_again import RunAgain
from ilf_jax.review.store import Item, RefusedError, Review, Store
from ilf_jax.runtime import progress, storage

if TYPE_CHECKING:
    from ilf_jax.review.learner import Learner  # loads jax

_FIGURES_REST = 20.0  # how many times as long as they took figures are shown


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of the items that are open: done by all, and of them submitted and skipped; what this reviewer has done."""

    total: int
    done: int
    submitted: int
    skipped: int
    own_total: int
    own_done: int


class Desk:
    """One for the server. Methods may be called from any thread."""

    def __init__(self, store: Store, rounds: Sequence[Round], *, workdir: storage.Path | None = None,
                 by_gain: bool = False, load_learner: "Callable[[WaitingRun], Learner] | None" = None) -> None:
        """
        Args:
            rounds: what is reviewed now; they are entered into the store.
            workdir: of the run that waits, or whose baseline does.
            by_gain: drafts on which refinements differ most come first.
            load_learner: called at once for what waits now, and again whenever the run waits for something else.

        Raises:
            InputError: see `Round.enter`, `Outbox` and `Learner`.
        """
        self.store, self.by_gain = store, by_gain
        self.learner: Learner | None = None
        self._workdir, self._load_learner = workdir, load_learner
        self._lock, self._figures_lock = threading.Lock(), threading.Lock()
        self._figures: dict[str, Any] = {}
        self._figures_until = -math.inf
        self._open(rounds)
        self.batches = Batches(store, lambda items: self.outbox.note(*items))
        self.again = RunAgain(workdir, store.path.parent) if workdir is not None else None
        self._ended = threading.Event()
        for name, run in self._waiting():
            if load_learner is not None:
                self.learner = load_learner(run)
                self._start_learner(name, run)

    def _open(self, rounds: Sequence[Round]) -> None:
        for round_ in rounds:
            round_.enter(self.store)
        self.rounds, self.outbox = list(rounds), Outbox(self.store, rounds)
        self.store.open_rounds = frozenset(round_.name for round_ in rounds)

    def close(self) -> None:
        """Leaves everything where others read it. Raises InputError if that cannot be written."""
        self._ended.set()
        self.batches.close()
        self.outbox.close()

    def next_round(self) -> None:
        """Opens what the run waits for now, if that is another iteration or a baseline. Raises InputError."""
        with self._lock:
            found = of_run(self._workdir) if self._workdir is not None else None
            if found is not None and found.name not in {r.name for r in self.rounds}:
                self.outbox.close()
                self._open([*(r for r in self.rounds if not r.by_line), found])
                self.learner = None  # makes room for the next
                for name, run in self._waiting():
                    self._start_learner(name, run)

    def _waiting(self) -> list[tuple[str, WaitingRun]]:
        """The open round that a run waits for, and the run; [] if there is none."""
        return [(round_.name, round_.run) for round_ in self.rounds if round_.run is not None]

    # The learner.

    @property
    def has_learner(self) -> bool:
        """Whether there is a learner for what waits, even if it is still being loaded."""
        return self._load_learner is not None and bool(self._waiting())

    def learner_of(self, item: Item) -> "Learner":
        """The learner, as it is in the iteration of an item.

        Raises:
            RefusedError: there is none.
        """
        if self._load_learner is None:
            raise RefusedError("the page was started without --with_model")
        if item.round not in dict(self._waiting()):
            raise RefusedError("the run no longer waits for this item, and its models are of another iteration by now")
        if self.learner is None:
            raise RefusedError("the models of this iteration are being loaded; try again in a moment")
        return self.learner

    def _start_learner(self, name: str, run: WaitingRun) -> None:
        if self._load_learner is not None:
            threading.Thread(target=self._work_ahead, args=(self._load_learner, name, run), name="learner",
                             daemon=True).start()

    def _work_ahead(self, load: "Callable[[WaitingRun], Learner]", name: str, run: WaitingRun) -> None:
        """Loads the learner, unless it is there, and has it compile or draw ahead while people review."""
        try:
            learner = self.learner or load(run)
        except InputError as e:
            progress.log(f"no refinements: {e}")
            return
        if not self._is_open(name):
            return
        self.learner = learner
        items = self._items_while_open(name)
        if not self.by_gain:
            learner.warm_up(items)
            return
        for item in items:
            if item.gain is None:
                try:
                    self.store.set_gain(item.id, learner.gain(item))
                except InputError as e:
                    progress.log(f"no refinements of {item.key!r:.60}: {e}")

    def _is_open(self, name: str) -> bool:
        return not self._ended.is_set() and name in {round_.name for round_ in self.rounds}

    def _items_while_open(self, name: str) -> Iterator[Item]:
        for short in self.store.items(name, short=True):
            item = self.store.item(short.id)
            if not self._is_open(name):
                return
            if item is not None:
                yield item

    def items(self) -> list[Item]:
        """All items that are open, their texts cut."""
        return [item for round_ in self.rounds for item in self.store.items(round_.name, short=True)]

    def queue(self, reviewer: str) -> list[tuple[int, str]]:
        """The numbers of what a reviewer may work on, in order, with its status for them."""
        return self.store.queue(reviewer, self.by_gain)

    def counts(self, queue: Sequence[tuple[int, str]]) -> Counts:
        """How far everybody is, and the reviewer with this queue."""
        states = self.store.outcomes([r.name for r in self.rounds])
        return Counts(states.total(), sum(states[s] for s in entries.CLOSED), states[SUBMITTED], states[SKIPPED],
                      len(queue), sum(status in entries.CLOSED for _, status in queue))

    def reviews_by_item(self) -> dict[int, list[Review]]:
        """All reviews, by item."""
        by_item: dict[int, list[Review]] = {}
        for review in self.store.reviews():
            by_item.setdefault(review.item, []).append(review)
        return by_item

    def by_reviewer(self) -> list[tuple[str, dict[str, int], float]]:
        """(Reviewer, status -> items, seconds) of everybody."""
        people: dict[str, list[Review]] = {}
        for review in self.store.reviews():
            people.setdefault(review.reviewer, []).append(review)
        return [(name, dict(collections.Counter(r.status for r in own)), sum(r.seconds for r in own))
                for name, own in sorted(people.items())]

    def still_needed(self) -> int | None:
        """How many more submitted items the run waits for; None where no run waits, or no longer.

        Where it waits for another iteration, or a baseline, by now, that is opened.
        """
        name = waiting_name(self._workdir) if self._workdir is not None else None
        if name is None:
            return None
        if name not in {r.name for r in self.rounds}:
            self.next_round()
        for opened, run in self._waiting():
            states = self.store.outcomes([opened])
            try:
                needed = reviewed.needed(run.config.feedback.min_reviewed, states.total(), range(states[SKIPPED]))
            except InputError:
                needed = states.total()
            return max(0, needed - states[SUBMITTED])
        return None

    def figures(self) -> dict[str, Any]:
        """Agreement, time and classes over all reviews, for the page of figures.

        Bootstrap takes its time: the figures are made anew only once they are many times as old as that took, so that
        saves have the processor.
        """
        with self._figures_lock:
            if time.monotonic() >= self._figures_until:
                start = time.monotonic()
                self._figures = self._measure()
                took = time.monotonic() - start
                self._figures_until = start + (1 + _FIGURES_REST) * took
            return self._figures

    def _measure(self) -> dict[str, Any]:
        items = {item.id: item for item in self.store.items(short=True)}
        reviews = [r for r in self.store.reviews() if r.status == SUBMITTED]
        said: dict[str, dict[int, dict[str, Any]]] = collections.defaultdict(lambda: collections.defaultdict(dict))
        for review in reviews:
            for name, value in (("classes", review.entry.category), ("ratings", review.entry.rating),
                                ("comparisons", review.entry.better)):
                if value:
                    said[name][review.item][review.reviewer] = value
        agreements = []
        levels: dict[str, Literal["nominal", "ordinal"]] = {
            "classes": "nominal", "ratings": "ordinal", "comparisons": "nominal"}
        for name, level in levels.items():
            for label, found in (("Krippendorff's alpha", agreement.alpha(said[name], level)),
                                 ("Cohen's kappa", agreement.kappa(said[name]))):
                if found is not None:
                    agreements.append((name, label, found))
        times = {}
        for label, is_pair in (("feedback", False), ("comparison", True)):
            seconds = [r.seconds for r in reviews if items[r.item].is_pair == is_pair]
            if seconds:
                times[label] = (*agreement.quartiles(seconds), len(seconds))
        classes = collections.Counter(r.entry.category for r in reviews if r.entry.category)
        return {"agreements": agreements, "times": times, "classes": classes.most_common()}
