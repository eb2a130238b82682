"""What tests of sweeps share: plans, and trials that a stand-in runs."""

import json
import pathlib
import sys
import time

import tomli_w

from jdqn.tools.sweeps import attempt, plan

SCRIPT = pathlib.Path(__file__).parent / "trial_stand_in.py"


def write(path, **tables):
    """A sweep file."""
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return str(path)


def make_plan(tmp_path, games=("jdqn/Chain",), **sweep):
    """A plan whose directory is `tmp_path/sweep`."""
    tables = {"games": list(games), "directory": str(tmp_path / "sweep"), **sweep}
    return plan.read(write(tmp_path / "sweep.toml", sweep=tables), {}, {})


def stand_in(monkeypatch, **asked):
    """Has a stand-in run trials; `s1="crashes once"` says what it does with seed 1."""
    monkeypatch.setattr(attempt, "COMMAND", (sys.executable, "-S", str(SCRIPT)))
    table = {name.removeprefix("s"): how for name, how in asked.items()}
    monkeypatch.setenv("STAND_IN", json.dumps(table))


def ended(poll, seconds=20.0):
    """What `poll` returns at last."""
    until = time.monotonic() + seconds
    while not (found := poll()):
        assert time.monotonic() < until, "it does not end"
        time.sleep(0.01)
    return found
