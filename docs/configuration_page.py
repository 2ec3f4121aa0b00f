"""Writes docs/configuration.md from the table of keys: python docs/configuration_page.py. A test compares the two."""

import ast
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ilf_jax import config as config_lib  # noqa: E402  # of this checkout
from ilf_jax.config_keys import Key  # noqa: E402
from ilf_jax.config_sections import Config  # noqa: E402
from ilf_jax.entry import shipped  # noqa: E402

PAGE = ROOT / "docs/configuration.md"
_INTRODUCTION = """\
# Configuration

A run is described by one configuration. A config file makes it, and any key can be overridden:

```bash
ilf-jax run --config=quickstart --workdir=runs/mine --config.finetune.learning_rate=1e-4 --config.iterations=2
```

`--config` takes the name of a shipped config, or the path of a Python file of yours:

```python
# my_config.py
from ilf_jax.config import base_config


def get_config():
    c = base_config()
    c.data.source = "jsonl:reviews.jsonl"
    c.finetune.learning_rate = 2e-5
    return c
```

A key that does not exist, a wrong type, or a value out of range stops the run before anything is loaded, and names the
nearest key and what is allowed. `None` unsets a key that may be unset. Paths and text are given as they are; tuples
and mappings as in Python, in quotes: `--config.baselines="('initial', 'random')"`.

The command line knows what this page says:

```bash
ilf-jax configs                           # the shipped configs
ilf-jax config                            # the sections
ilf-jax config finetune.learning_rate     # one key
```

## Shipped configs

`ilf-jax configs` lists them, and says where the files are. Each begins with its command, hardware, time and expected
result. Those called `sweeps/` are for `ilf-jax sweep`.

"""


def page() -> str:
    """The whole page."""
    return _INTRODUCTION + _shipped() + "\n".join(_sections())


def _shipped() -> str:
    rows = ["| config | what it runs |", "|---|---|"]
    for name in shipped.names():
        path = shipped.folder("configs") / f"{name}.py"
        first_line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        rows.append(f"| `{name}` | {first_line} |")
    return "\n".join(rows) + "\n\n"


def _sections() -> Iterator[str]:
    """A heading and a table for the run's own keys and for each section; sections of one kind share a table."""
    keys = config_lib.key_table()
    yield "## The run\n"
    yield _table({name: entry for name, entry in keys.items() if "." not in name})
    kinds = {field.name: type(value) for field in dataclasses.fields(Config)
             if dataclasses.is_dataclass(value := getattr(Config(), field.name))}
    for _, group in itertools.groupby(kinds, kinds.get):
        names = list(group)
        of_section = [{key.removeprefix(f"{name}."): entry for key, entry in keys.items() if key.startswith(f"{name}.")}
                      for name in names]
        yield f"## {', '.join(names)}\n"
        docs = [config_lib.sections()[name] for name in names]
        yield (f"{docs[0][:1].upper()}{docs[0][1:]}.\n" if len(names) == 1 else
               "\n".join(f"- `{name}`: {doc}" for name, doc in zip(names, docs, strict=True)) + "\n")
        yield _table(*of_section)


def _table(keys: dict[str, Key], *others: dict[str, Key]) -> str:
    """A row a key. Where a section of the kind has another default than the first, both are given."""
    rows = ["| key | type | default | meaning | allowed |", "|---|---|---|---|---|"]
    for name, entry in keys.items():
        defaults = dict.fromkeys(_code(section[name].default) for section in (keys, *others))
        cells = (f"`{name}`", entry.type_name, "; of the others ".join(defaults), entry.doc, _allowed(entry))
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _allowed(entry: Key) -> str:
    """Of a choice from a registry the built-in ones: tests that share a process with this may have added others."""
    if entry.registry is None:
        return entry.allowed
    return f"{', '.join(map(_code, entry.registry.builtins))}, or [a place of your code](own_code.md)"


def _code(value: object) -> str:
    return "unset" if value is None else f"`{value!r}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
