"""The ends of real commands: signals at any time, a reader that goes away. Processes, so slow."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jdqn.runs import checkpoint

pytestmark = pytest.mark.slow

COMMAND = [
    *(sys.executable, "-m", "jdqn.train", "--env", "CartPole-v1", "--steps", "10_000_000"),
    *("--train.log_period_steps", "200", "--train.eval_episodes", "0", "--run-dir", "run"),
    *("--train.compilation_cache", "false"),
]


@pytest.fixture
def started(tmp_path):
    """Starts the command in a folder of its own, without kept programs, so that it compiles."""
    processes = []

    def start(*more):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
        process = subprocess.Popen(
            [*COMMAND, *more],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def read_until(process, start):
    """Reads what it prints up to the next line that begins so."""
    while line := process.stdout.readline():
        if line.startswith(start):
            return
    raise AssertionError(f"it has ended without a line {start!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_heard_while_programs_compile(started, number):
    process = started("--network.hidden", "[512,512,512,512,512,512]")
    read_until(process, "compiling")
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + number
    assert out == ""
    assert err == (
        f"error: stopped by {number.name} while compiling; no checkpoint had been saved\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_a_checkpoint_and_one_sentence(started, tmp_path, number):
    process = started()
    read_until(process, "steps 200 ")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == ""
    last = out.splitlines()[-1]
    assert last.startswith(f"stopped by {number.name} at ")
    assert last.endswith("go on: python -m jdqn.train --resume run")
    found = checkpoint.find(tmp_path / "run", run_id=None, agents_only=False)
    assert found.passed_over == []


def test_a_second_signal_ends_it_at_once(started, tmp_path):
    process = started("--train.checkpoint_period_steps", "200")
    read_until(process, "steps 400 ")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert checkpoint.find(tmp_path / "run", run_id=None, agents_only=False).passed_over == []


def test_a_reader_that_goes_away_ends_it(started, tmp_path):
    process = started()
    read_until(process, "steps 200 ")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + 13
    assert err.startswith("stopped by SIGPIPE at ")
    assert err.count("\n") == 1
    assert checkpoint.find(tmp_path / "run", run_id=None, agents_only=False).passed_over == []


def test_ctrl_c_before_anything_is_one_line(started):
    process = started()
    time.sleep(1.0)  # importing
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert err.count("\n") == 1
    assert "stopped by SIGINT" in err
