"""The wheel and the source archive: what they hold, and that the wheel runs where there is no clone."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from ilf_jax import version

ROOT = pathlib.Path(__file__).parents[1]
# Folders of a clone that are no part of either.
_LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "tests", "docs", "benchmarks")


def files(folder):
    """What is in a folder of the clone, but for what Python and macOS leave there."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.name != ".DS_Store"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """(Wheel, source archive); the wheel is built from the archive, so it needs nothing else of the clone."""
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(ROOT, folder / "clone", ignore=_LEFT_OUT, symlinks=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "clone"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (source,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, source


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """A folder for PYTHONPATH with what the wheel installs."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(archives[0]).extractall(folder)
    return folder


def test_the_wheel_holds_the_package_configs_and_launch_scripts(archives):
    names = set(zipfile.ZipFile(archives[0]).namelist())
    expected = files("ilf_jax") | {f"ilf_jax/{name}" for name in files("configs") | files("launch")}
    info = f"ilf_jax-{version.__version__}.dist-info"
    assert {name for name in names if not name.startswith(info)} == expected
    assert {"ilf_jax/configs/quickstart.py", "ilf_jax/launch/tpu_pod.sh", "ilf_jax/assets/reviews_sample.jsonl",
            "ilf_jax/assets/word_removal_1m/model.safetensors", f"{info}/entry_points.txt"} <= names
    assert any(name.startswith(info) and name.endswith("LICENSE") for name in names)


def test_the_source_archive_holds_what_is_installed_from_it(archives):
    with tarfile.open(archives[1]) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert files("ilf_jax") | files("configs") | files("launch") <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "requirements.txt", "setup.py"} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_extras_are_announced(archives):
    wheel = zipfile.ZipFile(archives[0])
    (metadata,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
    assert {f"Provides-Extra: {name}" for name in ("cuda13", "tpu", "wandb", "mlflow", "test")} <= set(lines)


def call(installed, folder, *arguments):
    """`ilf-jax ARGUMENTS` where there is nothing but the wheel."""
    environment = {"PATH": "", "PYTHONPATH": str(installed), "HOME": str(folder)}
    return subprocess.run([sys.executable, "-P", "-m", "ilf_jax", *arguments], cwd=folder, capture_output=True,
                          text=True, env=environment)


def test_a_wheel_lists_and_finds_its_configurations(installed, tmp_path):
    listed = call(installed, tmp_path, "configs")
    assert listed.returncode == 0 and f"They are in {installed / 'ilf_jax/configs'}:" in listed.stdout
    assert "\n  quickstart " in listed.stdout and "\n  sweeps/methods " in listed.stdout
    refused = call(installed, tmp_path, "run", "--config=own_reward", "--workdir=x",
                   "--config.data.source=jsonl:no.jsonl")
    assert refused.returncode == 2 and "config.data.source: no file no.jsonl" in refused.stderr


def test_a_wheel_lists_the_cells_of_a_sweep(installed, tmp_path):
    """Its sweeps name their configurations by the path in a clone."""
    listed = call(installed, tmp_path, "sweep", "--config=sweeps/methods", "--workdir=x", "--dry_run")
    assert listed.stdout.splitlines() == ["to run  seed=0", "to run  seed=1", "to run  seed=2"], listed.stderr
