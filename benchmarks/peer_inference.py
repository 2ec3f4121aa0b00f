"""The peer's sampling and scoring: `generate(num_return_sequences=N)` and batched forward passes."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import peer_model

_DOCUMENTS = (1, 2, 4, 8)
_PROMPTS = (1, 2, 4, 8, 16, 32)
# The search stops at a batch size this much slower than the best so far: larger ones only use more memory.
_MUCH_SLOWER = 1.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that are tuned before anything is timed. None: not tuned yet."""

    linear: str = "MKL"  # or "oneDNN"
    documents: int | None = None  # per batch of generation
    prompts: int | None = None  # per batch of scoring


def fastest(sizes: Sequence[int], seconds_for: Callable[[int], float]) -> int:
    """The size with the shortest time. Tries sizes in order and stops once times get much worse."""
    best, best_seconds = sizes[0], float("inf")
    for size in sizes:
        seconds = seconds_for(size)
        if seconds < best_seconds:
            best, best_seconds = size, seconds
        elif seconds > _MUCH_SLOWER * best_seconds:
            break
    return best


class Inference:
    """A model that generates and scores texts."""

    def __init__(self, folder: Path, work: dict[str, Any], settings: Settings | None) -> None:
        """`settings`: what an earlier worker found; `tune` finds those that are missing."""
        self._folder, self._work = folder, work
        self._tokenizer = peer_model.load_tokenizer(folder)
        self._model = peer_model.load_model(folder).eval()
        self._linear_untuned = settings is None
        self.settings = settings or Settings()
        if self.settings.linear == "oneDNN":
            self._model = peer_model.with_onednn(self._model)

    def tune(self, *, generates: bool, scores: str | None) -> None:
        """Finds the settings on part of the work.

        Args:
            generates: whether the suite generates texts.
            scores: name of the texts that the suite scores, if any.
        """
        work, documents = self._work, self._work["texts"]["refine"]
        if self._linear_untuned:
            self._choose_linear(documents)
        else:
            self._generate_batch(documents[:1], 1)  # warm-up
        if generates and self.settings.documents is None:
            def per_document(size: int) -> float:
                return _seconds(lambda: self._generate_batch(documents[:size], work["num_candidates"])) / size

            size = fastest([s for s in _DOCUMENTS if s <= len(documents)], per_document)
            self.settings = dataclasses.replace(self.settings, documents=size)
        if scores and self.settings.prompts is None:
            prompts = [question["text"] for question in work["texts"][scores]]

            def per_prompt(size: int) -> float:
                some = self._by_length(prompts[: max(8, size)])
                return _seconds(lambda: [self._last_logits(rows) for rows in _batches(some, size)]) / len(some)

            size = fastest([s for s in _PROMPTS if s <= len(prompts)], per_prompt)
            self.settings = dataclasses.replace(self.settings, prompts=size)

    def _choose_linear(self, documents: list[str]) -> None:
        rows = self._by_length(documents[:4])

        def seconds() -> float:
            return _seconds(lambda: [self._last_logits([row]) for row in rows])

        seconds()  # warm-up
        mkl_seconds = seconds()
        self._model = peer_model.with_onednn(self._model)
        seconds()
        if seconds() < mkl_seconds:
            self.settings = dataclasses.replace(self.settings, linear="oneDNN")
        else:
            self._model = peer_model.load_model(self._folder).eval()

    def generate(self, prompts: Sequence[str], candidates: int) -> dict[str, Any]:
        """Samples `candidates` continuations of forced length for each prompt."""
        ordered = self._by_length(prompts)
        batches = [self._generate_batch(batch, candidates) for batch in _batches(ordered, self.settings.documents)]
        texts = [text for batch in batches for text in self._tokenizer.batch_decode(batch, skip_special_tokens=True)]
        assert len(texts) == len(prompts) * candidates
        return {"tokens": sum(batch.numel() for batch in batches), "prompt_tokens": self._count(prompts)}

    @torch.inference_mode()
    def _generate_batch(self, texts: Sequence[str], candidates: int) -> torch.Tensor:
        work = self._work
        inputs = self._tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False)
        rows = self._model.generate(
            **inputs, do_sample=True, temperature=work["temperature"], top_p=work["top_p"], top_k=0,
            min_new_tokens=work["new_tokens"], max_new_tokens=work["new_tokens"], num_return_sequences=candidates,
        )
        return rows[:, inputs["input_ids"].shape[1] :]

    def score(self, questions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """p(first answer) / (p(first) + p(second)) for each question."""
        order = sorted(range(len(questions)), key=lambda i: -len(self._ids(questions[i]["text"])))
        probabilities = [0.0] * len(questions)
        answers = [[self._answer_id(answer) for answer in question["answers"]] for question in questions]
        for batch in _batches(order, self.settings.prompts):
            logits = self._last_logits([questions[i]["text"] for i in batch])
            picked = torch.gather(logits, 1, torch.tensor([answers[i] for i in batch]))
            for i, p in zip(batch, torch.softmax(picked, dim=1)[:, 0].tolist(), strict=True):
                probabilities[i] = p
        tokens = self._count([question["text"] for question in questions])
        return {"tokens": tokens, "prompt_tokens": tokens, "check": probabilities}

    @torch.inference_mode()
    def _last_logits(self, texts: Sequence[str]) -> torch.Tensor:
        inputs = self._tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False)
        # Without these, a forward pass counts the padding on the left as positions of the text.
        positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        output = self._model(**inputs, position_ids=positions, logits_to_keep=1, use_cache=False)
        return output.logits[:, -1].float()

    def _answer_id(self, answer: str) -> int:
        ids = self._ids(answer)
        if len(ids) != 1:
            raise ValueError(f"the answer {answer!r} is {len(ids)} tokens")
        return ids[0]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _by_length(self, texts: Sequence[str]) -> list[str]:
        return sorted(texts, key=lambda text: -len(self._ids(text)))

    def _count(self, texts: Sequence[str]) -> int:
        return sum(len(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
