"""What a stage's documents are in tokens, each made when its turn comes.

Before the first batch a stage has to know how long its rows are: to put documents of like length together, and to
choose the few lengths that rows are padded to. With up to `LOOKED_AT` documents all are put into tokens for that. Of
more, only a sample is, and documents are put together by the length of their texts; which batch a document is in, and
what it is padded to, follows from the documents alone, so that a resumed run finds the same.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

D = TypeVar("D")
T = TypeVar("T")

LOOKED_AT = 1024
"""Documents that a stage puts into tokens before its first batch, at most."""
_SAMPLED = 256
# Of these, so many are the longest texts: a program is compiled for each row length that turns up later.
_LONGEST = 32


class LookAhead(Generic[D, T]):
    """Documents in tokens, on demand; of those that have been looked at beforehand, as they are."""

    def __init__(
        self, documents: Iterable[D], *, key: Callable[[D], str], encode: Callable[[D], T], tokens: Callable[[T], int],
        size: Callable[[D], int],
    ) -> None:
        """Encodes up to `LOOKED_AT` of the documents.

        Args:
            documents: all of them.
            key: their ids.
            encode: what a document is in tokens.
            tokens: how many.
            size: about how long a document is, in any unit; to be had without a tokenizer.

        Raises:
            InputError: `encode` does.
        """
        self._key, self._encode, self._count = key, encode, tokens
        documents = list(documents)
        sizes = [size(d) for d in documents] if len(documents) > LOOKED_AT else []
        looked_at = [documents[i] for i in _sample(sizes)] if sizes else documents
        self._kept = {key(d): encode(d) for d in looked_at}
        self._tokens = {i: tokens(encoded) for i, encoded in self._kept.items()}
        self.lengths = sizes or [self._tokens[key(d)] for d in documents]
        """Of each document, to put those of like length together: tokens, or sizes where not all were encoded."""
        self.share = len(looked_at) / len(documents) if documents else 1.0
        """Part of the documents that was looked at."""

    @property
    def sample(self) -> Sequence[T]:
        """What was looked at, in tokens: all of it, or a part that has the lengths that all have."""
        return list(self._kept.values())

    @property
    def sampled_tokens(self) -> list[int]:
        """How many tokens each of the `sample` has."""
        return [self._count(encoded) for encoded in self._kept.values()]

    def encoded(self, document: D) -> T:
        """A document in tokens. Raises InputError if it cannot be put into them."""
        i = self._key(document)
        if i in self._kept:
            return self._kept[i]
        encoded = self._encode(document)
        self._tokens[i] = self._count(encoded)
        return encoded

    def num_tokens(self, key: str) -> int:
        """Tokens of a document that has been encoded, by its id."""
        return self._tokens[key]


def _sample(sizes: Sequence[int]) -> list[int]:
    """The indices of the longest, and of others at equal distances in the order of their sizes."""
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    step = (len(order) - _LONGEST) / (_SAMPLED - _LONGEST)
    return order[:_LONGEST] + [order[_LONGEST + int(k * step)] for k in range(_SAMPLED - _LONGEST)]


def text_size(*texts: str) -> int:
    """Length of texts in UTF-8, which is nearer to their tokens than their characters are in other scripts."""
    whole = "".join(texts)
    return len(whole) if whole.isascii() else len(whole.encode())
