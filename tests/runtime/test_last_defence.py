"""Whatever happens, the user reads one line or three, and the exit code says which."""

import pathlib

import pytest

from ilf_jax.errors import InputError
from ilf_jax.runtime import last_defence, progress

pytestmark = pytest.mark.fast


def code_and_words(error, folder, capsys):
    def main(argv):
        raise error

    code = last_defence.guarded("starting", lambda: folder)(main)([])
    return code, capsys.readouterr().err.splitlines()


def test_bad_input_is_one_line(capsys, tmp_path):
    assert code_and_words(InputError("config.seed: no"), str(tmp_path), capsys) == (2, ["error: config.seed: no"])
    assert not list(tmp_path.iterdir())


def test_the_unforeseen_is_three_lines_and_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_latest_label", "refine 2")
    code, lines = code_and_words(ZeroDivisionError("by\nzero"), str(tmp_path), capsys)
    assert (code, len(lines)) == (70, 3)
    assert lines[0] == "error: refine 2: an error that nobody foresaw, ZeroDivisionError: by"
    assert str(tmp_path) in lines[1] and "intact" in lines[1]
    (written,) = tmp_path.iterdir()
    assert str(written) in lines[2] and 'raise error\nZeroDivisionError: by\nzero' in written.read_text()


@pytest.mark.parametrize("folder", [None, "/proc/no/such/folder", "gs://bucket/run"])
def test_the_traceback_is_kept_where_the_work_folder_cannot_hold_it(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, lines = code_and_words(KeyError("x"), folder, capsys)
    assert (code, len(lines)) == (70, 3)
    assert [str(p) in lines[2] for p in tmp_path.iterdir()] == [True]


def test_a_traceback_that_can_be_kept_nowhere_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    code, lines = code_and_words(KeyError("x"), None, capsys)
    assert code == 70 and any(line.startswith("Traceback") for line in lines)


def test_an_error_of_the_disk_is_in_words(capsys, tmp_path):
    code, lines = code_and_words(OSError(116, "Stale file handle"), str(tmp_path), capsys)
    assert (code, len(lines)) == (2, 1) and "mount it again" in lines[0]


def test_an_interrupt_before_there_is_a_handler(capsys):
    code, lines = code_and_words(KeyboardInterrupt(), None, capsys)
    assert (code, len(lines)) == (130, 1) and "SIGINT" in lines[0]


def test_other_exits_pass():
    def main(argv):
        raise SystemExit(143)

    with pytest.raises(SystemExit, match="143"):
        last_defence.guarded("x", lambda: None)(main)([])
