"""Models that answer over the network, with the interface that stages need: they write texts and answer questions."""

import asyncio
import dataclasses
import math
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from ilf_jax.evaluation import statistics
from ilf_jax.remote.endpoint import Endpoint, RefusedError
from ilf_jax.remote.event_loop import EventLoop
from ilf_jax.remote.replies import Reply
from ilf_jax.runtime import distributed
from ilf_jax.runtime.pending import Pending

T = TypeVar("T")

# As many as OpenAI gives; other servers give more, which would add nothing.
_TOP_LOGPROBS = 20
# Room for a sampled answer: a word, and what may stand before it.
_ANSWER_TOKENS = 8
_AROUND_ANSWERS = " \t\r\n*_\"'`#>([.:"
_PROBE = "Is the sky blue on a clear day? Answer Yes or No."
_SEEDS = 2**31


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model says to a two-valued question.

    Attributes:
        probability: of the favourable answer, the two answers' together being 1; 0.5 where it gave neither.
        stderr: standard error of the probability: 0 where the server gave the model's own.
        answered: whether it gave one of the answers.
    """

    probability: float
    stderr: float = 0.0
    answered: bool = True


@dataclasses.dataclass(frozen=True)
class RemoteModel:
    """A model behind an endpoint.

    Attributes:
        endpoint: where it answers.
        loop: sends the requests, in a thread of its own.
        samples: config.api.samples.
        template_arguments: variables of the chat template, as vLLM and llama.cpp's server take them.
    """

    endpoint: Endpoint
    loop: EventLoop
    samples: int
    template_arguments: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Asks for one token, which the run keeps. Raises InputError if the model does not answer."""
        distributed.on_main(lambda: self.loop.start([self._gives_logprobs(patient=False)]).result())

    def write(
        self, prompts: Sequence[str], seeds: Sequence[int], *, temperature: float, top_p: float, max_new_tokens: int,
        stop: Sequence[str],
    ) -> Pending[list[Reply]]:
        """Begins to write a text for each prompt, cut before the first of the strings `stop`.

        Raises, with the result:
            InputError, TryAgainError: see `Endpoint.ask`.
        """
        bodies = [{**self._chat(prompt), "max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p,
                   "seed": seed % _SEEDS} for prompt, seed in zip(prompts, seeds, strict=True)]
        rows = self._on_main([self._row(body) for body in bodies])
        return rows.map(lambda found: [_cut(Reply.from_json(row), stop) for row in found])

    def answer(self, questions: Sequence[tuple[str, tuple[str, str]]]) -> Pending[list[Answer]]:
        """Begins to answer questions: (prompt, (favourable answer, other answer)).

        P(favourable) / (P(favourable) + P(other)) is read from the first token's top_logprobs. Where a server gives
        none, or neither answer is among them, it is the share of `samples` drawn answers.

        Raises, with the result:
            InputError, TryAgainError: see `Endpoint.ask`.
        """
        rows = self._on_main([self._answer(prompt, answers) for prompt, answers in questions])
        return rows.map(lambda found: [Answer(*row) for row in found])

    def _on_main(self, work: Sequence[Coroutine[Any, Any, T]]) -> Pending[list[T]]:
        """Of several processes one asks: a service that costs money is paid once."""
        if not distributed.is_main():
            for one in work:
                one.close()
            return Pending(lambda: distributed.on_main(lambda: []))
        started = self.loop.start(work)
        return Pending(lambda: distributed.on_main(started.result))

    async def _row(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return (await self.endpoint.ask(body)).to_json()

    def _chat(self, prompt: str) -> dict[str, Any]:
        arguments = {"chat_template_kwargs": dict(self.template_arguments)} if self.template_arguments else {}
        return {"messages": [{"role": "user", "content": prompt}], **arguments}

    def _first_token(self, prompt: str) -> dict[str, Any]:
        # At temperature 1 the distribution is the model's own also on servers that give the one that they draw from.
        return {**self._chat(prompt), "max_tokens": 1, "temperature": 1.0, "seed": 0, "logprobs": True,
                "top_logprobs": _TOP_LOGPROBS}

    async def _gives_logprobs(self, patient: bool = True) -> bool:
        """Whether the server gives top_logprobs; asked once, kept like every answer."""
        body = self._first_token(_PROBE)
        try:
            return bool((await self.endpoint.ask(body, patient=patient)).top)
        except RefusedError:  # perhaps of logprobs alone
            plain = {key: value for key, value in body.items() if key not in ("logprobs", "top_logprobs")}
            reply = await self.endpoint.ask(plain, patient=patient)
            self.endpoint.keep(body, reply)
            return False

    async def _answer(self, prompt: str, answers: tuple[str, str]) -> tuple[float, float, bool]:
        if await self._gives_logprobs():
            reply = await self.endpoint.ask(self._first_token(prompt))
            probability = favourable_probability(reply.top, answers)
            if probability is not None:
                return probability, 0.0, True
        drawn = await asyncio.gather(*(
            self.endpoint.ask({**self._chat(prompt), "max_tokens": _ANSWER_TOKENS, "temperature": 1.0, "seed": i})
            for i in range(self.samples)))
        said = [which for reply in drawn if (which := _which_answer(reply.text, answers)) is not None]
        if not said:
            return 0.5, 0.5, False
        return sum(said) / len(said), statistics.share_stderr(sum(said), len(said)), True


def favourable_probability(top: Sequence[tuple[str, float]], answers: tuple[str, str]) -> float | None:
    """P(favourable) / (P(favourable) + P(other)) from the likeliest first tokens; None if neither answer is there.

    A token counts for the answer that it begins, blanks and case aside ("Yes", " yes", "Y"); not if it begins both.
    """
    shares = [0.0, 0.0]
    for token, logprob in top:
        begun = [_begins(token, answer) for answer in answers]
        if begun[0] != begun[1]:
            shares[begun.index(True)] += math.exp(logprob)
    return shares[0] / sum(shares) if sum(shares) > 0 else None


def _begins(token: str, answer: str) -> bool:
    start = token.strip(_AROUND_ANSWERS)
    whole = answer.strip()
    # Case counts in a beginning: "a" begins many an answer, and "A" is one.
    return bool(start) and (whole.startswith(start) or (len(whole) > 1 and whole.casefold() == start.casefold()))


def _which_answer(text: str, answers: tuple[str, str]) -> bool | None:
    """Whether a drawn answer is the favourable one; None if it is neither."""
    def says(answer: str) -> bool:
        if len(answer) > 1:
            return re.match(rf"{re.escape(answer)}\b", start, re.IGNORECASE) is not None
        return re.match(rf"{re.escape(answer)}(?!\s*\w)", start) is not None  # "A", but not "A cat sat"

    start = text.lstrip(_AROUND_ANSWERS)
    found = [says(answer.strip()) for answer in answers]
    return found[0] if found[0] != found[1] else None


def _cut(reply: Reply, stop: Sequence[str]) -> Reply:
    """A text as our own generation would have ended it, blanks at its beginning aside, which chat models write."""
    text = reply.text.lstrip()
    ends = [place for string in stop if (place := text.find(string)) >= 0]
    return dataclasses.replace(reply, text=text[: min(ends)], stopped=True) if ends else dataclasses.replace(
        reply, text=text)
