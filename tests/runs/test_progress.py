"""What a run shows: lines in a file, a live line on a terminal."""

import errno
import io
import pathlib
import re
import sys
import types

import pytest

from jdqn.runs import progress, stopping
from jdqn.runs.episodes import Standing

VALUES = {"episodes": 12, "episode_return": 1.5, "epsilon": 0.1, "loss": None}
SHOWN = "{}  episodes 12  return 1.50  {} steps/s  epsilon 0.100  loss –  left {}"


def make(learning_starts_steps=0, total_steps=1000):
    """What a run of a thousand steps shows."""
    return progress.Progress("dqn [seed 3]", 0, learning_starts_steps, total_steps, stopping.Stop())


@pytest.fixture
def terminal(monkeypatch):
    """Says whether there is one, and how wide it is."""

    def choose(there_is_one, columns):
        monkeypatch.setenv("TTY_COMPATIBLE", str(int(there_is_one)))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))

    return choose


def test_lines_without_a_terminal_say_how_long_is_left_at_the_speed_of_learning(terminal, capsys):
    terminal(False, columns=40)
    shown = make(learning_starts_steps=300)
    for steps, rate in ((250, 1000.0), (500, 1000.0), (750, 25.0), (900, None)):
        shown.reach(steps - 1)
        shown.update(steps, VALUES | {"steps_per_second": rate})
    shown.close()
    assert capsys.readouterr().out.splitlines() == [
        "dqn [seed 3]",
        "compiling",
        "filling the replay: learning starts at 300 steps",
        SHOWN.format("steps 250  25%", "1,000", "–"),
        "learning",
        SHOWN.format("steps 500  50%", "1,000", "–"),  # not all of it
        SHOWN.format("steps 750  75%", "25", "0:00:10"),
        SHOWN.format("steps 900  90%", "–", "0:00:04"),
    ]


def test_the_speed_that_tells_the_time_left_follows_the_newest_slowly(terminal, capsys):
    terminal(False, columns=40)
    shown = make()
    for rate in (10.0, 20.0):
        shown.update(0, {"steps_per_second": rate})
    assert capsys.readouterr().out.endswith(f"left {progress.duration(1000 / 13)}\n")


def test_a_run_that_is_rounded_up_has_nothing_left(terminal, capsys):
    terminal(False, columns=40)
    make(total_steps=198).update(200, {"steps_per_second": 1.0})
    out = capsys.readouterr().out
    assert "100%" in out
    assert out.endswith("left 0:00:00\n")


def test_a_terminal_has_a_live_line_below_what_is_said(terminal, capsys):
    terminal(True, columns=80)
    shown = make()
    shown.reach(20)
    shown.update(250, VALUES | {"steps_per_second": 25.0})
    shown.say("warning: loss not finite")
    shown.close()
    said, _, after = capsys.readouterr().out.rpartition("warning: loss not finite")
    assert said.startswith("dqn [seed 3]\n")
    plain = re.sub(r"\x1b\[[\d;?]*\w", "", after)
    assert "learning  ━━╸───────  25%  return   1.50              25 steps/s  left 0:00:30" in plain
    assert "\x1b[?25h" in after  # the cursor is shown again


FULL = (
    (5, "learning  "),
    (3, "━━━━━━━━━━ "),
    (0, "100%"),
    (2, "  return 123.45"),
    (6, " ▁▂▃▄▅▆▇█"),
    (4, "  1,234 steps/s"),
    (1, "  left 0:01:00"),
)


def test_what_is_being_done_is_shown_until_it_is(terminal, capsys):
    terminal(True, columns=80)
    with progress.shown("making it", stopping.Stop()):
        pass
    assert "\x1b[?25h" in capsys.readouterr().out  # the cursor, hidden before
    terminal(False, columns=80)
    with progress.shown("making it", stopping.Stop()):
        pass
    assert capsys.readouterr().out == ""


