"""Generation through a LanguageModel: free slots are given to waiting prompts, and nobody's samples change by it."""

import copy
import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from ilf_jax import config_sections
from ilf_jax.inference import generation, model_pool
from ilf_jax.inference.generation import Generator
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import checkpoint_io
from ilf_jax.models.compute import FLOAT32
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import performance, sharding
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizers.tokenizer import Tokenizer

URI = "builtin:word_removal_1m"
PEOPLE = ["Ada the baker", "Bo", "Cy of the old harbour by the sea", "Di", "Ed the tall and tired tailor", "Flo", "Gus"]


@functools.cache
def lm():
    model = checkpoint_io.read_config(URI)
    placement = Placement(sharding.make_mesh(-1, 1, 1), model)
    params = checkpoint_io.load_params(URI, lambda path, array: placement.put_param(path, array, "decode"), seed=0)
    settings = config_sections.Model(checkpoint=URI)
    return LanguageModel("policy", settings, model, params, Tokenizer.load(URI), placement, FLOAT32)


def start(batch_size, people=PEOPLE, *, temperature=1.5, top_p=0.9, seed=0, limit=24):
    prompts = [lm().encode(name, [Prompt("Describe ", name, ".\nText:")], reserve=limit)[0] for name in people]
    keys = decode.candidate_keys(seed, 1, "refine", people, range(3))
    return Generator(lm(), make_sampling(temperature, 0, top_p), limit, batch_size, ("\n",)).start(prompts, keys)


def test_slots_that_could_be_refilled_give_a_small_batch_the_same():
    """The last shard of a stage that refills slots takes the programs of the others."""
    prompts = [lm().encode(name, [Prompt("Describe ", name, ".\nText:")], reserve=12)[0] for name in PEOPLE[:2]]
    keys = decode.candidate_keys(0, 1, "refine", PEOPLE[:2], range(2))
    plain = Generator(lm(), make_sampling(1.0, 0, 1.0), 12, 4, ("\n",), row_lengths=(64, 128))
    found, right = (generator.start(prompts, keys).result()
                    for generator in (dataclasses.replace(plain, refills=True), plain))
    assert_same_samples(found, right)



def generate(batch_size, people=PEOPLE, *, temperature=1.5, top_p=0.9, seed=0, limit=24):
    return start(batch_size, people, temperature=temperature, top_p=top_p, seed=seed, limit=limit).result()


