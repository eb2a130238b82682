"""What a run shows: lines in a file, a live line on a terminal."""

import errno
import io
import sys

import pytest

from jdqn.runs import progress, stopping

VALUES = {"episodes": 12, "episode_return": 1.5, "epsilon": 0.1, "loss": None}
SHOWN = "steps 250  episodes 12  return 1.50  {} steps/s  epsilon 0.100  loss –"


@pytest.fixture
def terminal(monkeypatch):
    """Says whether there is one, and how wide it is."""

    def choose(there_is_one, columns):
        monkeypatch.setenv("TTY_COMPATIBLE", str(int(there_is_one)))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))

    return choose


def test_lines_without_a_terminal_are_plain_and_say_how_long_is_left(terminal, capsys):
    terminal(False, columns=40)
    shown = progress.Progress("dqn [seed 3]", 0, 1000, stopping.Stop())
    for rate in (25.0, None):
        shown.update(250, VALUES | {"steps_per_second": rate})
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    left = [f"{SHOWN.format(25)}  left 0:00:30", f"{SHOWN.format('–')}  left ?"]
    assert lines == ["dqn [seed 3]", *left]


def test_a_run_that_is_rounded_up_has_nothing_left(terminal, capsys):
    terminal(False, columns=40)
    progress.Progress("dqn", 0, 198, stopping.Stop()).update(200, {"steps_per_second": 1.0})
    assert capsys.readouterr().out.endswith("left 0:00:00\n")


def test_a_terminal_has_a_live_line_below_what_is_said(terminal, capsys):
    terminal(True, columns=200)
    shown = progress.Progress("dqn", 0, 1000, stopping.Stop())
    shown.update(250, VALUES | {"steps_per_second": 25.0})
    shown.say("warning: loss not finite")
    shown.close()
    said, _, after = capsys.readouterr().out.rpartition("warning: loss not finite")
    assert said.startswith("dqn\n")
    assert SHOWN.format(25) in after
    assert after.endswith("\x1b[?25h")  # the cursor is shown again


class Gone(io.StringIO):
    """A standard output that cannot be written to."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, _):
        raise OSError(self.number, "no")  # BrokenPipeError for EPIPE


@pytest.mark.parametrize(
    ("number", "reasons"), [(errno.EPIPE, [stopping.BROKEN_PIPE]), (errno.ENOSPC, [])]
)
def test_a_reader_that_went_away_asks_the_run_to_stop(monkeypatch, capsys, number, reasons):
    monkeypatch.setattr(sys, "stdout", Gone(number))
    stop = stopping.Stop()
    shown = progress.Progress("dqn", 0, 1000, stop)
    shown.update(250, VALUES)
    shown.say("saved")
    shown.close()
    assert stop.reasons == reasons
    # What is said from then on can be read elsewhere.
    assert capsys.readouterr().err.splitlines()[-1] == "saved"


class Full:
    """A stream on a full disk."""

    def write(self, _):
        raise OSError(28, "No space left on device")


def test_what_a_full_stdout_refuses_is_said_on_stderr(monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        shown = progress.Progress("dqn", 0, 1000, stopping.Stop())
        shown.say("warning: cannot write the log")
        assert capfd.readouterr().err == "dqn\nwarning: cannot write the log\n"
        monkeypatch.setattr(sys, "stderr", Full())
        shown.say("nobody hears this")
        shown.close()
