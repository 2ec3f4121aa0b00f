"""How a run was started: command, machine, commit, versions of packages. Secrets are masked."""

import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ilf_jax.version import __version__

MOST_STARTS = 20
"""Of a run that is resumed more often, the first start and the latest ones are kept."""
_VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
_LONGEST_COMMAND = 4000
_MASK = "***"
_PACKAGE = pathlib.Path(__file__).parents[1]
# The last word of a flag's name: hub.token and API-KEY, but neither max_tokens nor tokenizer.
_SECRET_NAME = re.compile(r"(^|[^a-z])(token|secret|password|passwd|passphrase|credentials?|auth|bearer|"
                          r"(api|access|private|secret)?_?key)$")
# What issuers put before their tokens: Hugging Face, OpenAI and Anthropic, GitHub, GitLab, Slack, AWS, Google, JWT.
_SECRET_VALUE = re.compile(r"\b(hf_|sk-|gh[oprsu]_|github_pat_|glpat-|xox[a-z]-|AKIA|ASIA|AIza|ya29\.|eyJ)[\w.-]{8,}")
_AUTHORIZATION = re.compile(r"\b(bearer|basic) [\w.~+/=-]{6,}", re.I)
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY_OF_URL = re.compile(r"([?&][\w.-]*(?:token|signature|sig|key|secret|password|credential)[\w.-]*=)[^&\s]+", re.I)


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    by_package = {"python": platform.python_version(), "ilf-jax": __version__}
    for package in _VERSIONED:
        try:
            by_package[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            by_package[package] = "not installed"
    return by_package


def masked(arguments: Sequence[str]) -> list[str]:
    """A command line without secrets: values of flags that are named like one, tokens, and passwords in URLs."""
    shown = []
    value_is_secret = False
    for argument in arguments:
        if value_is_secret and not argument.startswith("-"):
            shown.append(_MASK)
            value_is_secret = False
            continue
        name, equals, value = argument.partition("=")
        is_secret = _is_secret(name)
        value_is_secret = is_secret and not equals and name.startswith("-")
        shown.append(f"{name}={_MASK}" if is_secret and equals and value else _without_secrets(argument))
    return shown


def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name.lstrip("-").replace("-", "_").lower()))


def _without_secrets(text: str) -> str:
    text = _QUERY_OF_URL.sub(rf"\1{_MASK}", _USER_OF_URL.sub(_MASK, text))
    return _SECRET_VALUE.sub(rf"\1{_MASK}", _AUTHORIZATION.sub(rf"\1 {_MASK}", text))


def command() -> str:
    """The command line of this process as a shell takes it, masked; cut where it is very long."""
    given = getattr(sys, "orig_argv", sys.argv)
    text = shlex.join(masked(given))
    return text if len(text) <= _LONGEST_COMMAND else f"{text[:_LONGEST_COMMAND]} ..."


def commit() -> str | None:
    """The commit of the checkout that this package runs from, "-dirty" with changes; None where there is none."""
    root = _PACKAGE.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = done.stdout.strip()
    return said if done.returncode == 0 and re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", said) else None


def hardware() -> dict[str, str]:
    """The accelerators of all processes, and this process's host."""
    import jax  # reports and the flags of the command line go without

    kinds = [device.device_kind for device in jax.devices()]
    devices = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    host = [_processor(), f"{_cores()} cores", *_memory()]
    return {"devices": devices + processes, "host": ", ".join(host), "system": platform.platform()}


def _processor() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> list[str]:
    """[] where the system does not say."""
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        return []
    return [f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB of memory"]


def here() -> dict[str, Any]:
    """How and where this process was started, for run.json: when (unix time), command, hardware, commit."""
    return {"when": time.time(), "command": command(), "hardware": hardware(), "commit": commit()}


def remember(starts: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The starts of a run with one more, unless it is like the last one but for its time."""
    kept = [dict(start) for start in starts]
    if not kept or {**kept[-1], "when": None} != {**now, "when": None}:
        kept.append(dict(now))
    return kept if len(kept) <= MOST_STARTS else [kept[0], *kept[1 - MOST_STARTS:]]
