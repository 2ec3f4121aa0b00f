"""Renders chat templates in a process of its own: whatever a template does, time and memory are bounded.

    python template_worker.py SECONDS BYTES

A request is a line of JSON on stdin, {"source", "conversations", "variables", "now"}; its answer is a line on stdout,
{"texts"} or {"error"}. The template language is that of Hugging Face's chat templates. The sandbox keeps templates from
what is not theirs; but `'a' * 10**11` holds the interpreter inside one operation, which only the operating system can
interrupt.

Runs as a script, and imports nothing of the package: it must start fast, without JAX.
"""

import collections
import contextlib
import datetime
import json
import os
import signal
import sys
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

MAX_TEXT = 1 << 24
"""Characters of a rendered template."""
_KEPT = 32  # compiled templates


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote; it renders as what it holds."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The statements up to `{% endgeneration %}`, in a scope of their own as a call block has."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _Namespace(jinja2.utils.Namespace):
    """`namespace`, which stores no name with a leading underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # without a named `self`, which may be a key
        values = dict(*args[1:], **kwargs)
        jinja2.utils.Namespace.__init__(args[0])
        for name, value in values.items():
            args[0][name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.sandbox.SecurityError(f"a namespace stores no name with a leading underscore: {name!r}")
        super().__setitem__(name, value)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | str | None = None, separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Renderer:
    """Compiles templates, keeps the latest, and renders them."""

    def __init__(self) -> None:
        self._now = datetime.datetime.now()
        self._compiled: collections.OrderedDict[str, jinja2.Template] = collections.OrderedDict()
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
        env.filters["tojson"] = _to_json
        env.globals.update(raise_exception=_refuse, namespace=_Namespace,
                           strftime_now=lambda pattern: self._now.strftime(pattern))
        self._environment = env

    def render(self, source: str, conversations: list[Any], variables: dict[str, Any], now: str) -> list[str]:
        """The template's text of each conversation; `now` is the time, in ISO format, that the template is told."""
        self._now = datetime.datetime.fromisoformat(now)
        if source not in self._compiled:
            self._compiled[source] = self._environment.from_string(source)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        template = self._compiled[source]
        return [template.render(messages=messages, **variables) for messages in conversations]

    def answer(self, request: str) -> dict[str, Any]:
        """What a line of stdin is answered with."""
        try:
            texts = self.render(**json.loads(request))
        except MemoryError:
            return {"error": "it takes more memory than a template may"}
        except RecursionError:
            return {"error": "it is nested too deeply, or calls itself without end"}
        except Exception as error:  # a template may raise anything
            line = getattr(error, "lineno", None)
            return {"error": (f"line {line}: " if line else "") + (str(error) or type(error).__name__)[:1000]}
        longest = max(map(len, texts))
        if longest > MAX_TEXT:
            return {"error": f"it renders {longest} characters; allowed are {MAX_TEXT}"}
        return {"texts": texts}


def serve(seconds: float, limit: int) -> None:
    """Answers requests until stdin ends. One that computes for longer than `seconds` ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's affair; it closes stdin
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the parent may have ignored or blocked it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    _limit_memory(limit)
    renderer = Renderer()
    # Nothing that a template prints by accident may stand among the answers.
    with os.fdopen(os.dup(1), "w", encoding="ascii") as out:
        os.dup2(2, 1)
        for request in sys.stdin:
            signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal's default action ends the process
            answer = renderer.answer(request)
            try:
                line = json.dumps(answer)
            except MemoryError:
                line = json.dumps({"error": "it takes more memory than a template may"})
            signal.setitimer(signal.ITIMER_PROF, 0)
            out.write(line + "\n")
            out.flush()


def _limit_memory(limit: int) -> None:
    with contextlib.suppress(ImportError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    serve(float(sys.argv[1]), int(sys.argv[2]))
