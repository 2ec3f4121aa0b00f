"""What endpoints have answered, kept in the work folder, so that a resumed run asks nothing twice."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ilf_jax.config_sections import Api
from ilf_jax.errors import InputError
from ilf_jax.runtime import files, storage

FOLDER = "api_answers"
"""Its name in the work folder."""


class KeptAnswers:
    """Answers by the digest of their request, a file each, written the moment they arrive.

    A file's name holds the tokens that the request took, so that a listing of the folder says what the run has spent.
    Until `begin`, answers stay in memory: a run is checked before it has a work folder.
    """

    def __init__(self, folder: storage.Path | None) -> None:
        """Lists what a run that was stopped has left.

        Args:
            folder: of the answers; None keeps them in memory.
        """
        self._folder, self._begun = folder, False
        self._paths: dict[str, storage.Path] = {}
        self._unwritten: dict[str, tuple[dict[str, Any], int]] = {}
        self.requests = self.tokens = self._under_way = 0
        for path in storage.inside(folder) if folder is not None and folder.exists() else ():
            digest, _, rest = path.name.partition(".")
            spent = rest.removesuffix(".json")
            if spent.isdecimal() and rest.endswith(".json"):
                self._paths[digest] = path
                self.requests, self.tokens = self.requests + 1, self.tokens + int(spent)

    def get(self, digest: str) -> dict[str, Any] | None:
        """The answer to a request; None if there is none. Raises InputError if its file is damaged."""
        if digest in self._unwritten:
            return dict(self._unwritten[digest][0]["answer"])
        if digest not in self._paths:
            return None
        answer = files.read_sealed(self._paths[digest], "delete it to have the request sent again")["answer"]
        return dict(answer)

    def put(self, digest: str, request: Mapping[str, Any], answer: dict[str, Any], tokens: int) -> None:
        """Keeps an answer. Raises InputError if it cannot be written."""
        self.requests, self.tokens = self.requests + 1, self.tokens + tokens
        content = {"request": dict(request), "answer": answer}
        self._unwritten[digest] = content, tokens
        if self._begun:
            self._write()

    def reserve(self, budget: Api) -> None:
        """Says that a request is sent, until `release`.

        What requests under way will cost in tokens is not known: so many may go beyond config.api.max_tokens.

        Raises:
            InputError: the run's budget is spent.
        """
        for key, limit, spent in (("max_requests", budget.max_requests, self.requests + self._under_way),
                                  ("max_tokens", budget.max_tokens, self.tokens)):
            if limit is not None and spent >= limit:
                raise InputError(f"config.api.{key}={limit}: the run's budget is spent ({self.requests} requests and "
                                 f"{self.tokens} tokens so far). What was answered is kept; raise the key and start "
                                 "the same command with --allow_change=api to go on")
        self._under_way += 1

    def release(self) -> None:
        """The end of what `reserve` began."""
        self._under_way -= 1

    def begin(self) -> None:
        """From now on the work folder is there: writes what was answered before."""
        self._begun = self._folder is not None
        self._write()

    def _write(self) -> None:
        if self._folder is None:
            return
        for digest, (content, tokens) in list(self._unwritten.items()):
            path = self._folder / f"{digest}.{tokens}.json"
            files.write_json(path, content)
            self._paths[digest] = path
            del self._unwritten[digest]


def digest_of(request: Mapping[str, Any]) -> str:
    """Digest of what a request says; the key is no part of it."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
