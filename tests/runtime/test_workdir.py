"""Work folders: their format, and whose they are."""

import json

import pytest

from ilf_jax.errors import InputError
from ilf_jax.runtime import files, workdir

pytestmark = pytest.mark.fast


def test_run_facts_are_kept_when_a_run_is_resumed(tmp_path):
    folder, lock = workdir.open_workdir(tmp_path / "run", {"seed": 1}, {"insult_rate": "lower"})
    lock.close()
    facts = workdir.read_run_facts(folder.path)
    assert facts == {"format": 2, "started": facts["started"], "metric_directions": {"insult_rate": "lower"}}
    _, lock = workdir.open_workdir(tmp_path / "run", {"seed": 1}, {"insult_rate": "lower"})
    lock.close()
    assert workdir.read_run_facts(folder.path) == facts


@pytest.mark.parametrize(("run", "written"), [(None, "format 1"), ({"format": 3}, "format 3"), ({}, "format None")])
def test_a_folder_of_another_format_is_refused(tmp_path, run, written):
    (tmp_path / "config.json").write_text('{"seed": 1}')
    if run is not None:
        (tmp_path / "run.json").write_text(json.dumps(run))
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}
    with pytest.raises(InputError) as error:
        workdir.open_workdir(tmp_path, {"seed": 1})
    for words in (str(tmp_path), written, "format 2", "another --workdir", "the version that wrote"):
        assert words in str(error.value)
    (tmp_path / ".lock").unlink()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before


def test_a_kill_before_the_config_is_written_leaves_a_new_folder(tmp_path, monkeypatch):
    write = workdir.write_json

    def killed(path, content):
        if path.name == "config.json":
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(workdir, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            workdir.open_workdir(tmp_path, {"seed": 1})
    _, lock = workdir.open_workdir(tmp_path, {"seed": 2})
    lock.close()
    assert files.read_sealed(tmp_path / "config.json") == {"seed": 2}