def assert_same_samples(groups, expected):
    for samples, expected_samples in zip(groups, expected, strict=True):
        for a, b in zip(samples, expected_samples, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            assert (a.text, a.stopped) == (b.text, b.stopped)


@pytest.mark.parametrize(("batch_size", "part"), [(1, 4), (2, 4), (3, 1), (4, 2), (6, 2)])
def test_refilled_slots_give_what_one_batch_gives(batch_size, part, monkeypatch):
    expected = generate(len(PEOPLE))
    lengths = [max(len(s.tokens) for s in group) for group in expected]
    assert len(set(lengths)) > 2  # documents do end at different steps
    monkeypatch.setattr(generation, "_REFILLED_PART", part)
    assert_same_samples(generate(batch_size), expected)


@pytest.mark.parametrize("batch_size", [2, len(PEOPLE)])
def test_start_waits_for_nothing(batch_size, monkeypatch):
    expected = generate(len(PEOPLE))
    fetches = []

    def counted_fetch(arrays):
        fetches.append(1)
        return fetch(arrays)

    fetch = performance.fetch
    monkeypatch.setattr(performance, "fetch", counted_fetch)
    pending = start(batch_size)
    assert not fetches
    other = start(batch_size, seed=5)  # the next shard, started while this one is under way
    assert not fetches
    assert_same_samples(pending.result(), expected)
    assert fetches
    assert_same_samples(other.result(), generate(len(PEOPLE), seed=5))


@pytest.mark.parametrize(("module", "name"), [(performance, "fetch"), (generation, "refill_program")])
def test_refilling_resumes_after_an_interrupt(monkeypatch, module, name):
    expected = generate(len(PEOPLE))
    function, calls = getattr(module, name), []

    def interrupted(argument):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return function(argument)

    monkeypatch.setattr(module, name, interrupted)
    pending = start(2)
    with pytest.raises(KeyboardInterrupt):
        pending.result()
    assert_same_samples(pending.result(), expected)


def test_streamed_samples_are_those_of_a_batch_and_come_as_they_end(monkeypatch):
    """One prefill for all; the shortest sample is given before the others have been decoded to their ends."""
    limit, keys = 24, decode.candidate_keys(0, 1, "refine", PEOPLE[:1], range(6))
    prompt = lm().encode(PEOPLE[0], [Prompt("Describe ", PEOPLE[0], ".\nText:")], reserve=limit)[0]
    generator = Generator(lm(), make_sampling(1.5, 0, 0.9), limit, 1, ("\n",))
    (expected,) = generator.start([prompt], keys).result()
    calls = {"prefill_program": 0, "decode_program": 0}

    def counted(name, program):
        def call(*args, **kwargs):
            calls[name] += 1
            return program(lm().placement)(*args, **kwargs)
        return lambda placement: call

    for name in calls:
        monkeypatch.setattr(generation, name, counted(name, getattr(generation, name)))
    stream = generator.stream(prompt, keys[0])
    first = next(stream)
    assert calls == {"prefill_program": 1, "decode_program": 1}
    lengths = sorted(len(s.tokens) for s in expected)
    assert len(first.tokens) == lengths[0] < lengths[-1]
    found = [first, *stream]
    assert [len(s.tokens) for s in found] == lengths
    assert calls == {"prefill_program": 1, "decode_program": len(set(lengths))}
    order = sorted(range(6), key=lambda c: len(expected[c].tokens))  # stable: those that end together in their order
    assert_same_samples([found], [[expected[c] for c in order]])


def test_refilling_takes_fewer_steps_than_waiting_for_the_longest(monkeypatch):
    """What it is for: counted in steps of the whole batch, not in seconds."""
    steps = []

    def counted(program):
        def call(*args, **kwargs):
            slots = program(lm().placement)(*args, **kwargs)
            steps.append(int(slots.cache.index))
            return slots
        return lambda placement: call

    for name in ("refill_program", "start_program"):
        monkeypatch.setattr(generation, name, counted(getattr(generation, name)))
    people = [f"{name} {i}" for i in range(4) for name in PEOPLE]
    longest = [max(len(s.tokens) for s in group) for group in generate(4, people, limit=64)]
    order = sorted(range(len(people)), key=lambda i: (-len(lm().tokenizer.encode(people[i])), i))
    waiting = sum(max(longest[i] for i in order[at : at + 4]) for at in range(0, len(order), 4))
    taken = sum((after - before) % 64 for before, after in zip([0, *steps], steps, strict=False))
    assert len(steps) > 4
    assert taken < waiting


def test_other_settings_seeds_and_numbers_of_documents_compile_nothing_new():
    generate(3), generate(3, PEOPLE[:3]), generate(3, PEOPLE[:1])
    meter = performance.Meter()
    generate(3, temperature=0.7), generate(3, top_p=0.5), generate(3, seed=5), generate(3, PEOPLE[:6])
    generate(3, PEOPLE[:3]), generate(3, PEOPLE[:1], temperature=0.0)
    cost = meter.cost()
    assert (cost["compilations"], cost["cache_hits"]) == (0, 0)


@pytest.mark.fast
def test_forced_length():
    prompt = lm().encode("a", [Prompt("Describe ", "Ada", ".\nText:")], reserve=24)
    keys = decode.candidate_keys(0, 1, "refine", ["a"], range(2))
    generator = Generator(lm(), make_sampling(1.0, 0, 0.95), 24, 1, (), forced_length=True)
    ((first, second),) = generator.start(prompt, keys).result()
    assert len(first.tokens) == len(second.tokens) == 24


def test_bfloat16_is_of_matrices_only_and_costs_float32_no_copy():
    half, whole = (model_pool.ModelPool(sharding.make_mesh(-1, 1, 1), 0, name) for name in ("bfloat16", "float32"))
    layer = half.get(URI)["layers_0"]
    assert layer["mlp"]["up"]["kernel"].dtype == half.get(URI)["embedding"].dtype == jnp.bfloat16
    assert layer["mlp_norm"]["scale"].dtype == jnp.float32
    assert half.get(URI) is half.get(URI)
    assert half.take(URI)["embedding"].dtype == jnp.float32  # what is trained is not what was rounded
    table = np.asarray(whole.get(URI)["embedding"])  # on a CPU, a view
    assert np.shares_memory(np.asarray(whole.take(URI)["embedding"]), table)


def test_ids_without_a_token_are_never_drawn():
    """The tokenizer lacks the last 40 of the model's embeddings, and one between."""
    own = copy.copy(lm().tokenizer)
    own.vocab_size -= 40
    own.token_texts = lm().tokenizer.token_texts[:-40]
    gap = next(i for i, text in enumerate(own.token_texts) if text.strip() and i not in own.stop_ids)
    own._backend = copy.copy(own._backend)
    own._backend.unknown_ids = frozenset({gap})
    model = dataclasses.replace(lm(), tokenizer=own)
    ends = Generator(model, make_sampling(1.0, 0, 1.0), 8, 2, ("\n",)).ends
    assert set(np.flatnonzero(ends < 0)) == {gap, *range(own.vocab_size, model.architecture.vocab_size)}
    assert all(ends[i] == 1 for i in own.stop_ids)
