"""Log-probabilities of texts behind the policy's prompts, and what follows from them: likelihood and divergence."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ilf_jax.evaluation import kl, likelihood, statistics
from ilf_jax.inference.generation import Generator, prompt_lengths
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.look_ahead import LookAhead, text_size
from ilf_jax.inference.policy_outputs import prompts_of
from ilf_jax.models import padding
from ilf_jax.records import Example
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.tasks.prompts import Prompt

_BATCH = 8
# Programs that each metric may compile for its forward passes: a stage has several metrics.
_PROGRAMS = 2


ReadsPrompt = Callable[[Example], Prompt]
"""What a model reads before it writes about a document."""


def nll(
    reads: ReadsPrompt, lm: LanguageModel, name: str, texts: Sequence[tuple[Example, str]]
) -> statistics.Metric:
    """Negative log-likelihood a token, in nats, of texts and the end behind them, as the policy's outputs.

    Its `by_document` has the value of each example's text.
    """

    def encode(i: int) -> tuple[list[int], list[int]]:
        example, text = texts[i]
        room = len(lm.tokenizer.encode(text)) + 2
        (prompt,) = lm.encode(example.id, [reads(example)], room, answered=True)
        return prompt.ids, [*lm.continuation(prompt, text), lm.end_id]

    rows = LookAhead(range(len(texts)), key=str, encode=encode, tokens=lambda row: len(row[0]) + len(row[1]),
                     size=lambda i: text_size(texts[i][0].document, texts[i][1]))
    _, *lengths = lm.planner.paired_row_lengths(
        [len(prompt) + len(continuation) for prompt, continuation in rows.sample],
        [len(continuation) for _, continuation in rows.sample], rows.share, most=_PROGRAMS)
    logprobs_by_text: list[np.ndarray] = [np.empty(0)] * len(texts)
    for batch in padding.batches_by_length(rows.lengths, _BATCH):
        found = lm.logprobs([rows.encoded(i) for i in batch], _BATCH, *lengths)
        for i, logprobs in zip(batch, found, strict=True):
            logprobs_by_text[i] = logprobs
    values = likelihood.of_texts(logprobs_by_text)
    by_document = {example.id: value for (example, _), value in zip(texts, values, strict=True)}
    return dataclasses.replace(statistics.mean(name, values), by_document=by_document)


def divergence(
    name: str, own: tuple[LanguageModel, ReadsPrompt], other: tuple[LanguageModel, ReadsPrompt],
    examples: Sequence[Example], *, seed: int, iteration: int, max_new_tokens: int, batch_size: int,
) -> list[statistics.Metric]:
    """KL(own || other), from one sample of `own` at temperature 1 for each example.

    `by_document` of the divergence of whole sequences has that of each example's sample.

    Args:
        name: of the metric; the samples' keys depend on it.
        own: the model that samples, and what it reads.
        other: the model that is compared with it, and what that one reads.
        examples: whose prompts are sampled from.
        seed, iteration: of the samples' keys.
        max_new_tokens, batch_size: of the samples.
    """
    (sampler, of_sampler), (rescorer, of_rescorer) = own, other
    batch_size = padding.batch_size(batch_size, len(examples))
    look_ahead = prompts_of(sampler, of_sampler, examples, max_new_tokens)
    given = look_ahead if of_rescorer == of_sampler else prompts_of(rescorer, of_rescorer, examples, max_new_tokens)
    generator = Generator(sampler, make_sampling(1.0, 0, 1.0), max_new_tokens, batch_size, (),
                          prompt_lengths(sampler, look_ahead, name, most=_PROGRAMS))
    # Samples may have as many tokens as are allowed.
    row_lengths = rescorer.planner.row_lengths(
        [n + sampler.room(max_new_tokens) for n in given.sampled_tokens], given.share, most=_PROGRAMS)
    ids, sampled, rescored = [], [], []
    for batch in padding.batches_by_length(look_ahead.lengths, batch_size):
        prompts = [look_ahead.encoded(examples[i]) for i in batch]
        keys = decode.candidate_keys(seed, iteration, name, [prompt.id for prompt in prompts], [0])
        samples = [sample for (sample,) in generator.start(prompts, keys).result()]
        ids += [examples[i].id for i in batch]
        sampled += [sample.logprobs for sample in samples]
        pairs = [([*given.encoded(examples[i]).ids, *sample.thought], sample.tokens.tolist())
                 for i, sample in zip(batch, samples, strict=True)]
        for start in range(0, len(pairs), _BATCH):
            rescored += rescorer.logprobs(pairs[start : start + _BATCH], _BATCH, row_lengths, [max_new_tokens])
    of_sequences, per_token = kl.divergence(name, sampled, rescored)
    by_document = dict(zip(ids, kl.of_samples(sampled, rescored).tolist(), strict=True))
    return [dataclasses.replace(of_sequences, by_document=by_document), per_token]
