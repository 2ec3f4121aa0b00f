"""The shape of the package: which rooms there are, what may import what, and where Algorithm 1 is to be read."""

import ast
import collections
import pathlib

import pytest

from ilf_jax import records

pytestmark = pytest.mark.fast

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "ilf_jax"
# Top to bottom: a room may import those below it. Rooms on one line do not import each other, but for `_WITHIN`.
ROOMS = (
    ("__main__",),
    ("cli", "main", "report", "compare"),
    ("ilf", "setting_up"),
    ("sweeps", "dry_run", "comparison", "review", "export"),
    ("policy",),
    ("entry",),
    ("preflight",),
    ("stages",),
    ("reporting",),
    ("feedback", "scoring"),
    ("inference",),
    ("training",),
    ("steps",),
    ("sampling",),
    ("tokenizers",),
    ("models",),
    ("remote",),
    ("data",),
    ("tasks",),
    ("evaluation",),
    ("runtime",),
    ("config",),
    ("config_sections",),
    ("config_keys",),
    ("registry", "records", "errors", "version"),
)
_WITHIN = {("ilf", "setting_up"), ("registry", "errors"), ("records", "errors")}
_LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# The packages of the whole and of its data are no rooms: anybody may look a resource up, and the API loads lazily.
_NO_ROOMS = {"", "assets"}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path):
    """(Module, line) of everything of ours that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "ilf_jax":
                    yield alias.name.removeprefix("ilf_jax").removeprefix("."), node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ilf_jax":
            base = node.module.removeprefix("ilf_jax").removeprefix(".")
            for alias in node.names:
                module = f"{base}.{alias.name}".removeprefix(".")
                yield (module if module in FILES else base), node.lineno


EDGES = [(name, target, line) for name, path in FILES.items() for target, line in imported(path)]


def room(module):
    return module.split(".")[0]


def test_every_module_is_in_a_room():
    assert {room(module) for module in FILES} - set(_LEVEL) <= _NO_ROOMS


def test_imports_run_downwards():
    wrong = []
    for module, target, line in EDGES:
        upper, lower = room(module), room(target)
        if upper == lower or {upper, lower} & _NO_ROOMS:
            continue
        if _LEVEL[upper] > _LEVEL[lower] or (_LEVEL[upper] == _LEVEL[lower] and (upper, lower) not in _WITHIN):
            wrong.append(f"{FILES[module].relative_to(ROOT)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_imports_form_no_circle():
    needs = collections.defaultdict(set)
    for module, target, _ in EDGES:
        if module and target != module:
            needs[module].add(target)
    left = {module: set(targets) for module, targets in needs.items()}
    while True:  # takes away what imports nothing that is left
        free = {module for module, targets in left.items() if not targets & set(left)}
        if not free:
            break
        left = {module: targets for module, targets in left.items() if module not in free}
    assert not left, f"circles among {sorted(left)}"


def test_a_file_name_says_where_an_import_leads():
    names = collections.Counter(path.name for path in FILES.values() if not path.name.startswith("__"))
    assert not [name for name, count in names.items() if count > 1]


def test_files_are_read_in_one_sitting():
    long = {str(path.relative_to(ROOT)): count for path in FILES.values()
            if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def test_the_root_is_not_crowded():
    assert len(list(PACKAGE.glob("*.py"))) <= 15


def test_shims_are_short():
    for name in ("__main__", "report", "compare", "export.__main__"):
        assert len(FILES[name].read_text(encoding="utf-8").splitlines()) < 15


def test_stages_holds_stages():
    names = {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {"__init__", "context"}
    assert names == set(records.OF_STAGES)


def test_algorithm_1_is_on_one_page():
    text = FILES["ilf"].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    loop = next(node for node in ast.walk(functions["learn"]) if isinstance(node, ast.For))
    stages = ("draft", "give_feedback", "refine", "score", "finetune", "evaluate")
    calls = [node for node in ast.walk(loop) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    in_order = [node.func.id for node in sorted(calls, key=lambda node: (node.lineno, node.col_offset))
                if node.func.id in stages]
    assert tuple(in_order) == stages


def test_nothing_but_runtime_knows_orbax_and_private_jax():
    for module, path in FILES.items():
        text = path.read_text(encoding="utf-8")
        assert "orbax.checkpoint" not in text.replace("orbax-checkpoint", "") or module == "runtime.checkpoint", module
        assert "jax._src" not in text or module == "runtime.distributed", module


# Where a room's tests are, if not in the folder of its name. The whole run of test_ilf.py goes through every stage.
_TESTS_OF = {"steps": "training", "stages": "test_ilf.py"}
_FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.parent.name not in _NO_ROOMS)


def has_fast_test(path):
    """Whether `pytest.mark.fast` stands in a test file: above a test, in `pytestmark` or in a parameter's marks."""
    return any(isinstance(node, ast.Attribute) and ast.unparse(node) == "pytest.mark.fast"
               for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("name", _FOLDERS)
def test_every_room_has_a_fast_test(name):
    tests = ROOT / "tests" / _TESTS_OF.get(name, name)
    paths = [tests] if tests.is_file() else sorted(tests.rglob("test_*.py"))
    assert any(has_fast_test(path) for path in paths), f"no test in {tests.relative_to(ROOT)} is marked fast"
