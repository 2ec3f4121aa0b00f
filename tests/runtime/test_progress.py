"""Bars, log lines, tables."""

import io
import logging
import subprocess
import sys

import pytest
import rich.console

from ilf_jax.runtime import progress


@pytest.fixture
def lines(monkeypatch):
    logged: list[str] = []
    monkeypatch.setattr(progress, "log", logged.append)
    return logged


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def pipe() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO(), force_terminal=False)


def test_log_lines_are_sparse_and_end_with_the_rate(lines, clock):
    with progress.Progress("refine", 100, done=10, console=pipe()) as bar:
        for _ in range(9):
            clock.now += 10
            bar.advance(10, loss=0.5)
    assert lines[0] == "refine: 10 of 100 documents done, starting"
    assert lines[1] == "refine: 40 of 100 documents, 1 documents/s, 1:00 left, loss 0.5"
    assert lines[2].startswith("refine: 70 of 100 documents")
    assert lines[3] == "refine: 100 documents, done in 1:30, 1 documents/s, loss 0.5"
    assert len(lines) == 4


def test_an_exception_passes_and_is_named(lines, clock):
    with pytest.raises(KeyError), progress.Progress("draft", 5, console=pipe()) as bar:
        clock.now += 1
        bar.advance(2)
        raise KeyError("x")
    assert lines[-1] == "draft: 2 of 5 documents, stopped by KeyError after 1.0 s, 2 documents/s"


def test_nothing_to_do_is_no_division_by_zero(lines, clock):
    with progress.Progress("score", 0, console=pipe()):
        pass
    assert lines[-1].startswith("score: 0 documents, done in 0.0 s")


def test_terminal_gets_a_bar_and_log_goes_above_it():
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress.Progress("refine", 4, unit="steps", console=console) as bar:
        bar.advance(4, loss=0.25)
        progress.log("a line [with brackets]")
    drawn = console.file.getvalue()
    assert "4/4" in drawn and "steps/s, loss 0.25" in drawn and "a line [with brackets]" in drawn
    assert not progress._live_bars


def test_log_is_info(caplog):
    with caplog.at_level(logging.INFO):
        progress.log("100% done")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("INFO", "100% done")]


def test_log_is_plain_on_stderr_without_jax_or_library_chatter():
    code = (
        "import sys; from ilf_jax.runtime import progress; from absl import flags, logging; flags.FLAGS(['x']);"
        "progress.log('hello'); logging.info('chatter'); logging.warning('careful');"
        "assert 'jax' not in sys.modules and 'tensorboardX' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first == "hello"
    assert second.startswith("W") and second.endswith("careful")


def test_table_in_a_pipe(capsys):
    progress.print_table("Metrics", ["metric", "value"], [["rouge1", "0.5 ± 0.1"], ["words", 12], ["n", None]])
    assert capsys.readouterr().out == (
        "Metrics\nmetric      value\n------  ---------\nrouge1  0.5 ± 0.1\nwords          12\nn\n"
    )


def test_table_without_rows():
    assert progress.format_table("", ["a", "bc"], []) == "a  bc\n-  --"


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (12.3, "12 s"), (185, "3:05"), (7201, "2:00:01")])
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.versions
@pytest.mark.fast
def test_a_name_from_the_data_stays_in_its_cell():
    text = progress.format_table("", ["a\nb", "n"], [["x\r\ny\u2028z", 1], ["\x1b[31mred", 2]])
    assert text.splitlines() == ["a b       n", "--------  -", "x y z     1", "\ufffd[31mred  2"]
