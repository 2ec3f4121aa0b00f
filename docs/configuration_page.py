"""Writes docs/configuration.md from the table of keys: python docs/configuration_page.py. A test compares the two."""

import ast
import dataclasses
import itertools
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ilf_jax import config_keys  # noqa: E402  # of this checkout
from ilf_jax.config_sections import Config  # noqa: E402

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
nearest key and what is allowed. Paths and text are given as they are; tuples and mappings as in Python, in quotes:
`--config.baselines="('initial', 'random')"`.

## Shipped configs

Each file begins with its command, hardware, time and expected result.

"""


def page():
    """The whole page."""
    return _INTRODUCTION + _shipped() + "\n".join(_sections())


def _shipped():
    rows = ["| config | what it runs |", "|---|---|"]
    for path in sorted((ROOT / "configs").glob("**/*.py"), key=lambda p: (len(p.parts), p)):
        name = path.relative_to(ROOT / "configs").with_suffix("").as_posix()
        first_line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        rows.append(f"| `{name}` | {first_line} |")
    return "\n".join(rows) + "\n\n"


def _sections():
    """A heading and a table for the run's own keys and for each section; sections of one kind share a table."""
    keys = config_keys.table(Config)
    yield "## The run\n"
    yield _table({name: entry for name, entry in keys.items() if "." not in name})
    sections = [(field.name, value) for field in dataclasses.fields(Config)
                if dataclasses.is_dataclass(value := getattr(Config(), field.name))]
    for kind, group in itertools.groupby(sections, lambda section: type(section[1])):
        names = [name for name, _ in group]
        of_section = {name: {key.removeprefix(f"{name}."): entry for key, entry in keys.items()
                             if key.startswith(f"{name}.")} for name in names}
        yield f"## {', '.join(names)}\n"
        if "__doc__" in vars(kind) and not kind.__doc__.startswith(f"{kind.__name__}("):
            yield kind.__doc__.strip().replace("\n    ", "\n") + "\n"
        yield _table(of_section[names[0]], {name: of_section[name] for name in names[1:]})


def _table(keys, others=None):
    """A row a key; where other sections of the kind have another default, that is said."""
    rows = ["| key | type | default | meaning | allowed |", "|---|---|---|---|---|"]
    for name, entry in keys.items():
        defaults = [entry.default, *(other[name].default for other in (others or {}).values())]
        default = _code(entry.default) if len(set(map(repr, defaults))) == 1 else (
            f"{_code(defaults[-1])}; of the first: {_code(entry.default)}")
        cells = (f"`{name}`", _type(entry), default, entry.doc, _allowed(entry))
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _code(value):
    return "unset" if value is None else f"`{value!r}`"


def _type(entry):
    name = {object: "mapping"}.get(entry.kind, entry.kind.__name__)
    return f"{name} or None" if entry.optional else name


def _allowed(entry):
    if entry.registry is not None:
        return ", ".join(f"`{name}`" for name in entry.registry.builtins)
    if entry.choices is not None:
        return ", ".join(_code(choice) for choice in entry.choices)
    limits = [f"at least {entry.low}" if entry.low is not None else "",
              f"above {entry.above}" if entry.above is not None else "",
              f"at most {entry.high}" if entry.high is not None else ""]
    return ", ".join(filter(None, limits))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
