"""How a run was started: what is noted, and what must never be."""

import subprocess
import sys

import pytest

from ilf_jax.reporting import html_report
from ilf_jax.runtime import provenance, workdir

SECRETS = ("hf_abcdefghijklmnop", "sk-proj-abcdefghijkl", "hunter2", "AKIAABCDEFGHIJKLMNOP", "opensesame")


@pytest.mark.fast
def test_no_secret_stays_in_the_command():
    given = ["python", "-m", "ilf_jax.main", "--hub-token=opensesame", "--password", "hunter2",
             "--config.hub.api_key=hunter2", "--x=hf_abcdefghijklmnop", "OPENAI_API_KEY=opensesame", "--proxy=https://ann:hunter2@proxy:80/a",
             "--data=https://bucket/f?X-Amz-Signature=opensesame&part=3", "sk-proj-abcdefghijkl",
             "--key=AKIAABCDEFGHIJKLMNOP", "--secret=",
             "--header=Authorization: Bearer opensesame", "--auth", "--workdir=runs/x"]
    shown = provenance.masked(given)
    assert not any(secret in argument for argument in shown for secret in SECRETS)
    assert shown[3:6] == ["--hub-token=***", "--password", "***"] and shown[-2:] == ["--auth", "--workdir=runs/x"]
    assert "--proxy=https://***@proxy:80/a" in shown and "--data=https://bucket/f?X-Amz-Signature=***&part=3" in shown


@pytest.mark.fast
def test_what_is_no_secret_stays():
    given = ["--config.draft.max_new_tokens=32", "--config.policy.tokenizer=train:512", "--config.data.fields.id=key",
             "--config=configs/tokens.py", "--workdir=gs://bucket/a@b", "--keys=3", "author=me", "monkey=1"]
    assert provenance.masked(given) == given


def test_here_says_command_hardware_and_commit():
    here = provenance.here()
    assert here["command"] and "cpu" in here["hardware"]["devices"] and "cores" in here["hardware"]["host"]
    assert here["commit"] is None or len(here["commit"].partition("-")[0]) >= 7


@pytest.mark.fast
def test_the_commit_of_someone_else_s_repository_is_not_ours(tmp_path, monkeypatch):
    """An installed package, in an environment inside of a repository that is about something else."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / ".venv/lib/ilf_jax")
    assert provenance.commit() is None
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / "ilf_jax")
    assert provenance.commit() is None  # it has no commit yet
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "x"]
    subprocess.run(git, check=True)
    said = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    head = said.stdout
    assert provenance.commit() == head[:12]
    (tmp_path / "file").write_text("x")
    subprocess.run(["git", "-C", tmp_path, "add", "file"], check=True)
    assert provenance.commit() == f"{head[:12]}-dirty"
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


@pytest.mark.fast
def test_starts_are_kept_in_the_folder_and_shown(tmp_path):
    path = tmp_path / "run"
    hardware = {"devices": "2 x H100", "host": "h"}
    start = {"when": 1.7e9, "command": "ilf-jax run <b>", "hardware": hardware, "commit": None}
    again = {**start, "when": 1.8e9, "command": "ilf-jax run again"}
    for one in (start, {**start, "when": 1.75e9}, again):  # the second is like the first
        workdir.open_workdir(path, {"iterations": 1}, start=one)[1].close()
    workdir.open_workdir(path, {"iterations": 1})[1].close()  # who does not say keeps what there is
    assert workdir.read_run_facts(workdir.storage.path(path))["starts"] == [start, again]
    page = html_report.build_report(path).read_text()
    assert "ilf-jax run again" in page and "ilf-jax run &lt;b&gt;" in page and "1 earlier start" in page
    assert "2 x H100" in page and "no git checkout" in page


@pytest.mark.fast
def test_a_run_that_is_resumed_often_keeps_its_first_start():
    starts = []
    for i in range(3 * provenance.MOST_STARTS):
        starts = provenance.remember(starts, {"when": float(i), "command": str(i)})
    assert len(starts) == provenance.MOST_STARTS
    assert starts[0]["command"] == "0" and starts[-1]["command"] == str(3 * provenance.MOST_STARTS - 1)


@pytest.mark.fast
def test_a_very_long_command_is_cut(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "x" * 100_000])
    assert len(provenance.command()) < 5000 and provenance.command().endswith("...")