def test_what_has_not_been_measured_is_not_shown(terminal):
    terminal(True, columns=80)
    shown = make(learning_starts_steps=300)
    shown.reach(10)
    shown.update(250, VALUES | {"steps_per_second": 1000.0})
    line = shown._render().plain
    assert line == "filling   ━━╸───────  25%  return   1.50           1,000 steps/s  left –"
    shown.reach(400)  # at another speed
    assert shown._render().plain == "learning  ━━━━──────  40%  return   1.50           left –"
    shown.close()


@pytest.fixture
def notebook(monkeypatch):
    """Standard output is a notebook's; returns what each of its displays shows now."""
    displays = []

    class Handle:
        def __init__(self, number):
            self.number = number

        def update(self, data, raw):
            displays[self.number] = data["text/plain"]

    def display(data, raw, display_id):
        displays.append(data["text/plain"])
        return Handle(len(displays) - 1)

    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr(progress, "is_of_notebook", lambda _: True)
    return displays


def test_what_a_kernel_prints_to_is_of_a_notebook():
    class OutStream(io.StringIO):
        __module__ = "ipykernel.iostream"

    assert progress.is_of_notebook(OutStream())
    assert not progress.is_of_notebook(io.StringIO())


def test_a_notebook_has_one_line_that_is_written_again(notebook, capsys):
    with progress.shown("making it", stopping.Stop()):
        pass
    shown = make(learning_starts_steps=300)
    for steps in (250, 500):
        shown.reach(steps)
        shown.update(steps, VALUES | {"steps_per_second": 25.0})
        shown.evaluating(Standing(3, 10, 12_345, None, False))
        shown.evaluated()
    assert notebook == ["compiling ──────────   0%  left –"]  # not so soon again
    shown.close()
    (line,) = notebook
    assert line.startswith("learning  ━━━━━─────  50%  return   1.50 ▁▁ ")
    started = "filling the replay: learning starts at 300 steps"
    assert capsys.readouterr().out == f"dqn [seed 3]\n{started}\n"


def test_a_notebook_that_waited_shows_the_newest(notebook, monkeypatch):
    shown = make()
    monkeypatch.setattr(progress, "REFRESHES_PER_SECOND", 1e9)
    shown.evaluating(Standing(3, 10, 12_345, None, False))
    assert notebook == ["evaluating ━━━─────── 3 of 10 games  12,345 steps  left –"]
    shown.reach(500)
    assert notebook == ["learning  ━━━━━─────  50%  left –"]
    shown.close()


def test_what_is_quiet_says_warnings_alone_and_what_must_be_said(terminal, capsys):
    terminal(True, columns=80)
    shown = progress.Progress("dqn", 0, 0, 1000, stopping.Stop(), quiet=True)
    shown.update(250, VALUES)
    shown.evaluating(Standing(3, 10, 12_345, None, False))
    shown.say("saved")
    shown.say("warning: cannot write the log")
    shown.say("stopped by SIGINT", always=True)
    shown.close()
    with progress.shown("making it", stopping.Stop(), quiet=True):
        pass
    assert capsys.readouterr() == ("", "warning: cannot write the log\nstopped by SIGINT\n")


def test_the_mean_over_seeds_is_of_figures_that_every_seed_has():
    rows = [{"loss": 1.0, "episode_return": None}, {"loss": 2.0, "episode_return": 3.0}]
    assert progress.mean_row(rows) == {"loss": 1.5}


