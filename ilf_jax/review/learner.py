"""The learner at hand: what the run's refiner makes of a comment, and what the comment would change in its policy."""

import collections
import dataclasses
import difflib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ilf_jax import tasks
from ilf_jax.data import reviewed
from ilf_jax.errors import InputError
from ilf_jax.inference import model_pool
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.models import padding
from ilf_jax.records import Example
from ilf_jax.review.rounds import WaitingRun
from ilf_jax.review.store import Item
from ilf_jax.runtime import jax_settings, progress, sharding
from ilf_jax.stages import refine
from ilf_jax.tasks.task import Task

_SOME_FEEDBACK = "Say more clearly what happened, and to whom."  # of an ordinary length


@dataclasses.dataclass(frozen=True)
class Colors:
    """What a comment f changes in a draft x0 of a document c.

    Attributes:
        tokens: the draft in pieces, which joined make it up.
        values: log pi(x0_t | c, f) - log pi(x0_t | c) of each, in nats.
        mean: of the values: how much less (negative) or more likely the comment makes the draft, in nats a token.
    """

    tokens: list[str]
    values: list[float]
    mean: float


class Learner:
    """One for the server. One request at a time is worked on, the others wait."""

    def __init__(self, run: WaitingRun) -> None:
        """Loads refiner and policy as the run, or its baseline, has them in the iteration that waits.

        Raises:
            InputError: a checkpoint cannot be loaded.
        """
        config, workdir, before = run.config, run.workdir, run.iteration - 1
        jax_settings.apply(config.precision)
        mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        pool = model_pool.ModelPool(mesh, config.seed, config.precision, layers=config.layers)
        checkpoint = workdir / f"iteration_{before:03d}" / "checkpoint" if before else None
        roles = model_pool.Roles(config, pool, reviewed.run_of(workdir) / "tokenizer", checkpoint)
        self._config, self._iteration = config, run.iteration
        self._task: Task = tasks.make_task(config)
        self._refiner, self._policy = roles.get("refiner"), roles.get("policy")
        self._lock = threading.Lock()

    def warm_up(self, items: Iterable[Item]) -> None:
        """Compiles the programs that these items take, so that nobody who asks waits for that."""
        lengths = set()
        for item in items:
            try:
                length = padding.power_of_two(len(self._prompt(item, _SOME_FEEDBACK).ids))
                if length not in lengths:
                    lengths.add(length)
                    collections.deque(self.refinements(item, _SOME_FEEDBACK), 0)
                    self.colors(item, _SOME_FEEDBACK)
            except InputError as e:
                progress.log(f"no refinements of {item.key!r:.60}: {e}")

    def _prompt(self, item: Item, feedback: str) -> Encoded:
        return refine.encode_prompt(self._config, self._task, self._refiner, _example(item), item.draft, feedback)

    def refinements(self, item: Item, feedback: str) -> Iterator[str]:
        """N refinements as they come: those that the refine stage would draw, with its keys.

        Raises:
            InputError: the prompt does not fit.
        """
        with self._lock:
            prompt = self._prompt(item, feedback)
            yield from refine.first_draws(self._config, self._task, self._refiner, self._iteration, _example(item),
                                          prompt, feedback)

    def colors(self, item: Item, feedback: str) -> Colors:
        """What the feedback makes less and more likely in the draft, under the policy.

        pi(. | c) is behind the policy's prompt, pi(. | c, f) behind the refiner's without a draft: with it, the draft
        would be copied. The draft has the same tokens behind both.

        Raises:
            InputError: a prompt does not fit.
        """
        example, lm = _example(item), self._policy
        if not item.draft:
            return Colors([], [], 0.0)
        plain, told = self._task.policy_prompt(example), self._task.refine_prompt(example, "", feedback)
        with self._lock:
            ids = lm.continuation(lm.encode(item.key, [plain], 0)[0], item.draft)
            prompts = lm.encode(item.key, [plain, told], lm.room(len(ids)))
            longest = max(len(prompt.ids) for prompt in prompts) + len(ids)
            row = lm.planner.bucket(min(padding.power_of_two(longest), lm.architecture.max_positions))
            without, given = lm.logprobs([(prompt.ids, ids) for prompt in prompts], len(prompts), [row],
                                         [padding.power_of_two(len(ids))])
        values = [float(x) for x in np.asarray(given) - np.asarray(without)]
        return Colors(_pieces(lm, ids, item.draft), values, float(np.mean(values)))

    def gain(self, item: Item) -> float:
        """How much refinements without a comment differ, from 0 to 1.

        The mean over pairs of 1 - the share of words that both have in the same order.
        """
        texts = list(self.refinements(item, ""))
        differ = [1 - difflib.SequenceMatcher(None, a.split(), b.split(), autojunk=False).ratio()
                  for a, b in itertools.combinations(texts, 2)]
        return sum(differ) / len(differ) if differ else 0.0


def _example(item: Item) -> Example:
    return Example(item.key, item.document, item.title)


def _pieces(lm: LanguageModel, ids: Sequence[int], draft: str) -> list[str]:
    """The draft cut where its tokens end. What several tokens make together is the last one's."""
    texts = [lm.tokenizer.decode(ids[: n + 1]) for n in range(len(ids))]
    lead = len(texts[-1]) - len(texts[-1].lstrip())
    ends = np.maximum.accumulate([min(max(len(text.rstrip("�")) - lead, 0), len(draft)) for text in texts])
    ends[-1] = len(draft)
    return [draft[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]
