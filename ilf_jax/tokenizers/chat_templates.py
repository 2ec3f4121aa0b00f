"""Chat templates: rendered as Hugging Face's are, by a worker process that bounds time and memory."""

import atexit
import contextlib
import dataclasses
import datetime
import difflib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ilf_jax.errors import InputError

SECONDS = 5.0
"""A template that renders for longer is refused; of the processor's time, so that a busy machine changes nothing."""
BYTES = 1 << 30
"""Memory that the worker may take."""
TASK_PROMPT = "{#- ilf-jax: the prompt of a task -#}"
"""Begins the default template of an export, which puts a task's prompt around a document."""
BASE = "base"
"""What an export calls the model's own default template."""


class _Worker:
    """The process that renders; started by the first template, and anew after one that it did not survive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: bytes) -> dict[str, Any]:
        """The answer to a request, see `template_worker`; the process's end is an error, too."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(request + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = b""
            except BaseException:  # an interrupt between question and answer: the next question must not get this one's
                self._stop()
                raise
            if line.endswith(b"\n"):
                return json.loads(line)
            self._stop()
            if process.returncode == -signal.SIGPROF:
                return {"error": f"it renders for longer than {SECONDS:g} seconds"}
            return {"error": f"the process that rendered it ended with code {process.returncode}"}

    def _started(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # a fork shares the pipes of its parent, and must not use them
            self._process = None
        if self._process is None or self._process.poll() is not None:
            script = str(pathlib.Path(__file__).with_name("template_worker.py"))
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path[1:]))}
            self._process = subprocess.Popen(
                [sys.executable, "-P", script, str(SECONDS), str(BYTES)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
            self._owner = os.getpid()
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def close(self) -> None:
        """Ends the process, if this one has started it."""
        if self._owner == os.getpid():
            self._stop()


_WORKER = _Worker()
atexit.register(_WORKER.close)


@dataclasses.dataclass(frozen=True)
class ChatTemplates:
    """The chat templates of a checkpoint.

    Attributes:
        by_name: jinja sources; a checkpoint with a single one calls it "default".
        tokens: what templates know the special tokens by, such as {"bos_token": "<s>"}; those that there are.
        where: file that they come from, for messages.
    """

    by_name: Mapping[str, str]
    tokens: Mapping[str, str]
    where: str

    def __bool__(self) -> bool:
        return bool(self.by_name)

    @property
    def has_task_prompt(self) -> bool:
        """Whether the default template is an export's, which puts the prompt of a task around a document."""
        return self.by_name.get("default", "").startswith(TASK_PROMPT)

    def without_task_prompt(self) -> "ChatTemplates":
        """The model's own templates: a run puts the prompt of its task around documents by itself."""
        if not self.has_task_prompt:
            return self
        own = {"default" if name == BASE else name: source for name, source in self.by_name.items()
               if name != "default"}
        return dataclasses.replace(self, by_name=own)

    def source(self, name: str | None = None) -> str:
        """The template of this name, else the one for plain chat.

        Raises:
            InputError: there is none.
        """
        if not self.by_name:
            raise InputError(f"{self.where}: has no chat template; use plain prompts with this checkpoint")
        if (name or "default") in self.by_name:
            return self.by_name[name or "default"]
        names = ", ".join(map(repr, self.by_name))
        if name is None:
            raise InputError(f"{self.where}: has several chat templates ({names}) and none is called 'default'; choose "
                             "with chat_template=NAME, or chat='never' for plain prompts")
        near = difflib.get_close_matches(name, self.by_name, n=1)
        raise InputError(f"{self.where}: has no chat template {name!r}; there are {names}"
                         + (f"; did you mean {near[0]!r}?" if near else ""))

    def render(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]], *, add_generation_prompt: bool,
        name: str | None = None, arguments: Mapping[str, Any] | None = None, now: datetime.datetime | None = None,
    ) -> list[str]:
        """The template applied to each conversation, with the variables that Hugging Face gives it.

        Args:
            conversations: messages of {"role", "content"}; those that are rendered together share the cost of asking.
            add_generation_prompt: whether what opens an assistant's turn follows.
            name: of the template; None: the one for plain chat.
            arguments: further variables of the template, or other values of those that it has anyway.
            now: what `strftime_now` tells; None: the clock.

        Raises:
            InputError: there is no such template, or it fails, or takes too long or too much memory.
        """
        variables = {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt, **self.tokens,
                     **(arguments or {})}
        request = {"source": self.source(name), "conversations": conversations, "variables": variables,
                   "now": (now or datetime.datetime.now()).isoformat()}
        if not conversations:
            return []
        try:
            line = json.dumps(request).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.where}: the chat template's arguments must be JSON values: {error}") from error
        answer = _WORKER.ask(line)
        if "error" in answer:
            chosen = "the chat template" if name is None else f"the chat template {name!r}"
            raise InputError(f"{self.where}: {chosen} failed: {answer['error']}")
        return answer["texts"]


NO_TEMPLATES = ChatTemplates({}, {}, "tokenizer")


def named(given: Any, where: str) -> dict[str, str]:
    """Templates by name, of a `chat_template` as files have it: a string, a list of {"name", "template"}, or nothing.

    Raises:
        InputError: it is something else, or has two templates of one name.
    """
    if given is None:
        return {}
    if isinstance(given, str):
        return {"default": given}
    if isinstance(given, Mapping):
        given = [{"name": name, "template": template} for name, template in given.items()]
    if not isinstance(given, list):
        raise InputError(f"{where}: chat_template must be a string or a list of named templates, not "
                         f"{type(given).__name__}")
    out: dict[str, str] = {}
    for i, entry in enumerate(given):
        name, template = (entry.get(k) for k in ("name", "template")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise InputError(f"{where}: chat_template[{i}] must have a name and a template, both strings")
        if name in out:
            raise InputError(f"{where}: chat_template has two templates called {name!r}")
        out[name] = template
    return out