def test_a_terminal_that_cannot_write_a_line_again_gets_lines(terminal, monkeypatch, capsys):
    terminal(True, columns=80)
    monkeypatch.setenv("TERM", "dumb")
    make().update(250, VALUES)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_terminal_that_knows_ascii_only_has_a_bar(terminal, monkeypatch):
    terminal(True, columns=80)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii", errors="replace"))
    shown = make()
    for mean in (1.0, 2.0):
        shown.update(250, {"episode_return": mean, "steps_per_second": 1.0})
    line = shown._render().plain
    assert " ".join(line.split()) == "compiling ##-------- 25% return 2.00 1 steps/s left 0:12:30"
    shown.close()


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        (79, "learning  ━━━━━━━━━━ 100%  return 123.45 ▁▂▃▄▅▆▇█  1,234 steps/s  left 0:01:00"),
        (70, "learning  ━━━━━━━━━━ 100%  return 123.45  1,234 steps/s  left 0:01:00"),
        (60, "━━━━━━━━━━ 100%  return 123.45  1,234 steps/s  left 0:01:00"),
        (44, "━━━━━━━━━━ 100%  return 123.45  left 0:01:00"),
        (20, "100%  left 0:01:00"),
        (5, "100%"),
        (0, ""),
    ],
)
def test_what_matters_most_stays_on_a_narrow_terminal(columns, want):
    assert progress.fitted(FULL, columns) == want


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([], ""),
        ([3.0], ""),
        ([1.0, 1.0], "▁▁"),
        ([0.0, 7.0, 3.0], "▁█▄"),
        (range(100), "▁▂▃▄▅▆▇█"),
    ],
)
def test_a_sparkline_goes_from_the_first_value_to_the_last(values, want):
    assert progress.sparkline(values) == want


def test_an_evaluation_is_told_now_and_then_without_a_terminal(terminal, capsys, monkeypatch):
    terminal(False, columns=40)
    now = iter([0.0, 20.0, 31.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    line = progress.Line(stopping.Stop(), stderr=True)
    for finished in range(4):
        line.evaluating(Standing(finished, 10, 12_345, 70.9, finished < 3))
    line.close()
    want = "evaluating: 2 of 10 games, 12,345 steps played, left at most 0:01:10\n"
    assert capsys.readouterr() == ("", want)


def test_an_evaluation_takes_the_live_line_for_its_time(terminal):
    terminal(True, columns=80)
    shown = make()
    shown.evaluating(Standing(3, 10, 12_345, None, False))
    want = "evaluating ━━━─────── 3 of 10 games  12,345 steps  left –"
    assert shown._render().plain == want
    shown.evaluated()
    assert shown._render().plain == "compiling ──────────   0%  left –"
    shown.close()


# --- The end --------------------------------------------------------------------------------------


def following(**changed):
    """The commands after a run in a folder with a blank in its name."""
    usual = {"steps": 100, "draws": True, "plays": True, "goal": None}
    return progress.next_commands(pathlib.Path("my runs/a"), **usual | changed)


def test_what_may_be_typed_after_a_run():
    assert [line.split("jdqn.")[1] for line in following().splitlines()] == [
        "evaluate 'my runs/a'",
        "play 'my runs/a'",
        "report 'my runs/a' --out report.html",
        "train --resume 'my runs/a' --steps 200",
    ]


@pytest.mark.parametrize(
    ("changed", "doors"),
    [
        ({"draws": False}, ["evaluate", "play", "train"]),
        ({"plays": False}, ["report"]),
        ({"steps": 2_000_000_000}, ["evaluate", "play", "report"]),
    ],
)
def test_only_what_the_run_allows_is_proposed(changed, doors):
    assert re.findall(r"jdqn\.(\w+)", following(**changed)) == doors


def test_a_run_that_reached_its_goal_goes_on_with_another():
    assert following(goal="--train.stop_return none").endswith(
        "'my runs/a' --train.stop_return none"
    )


# --- A standard output that is gone --------------------------------------------------------------


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
    shown = progress.Progress("dqn", 0, 0, 1000, stop)
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
        shown = progress.Progress("dqn", 0, 0, 1000, stopping.Stop())
        shown.say("warning: cannot write the log")
        assert capfd.readouterr().err == "dqn\ncompiling\nwarning: cannot write the log\n"
        monkeypatch.setattr(sys, "stderr", Full())
        shown.say("nobody hears this")
        shown.close()
