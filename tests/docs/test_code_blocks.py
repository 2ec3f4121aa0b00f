"""Every command and every piece of Python in README.md and docs/ is checked; with --run_docs they run.

A command's flags exist, its configuration is read with the overrides that it gives, and files of the user's that it
names stand in a block of the page. Python blocks compile, name what exists, and run where that costs nothing.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from code_blocks import PAGES, ROOT, blocks, commands

import ilf_jax
from ilf_jax import cli, config_keys
from ilf_jax import config as config_lib
from ilf_jax.config_sections import Config
from ilf_jax.policy.trained_policy import Policy
from ilf_jax.sweeps import config_files, grid

pytestmark = pytest.mark.fast

# Programs of others, whose flags are not checked here.
_OTHERS = {"cd", "curl", "export", "git", "head", "hf", "llama-server", "mkdocs", "moto_server", "ollama", "pytest",
           "source", "tensorboard", "vllm"}
_STARTED_BY_LAUNCHERS = ("launch/multiprocess.sh", "launch/tpu_pod.sh", "launch/slurm.sbatch")
_CHEAP = ("config", "configs")  # commands that run here
_PLACEHOLDER = re.compile(r"[A-Z]{3,}|\.\.\.")
SHELL = [block for page in PAGES for block in blocks(page) if block.language == "bash"]
PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


def files_of_page(page, folder):
    """Writes the page's Python files into a folder and returns their names."""
    names = set()
    for block in blocks(page):
        if block.file_name:
            (folder / block.file_name).write_text(block.text)
            names.add(block.file_name)
    return names


def flags_of(module):
    """Names of the flags that a module defines, and, of one in a room, those of the room."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    paths = [path] if path.parent.name == "ilf_jax" else path.parent.glob("*.py")
    calls = [node for one in paths for node in ast.walk(ast.parse(one.read_text(encoding="utf-8")))
             if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)]
    names = {node.args[0].value for node in calls if ast.unparse(node.func).rpartition(".")[2].startswith("DEFINE_")}
    return names | {node.args[0].value.removeprefix("--") for node in calls
                    if ast.unparse(node.func).endswith("add_argument")}


def value_of(key, text):
    """What `--config.KEY=TEXT` sets the key to."""
    entry = config_keys.table(Config).get(key)
    if entry is None:
        raise config_lib.unknown_key(key)
    if text == "None" and entry.optional:
        return None
    if entry.kind is str:
        return text
    return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))


def config_file(uri):
    """PATH:ARGUMENT of what --config names: a file here, one of the repository's, or a shipped configuration."""
    name, colon, argument = uri.partition(":")
    for path in (pathlib.Path(name), ROOT / name, ROOT / "configs" / f"{name}.py"):
        if path.is_file():
            return f"{path}{colon}{argument}"
    raise AssertionError(f"--config={uri}: there is no such file or shipped configuration")


def check_flags(command, words):
    """Of `ilf-jax COMMAND`: flags, configuration, keys and values; a user's own code is loaded."""
    module = cli._COMMANDS[command][0]
    flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    unknown = {name for name in flags if not name.startswith("config.")} - flags_of(module)
    assert not unknown, f"ilf-jax {command} has no flags {unknown}"
    if "config" not in flags or _PLACEHOLDER.search(flags["config"]):
        return
    if command == "sweep":
        sweep = grid.load(config_file(flags["config"]))
        assert sweep.cells
        return
    overrides = {key: value_of(key, text) for name, text in flags.items()
                 if (key := name.removeprefix("config.")) != name}
    config_files.from_file(config_file(flags["config"]), overrides)
    for key, value in overrides.items():
        registry = config_keys.table(Config)[key].registry
        if registry is not None and value.startswith("file:"):
            registry.load(value)


