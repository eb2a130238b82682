"""`kill -9`, twenty times, wherever a run may be: it goes on, and ends as if nothing had been."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from killed import PLACES
from runs_helpers import assert_same

from jdqn.runs import checkpoint

NUM_KILLS = 20
OPTIONS = {
    "env.num_envs": 4,
    "network.torso_hidden": [8],
    "network.hidden": [8],
    "agent.target_period_steps": 100,
    "replay.capacity": 512,
    "replay.batch_size": 8,
    "train.steps": 8000,
    "train.learning_starts_steps": 32,
    "train.log_period_steps": 40,
    "train.eval_period_steps": 400,
    "train.eval_episodes": 2,
    "train.checkpoint_period_steps": 40,
    "train.checkpoint_keep": 2,
}
# Calls of a place in one process, where they are few.
NUM_CALLS = {"while a checkpoint is read": 6, "while the logs are opened": 4}
SCRIPT = pathlib.Path(__file__).parent.parent / "killed.py"


def start(where, count, *argv):
    """Starts a run that will be killed."""
    command = [sys.executable, str(SCRIPT), where, str(count), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(path, number):
    """Waits until a log of a process has so many lines; returns the seconds."""
    began = time.monotonic()
    while num_lines(path) < number:
        assert time.monotonic() - began < 120
        time.sleep(0.005)
    return time.monotonic() - began


def num_lines(path):
    """Lines of a log."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def ended(process, timeout=120):
    """Its status and stderr, which holds no traceback."""
    _, errors = process.communicate(timeout=timeout)
    assert "Traceback" not in errors
    return process.returncode, errors


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_one_never_killed(tmp_path):
    options = ["--env=jdqn/Chain", *(f"--{name}={value}" for name, value in OPTIONS.items())]
    straight = tmp_path / "straight"
    killed = tmp_path / "killed"
    process = start("nowhere", 0, *options, "--run-dir", str(straight))
    seconds = wait_for_lines(straight / "metrics.jsonl", 1)  # of imports and compilation
    assert ended(process)[0] == 0
    rng = random.Random(0)
    # The first one is killed once a checkpoint is complete.
    moments = [("between save and sweep", 2), *((where, None) for where in PLACES)]
    moments += [("before its first step", None), ("while it trains", None)] * NUM_KILLS
    moments = moments[:NUM_KILLS]
    for number, (where, count) in enumerate(moments):
        go_on = ["--resume", str(killed)] if number else [*options, "--run-dir", str(killed)]
        process = start(where, count or rng.randint(1, NUM_CALLS.get(where, 12)), *go_on)
        wait = rng.uniform(0, 0.9 * seconds)
        if where == "while it trains":
            log = killed / "metrics.jsonl"
            wait_for_lines(log, num_lines(log) + rng.randint(1, 8))
            wait = rng.uniform(0, 0.1)
        if where not in PLACES:
            time.sleep(wait)
            process.kill()
        status, errors = ended(process)
        assert status == -signal.SIGKILL, (where, errors)
        found = checkpoint.find(killed, run_id=None, agents_only=False)
        assert found.passed_over == []
        print(f"{number + 1:2} {where}: a checkpoint of step {found.manifest['steps']:,}")
    assert found.manifest["steps"] < OPTIONS["train.steps"]
    assert ended(start("nowhere", 0, "--resume", str(killed)))[0] == 0
    assert_same(straight, killed)
    best = [
        checkpoint.find(path, "best", run_id=None, agents_only=True).manifest["parts"]
        for path in (straight, killed)
    ]
    assert best[0] == best[1]
    leftovers = [path.name for path in killed.rglob("*.tmp")]
    assert leftovers == []
