"""What is put into tokens before the first batch is bounded, and has the lengths that all have."""

import pytest

from ilf_jax.inference import look_ahead
from ilf_jax.inference.look_ahead import LookAhead, text_size

pytestmark = pytest.mark.fast


def made(texts, encoded):
    def encode(text):
        encoded.append(text)
        return text.split()

    return LookAhead(texts, key=lambda text: text.split()[0], encode=encode, tokens=len, size=text_size)


def documents(count):
    return [f"{i} " + "word " * (i * 7919 % 200) for i in range(count)]


def test_of_few_documents_all_are_looked_at_and_kept():
    encoded, texts = [], documents(50)
    ahead = made(texts, encoded)
    assert encoded == texts and ahead.share == 1.0
    assert ahead.lengths == [len(text.split()) for text in texts] == ahead.sampled_tokens
    assert ahead.encoded(texts[7]) == texts[7].split() and len(encoded) == 50
    assert ahead.num_tokens("7") == len(texts[7].split())


def test_of_many_documents_a_sample_is_looked_at():
    encoded, texts = [], documents(look_ahead.LOOKED_AT + 5000)
    ahead = made(texts, encoded)
    assert len(encoded) == len(ahead.sample) < look_ahead.LOOKED_AT
    assert ahead.share == pytest.approx(len(encoded) / len(texts))
    # The longest is in it, and the mean is that of all.
    lengths = [len(text.split()) for text in texts]
    assert max(ahead.sampled_tokens) == max(lengths)
    mean = sum(ahead.sampled_tokens) / len(ahead.sampled_tokens)
    assert mean == pytest.approx(sum(lengths) / len(lengths), rel=0.2)
    # Sizes put documents of like length together.
    assert sorted(range(len(texts)), key=lambda i: -ahead.lengths[i])[:20] == sorted(
        range(len(texts)), key=lambda i: -len(texts[i]))[:20]
    before = len(encoded)
    other = next(text for text in texts if text not in encoded)
    assert ahead.encoded(other) == other.split() and len(encoded) == before + 1
    assert ahead.num_tokens(other.split()[0]) == len(other.split())


def test_no_documents():
    ahead = made([], [])
    assert ahead.lengths == [] and ahead.sample == [] and ahead.share == 1.0


def test_sizes_count_bytes():
    assert text_size("abc", "d") == 4 and text_size("né", "語") == 6
