"""Config files by name and by path."""

import pathlib

import pytest

from ilf_jax.entry import shipped
from ilf_jax.errors import InputError, near_path

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.fast


def test_names_are_the_files_of_the_folder():
    assert {"quickstart", "methods", "template", "sweeps/methods"} <= set(shipped.names())
    assert len(shipped.names()) == len(list((ROOT / "configs").glob("**/*.py")))
    assert list(shipped.names())[-1].startswith("sweeps/")


@pytest.mark.parametrize("name", ["quickstart", "configs/quickstart.py"])
def test_a_shipped_configuration_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.locate(f"{name}:a=1") == f"{ROOT / 'configs/quickstart.py'}:a=1"


def test_in_a_clone_name_and_path_are_the_same(monkeypatch):
    """config.json keeps the path of a reward function in the file: a run begun by path is resumed by name."""
    monkeypatch.chdir(ROOT)
    assert shipped.locate("own_reward") == shipped.locate("configs/own_reward.py") == "configs/own_reward.py"


def test_a_file_of_the_user_s_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "quickstart").touch()
    (tmp_path / "mine.py").touch()
    assert shipped.locate("quickstart:b") == "quickstart:b"
    assert shipped.locate("~/mine.py") == str(tmp_path / "mine.py")


@pytest.mark.parametrize("name", ["", "nothing_like_it", "../secrets", "configs/../setup.py", "quickstart.py/.."])
def test_what_is_not_there_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="ilf-jax configs"):
        shipped.locate(name)


def test_the_listing_has_the_first_line_of_each():
    text = shipped.listing()
    assert all(f"\n  {name} " in text for name in shipped.names())
    assert "The whole loop in minutes on a laptop" in text


@pytest.mark.parametrize(("wanted", "near"), [
    ("reviews.jsonl", "review.jsonl"), ("pair.jsonl", "pairs.jsonl"), ("pairs.json", "pairs.jsonl"),
    ("data.jsonl", None), ("nowhere/pairs.jsonl", None)])
def test_a_common_ending_makes_no_names_alike(tmp_path, wanted, near):
    for name in ("pairs.jsonl", "review.jsonl", "review.txt"):
        (tmp_path / name).touch()
    found = near_path(tmp_path / wanted)
    assert found == (tmp_path / near if near else None)
