"""setup.py: one place for versions, bounds that the tested versions are within."""

import importlib.metadata
import pathlib
import re

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import ilf_jax
from ilf_jax import version

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def arguments(monkeypatch):
    """What setup.py calls setuptools.setup with."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **kwargs: given.update(kwargs))
    monkeypatch.chdir(ROOT)
    exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    return given


def test_the_version_is_the_package_s(arguments):
    assert arguments["version"] == ilf_jax.__version__ == version.__version__


def test_jax_has_bounds_that_the_installed_version_is_within(arguments):
    (bounds,) = (Requirement(text).specifier for text in arguments["install_requires"] if re.match(r"jax\b", text))
    assert bounds == SpecifierSet(version.JAX_VERSIONS) == SpecifierSet(">=0.10.2,<0.13")
    assert importlib.metadata.version("jax") in bounds


@pytest.mark.parametrize("name", ["cuda13", "tpu"])
def test_accelerators_come_with_the_same_jax(arguments, name):
    requirement = Requirement(*arguments["extras_require"][name])
    assert requirement.name == "jax" and requirement.extras == {name}
    assert requirement.specifier == SpecifierSet(version.JAX_VERSIONS)


def test_pinned_versions_are_within_the_bounds(arguments):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.lower().replace("-", "_").split("==") for line in lines if "==" in line)
    for requirement in map(Requirement, arguments["install_requires"]):
        assert pinned[requirement.name.lower().replace("-", "_")] in requirement.specifier, requirement


def test_the_console_script(arguments):
    (script,) = arguments["entry_points"]["console_scripts"]
    entry = importlib.metadata.EntryPoint(*map(str.strip, script.split("=")), "console_scripts")
    assert entry.name == "ilf-jax" and callable(entry.load())