def check_command(words, own_files):
    """Raises AssertionError, KeyError or InputError if there is something wrong with a command."""
    program, rest = words[0], words[1:]
    if program == "ilf-jax" and rest[0] in _CHEAP:
        done = subprocess.run([sys.executable, "-m", "ilf_jax.cli", *rest], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == 0 and done.stdout and not done.stderr, done.stderr
    elif program == "ilf-jax":
        check_flags(rest[0], rest[1:])
    elif program in ("python", "python3"):
        check_python_command(rest, own_files)
    elif program in ("bash", "sbatch"):
        script = next(word for word in rest if word.startswith("launch/"))
        assert (ROOT / script).is_file()
        if script in _STARTED_BY_LAUNCHERS:
            check_flags("run", rest[rest.index("--" if "--" in rest else script) + 1:])
    elif program == "kubectl":
        assert "-f" not in rest or (ROOT / rest[rest.index("-f") + 1]).is_file()
    elif program == "pip":
        for word in rest[1:]:
            assert not word.endswith(".txt") or (ROOT / word).is_file()
            named = re.fullmatch(r"(?:\.|ilf-jax)\[(.*)\]", word)
            assert named is None or set(named[1].split(",")) <= extras(), f"setup.py has no extra {word}"
    else:
        assert program in _OTHERS, f"no check for {program}"


def check_python_command(rest, own_files):
    if rest[0] == "-m" and rest[1].startswith("ilf_jax."):
        modules = {module: name for name, (module, _) in cli._COMMANDS.items()}
        imported = ast.parse(pathlib.Path(importlib.util.find_spec(rest[1]).origin).read_text())
        shims = [f"{node.module}.{node.names[0].name}" for node in ast.walk(imported)
                 if isinstance(node, ast.ImportFrom)] if rest[1] not in modules else []
        (name,) = {modules[module] for module in (rest[1], *shims) if module in modules}
        check_flags(name, rest[2:])
    elif rest[0] == "launch/sweep.py":
        check_flags("sweep", rest[1:])
    elif not rest[0].startswith("-"):
        assert rest[0] in own_files or (ROOT / rest[0]).is_file()


def extras():
    tree = ast.parse((ROOT / "setup.py").read_text())
    (found,) = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "extras_require"]
    return {key.value for key in found.keys}


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands(block, tmp_path, monkeypatch):
    own_files = files_of_page(block.page, tmp_path)
    monkeypatch.chdir(tmp_path)
    if any(words[1:3] == ["sweep"] or "sweep" in " ".join(words[:3]) for words in commands(block.text)):
        monkeypatch.chdir(ROOT)  # sweeps name config files from here
    assert commands(block.text)
    for words in commands(block.text):
        check_command(words, own_files)


