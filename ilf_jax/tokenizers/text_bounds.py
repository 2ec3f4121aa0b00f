"""The most tokens that a text can have, found without a tokenizer: none that we read makes more than it has bytes."""

import unicodedata

SLACK = 16
"""Tokens beyond the bytes of texts: a leading space, BOS, the end token, and a few where a document is cut."""


def num_bytes(text: str) -> int:
    """Bytes of a text in UTF-8, also after the normalisation that makes the most of them."""
    if text.isascii():
        return len(text)
    return max(len(text.encode()), len(unicodedata.normalize("NFKC", text).encode()))