def attribute_chain(node):
    """`a.b.c` as ["a", "b", "c"]; None for what is no chain of names."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else None


def check_names(tree):
    """What is imported from ilf_jax, its attributes, keys of the configuration and arguments of its functions exist."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "ilf_jax":
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        chain = attribute_chain(node) if isinstance(node, ast.Attribute) else None
        if chain and chain[0] == "ilf_jax":
            assert hasattr(ilf_jax, chain[1]), ".".join(chain)
        if chain and chain[0] in ("c", "config"):
            assert ".".join(chain[1:]) in config_lib.key_names(), ".".join(chain)
        called = attribute_chain(node.func) if isinstance(node, ast.Call) else None
        if called and (called[0] == "ilf_jax" or called[1:] == ["generate"]):
            function = Policy.generate if called[1:] == ["generate"] else getattr(ilf_jax, called[1])
            assert {argument.arg for argument in node.keywords} <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python(block, tmp_path, monkeypatch):
    own_files = files_of_page(block.page, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
            [node.module] if isinstance(node, ast.ImportFrom) else [])
        for name in names if not block.note else []:
            assert f"{name}.py" in own_files or importlib.util.find_spec(name.partition(".")[0]), name
    check_names(tree)
    if block.note or re.search(r"ilf_jax\.(run|load)\(", block.text):
        return  # takes longer than this test may
    space = {"__name__": "block"}
    exec(compile(tree, str(block), "exec"), space)
    if "get_config" in space:
        config_lib.read(space["get_config"]())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_other_blocks(page):
    for block in blocks(page):
        assert block.language in ("bash", "python", "json", "text", "bibtex"), f"{block}: {block.language!r}"
        assert re.fullmatch(r"|not run: \w.*|exit \d+", block.note), f"{block}: {block.note!r}"
        if block.language == "json":
            assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_the_text_exist(page):
    """Of `config.a.b` in running text; where it is given a value, that is allowed."""
    if page.name == "configuration.md":
        return  # generated; test_site.py compares it
    text = page.read_text(encoding="utf-8").partition("| you write | it says |")  # mistakes: test_site.py makes them
    text = text[0] + text[2].partition("\n\n")[2]
    for block in blocks(page):
        text = text.replace(block.text, "")
    for key, value in re.findall(r"`(?:--)?config\.(?!json`)([a-z_0-9.]*[a-z_0-9])(?:=([^`]*))?`", text):
        assert key in config_lib.key_names(), f"{page.name}: config.{key}"
        if value and not _PLACEHOLDER.search(value):
            value = value.partition(" --")[0].strip('"')
            is_text = config_keys.table(Config)[key].kind is str
            config_keys.check(Config, key, value_of(key, value.strip("'") if is_text else value))


def test_a_work_folder_has_one_configuration():
    """A reader who follows several pages in one clone is never refused: no run changes, nothing is exported twice."""
    found, outs = {}, []
    for block in SHELL:
        for words in commands(block.text):
            flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
            if "config" in flags and "workdir" in flags and not _PLACEHOLDER.search(flags["workdir"]):
                keys = {name: value for name, value in flags.items()
                        if name.startswith("config") and name != "config.iterations"}  # may grow
                found.setdefault(flags["workdir"], []).append((keys, str(block)))
            if "out" in flags:
                outs.append(flags["out"])
    assert len(found) > 10 and len(outs) > 5
    assert len(set(outs)) == len(outs)
    for workdir, uses in found.items():
        assert all(keys == uses[0][0] for keys, _ in uses), f"{workdir}: {uses}"


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 10
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200


def script_of(page):
    """One shell script that does what a page says, from top to bottom."""
    lines = ["set -euo pipefail"]
    for block in blocks(page):
        if block.note.startswith("not run") or block.language not in ("bash", "python"):
            continue
        if block.language == "python":
            command = f"cat > {block.file_name}" if block.file_name else "python -"
            body = f"{command} <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK"
        else:  # the suite does not run itself
            body = "\n".join(line for line in block.text.splitlines() if not line.startswith("bash launch/test.sh"))
        if block.note:
            body = f"code=0\n{body} || code=$?\n[ $code -eq {block.note.removeprefix('exit ')} ]"
        lines += [f"echo '== {block}' >&2", body]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["README.md", "tutorial.md"])
def test_pages_run(name, tmp_path, request):
    if not request.config.getoption("--run_docs"):
        pytest.skip("run by --run_docs: each page takes minutes")
    (page,) = [page for page in PAGES if page.name == name]
    clone, programs = tmp_path / "clone", tmp_path / "bin"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in filter(None, tracked.split("\0")):
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, clone / path)
    programs.mkdir()
    script = script_of(page)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    if "bin/activate" not in script:  # it takes an environment for granted
        environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(clone)}
        for program, module in (("ilf-jax", "-m ilf_jax.cli"), ("python", ""), ("pip", "-m pip")):
            (programs / program).write_text(f'#!/usr/bin/env bash\nexec {sys.executable} {module} "$@"\n')
            (programs / program).chmod(0o755)
    done = subprocess.run(["bash", "-c", script], cwd=clone, capture_output=True, text=True, env=environment)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
