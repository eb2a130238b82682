"""One run over two processes of jax, on this machine: what each does, and what when one is lost."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from runs_helpers import assert_same, log, metrics, newest, table

pytestmark = pytest.mark.slow

OPTIONS = {
    "train.num_devices": "all",
    "env.num_envs": 4,
    "network.torso_hidden": [16],
    "network.hidden": [16],
    "agent.target_period_steps": 100,
    "replay.capacity": 512,
    "replay.batch_size": 8,
    "replay.prioritization": "proportional",
    "replay.priority_exponent": 0.6,
    "train.steps": 2000,
    "train.learning_starts_steps": 32,
    "train.log_period_steps": 40,
    "train.eval_period_steps": 1000,
    "train.eval_episodes": 2,
    "train.checkpoint_period_steps": 200,
}
ENDS_SECONDS = 120  # what a process may take to end that another one has left


def options_of(**others):
    """The command line of a small run."""
    named = OPTIONS | {name.replace("__", "."): value for name, value in others.items()}
    return [f"--{name}={value}" for name, value in named.items()]


_started = []


@pytest.fixture(autouse=True)
def _nothing_left():
    """Ends what a test that failed has left."""
    yield
    while _started:
        with _started.pop() as process:
            process.kill()


def start(*argv, devices=1):
    """Starts a run in two processes, with so many devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jdqn.train", *argv]
    common = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    envs = [{**os.environ, **common, "JAX_PROCESS_ID": number} for number in "01"]
    _started.extend(processes := [subprocess.Popen(command, env=env, **pipes) for env in envs])
    return processes


def ended(process, seconds=300):
    """Status, stdout and stderr of a process that ends by itself."""
    out, errors = process.communicate(timeout=seconds)
    assert "Traceback" not in errors
    return process.returncode, out, errors


def all_ended(processes):
    """Of all processes."""
    return [ended(process) for process in processes]


def wait_for_lines(path, number, processes):
    """Waits until a log has so many lines, of processes that run."""
    began = time.monotonic()
    while not path.is_file() or path.read_bytes().count(b"\n") < number:
        assert [process.poll() for process in processes] == [None, None]
        assert time.monotonic() - began < 200
        time.sleep(0.01)


def test_whichever_process_is_killed_the_other_ends_and_the_run_goes_on_to_the_bit(tmp_path):
    pytest.importorskip("gymnax")  # an extra
    env = ["--env=gymnax/CartPole-v1", *options_of()]
    straight = tmp_path / "straight"
    first, second = all_ended(start(*env, "--run-dir", str(straight)))
    assert (first[0], second[0]) == (0, 0)
    assert "done: 2,000 steps" in first[1]
    assert "steps" not in second[1]  # process 0 alone prints
    assert len(table(straight / "evaluations.csv")) == 2
    assert all(row["loss"] is not None for row in log(straight)[1:])

    killed = tmp_path / "killed"
    processes = start(*env, "--run-dir", str(killed))
    for lost, lines in ((1, 8), (0, 25)):
        wait_for_lines(killed / "metrics.jsonl", lines, processes)
        processes[lost].kill()
        began = time.monotonic()
        left = 1 - lost
        status, _, errors = ended(processes[left])
        print(f"process {left} ended with {status} after {time.monotonic() - began:.0f} s")
        assert time.monotonic() - began < ENDS_SECONDS
        assert status not in (0, None)
        assert f"python -m jdqn.train --resume {killed}" in errors
        assert ended(processes[lost])[0] == -signal.SIGKILL
        assert 0 < newest(killed)["steps"] < 2000
        processes = start("--resume", str(killed))
    statuses = [one[0] for one in all_ended(processes)]
    assert statuses == [0, 0]
    assert_same(straight, killed)


PONG = {
    "env.name": "Pong",
    "env.num_envs": 4,
    "env.max_episode_steps": 30,  # so that games end
    "network.torso": "mlp",
    "replay.capacity": 256,
    "train.steps": 800,
    "train.eval_period_steps": 400,
}


def test_emulators_of_two_processes_are_those_of_one_and_go_on_to_the_bit(tmp_path):
    pytest.importorskip("envpool")
    alone = tmp_path / "alone"
    two = tmp_path / "two"
    argv = options_of(**PONG)
    done = subprocess.run(
        [sys.executable, "-m", "jdqn.train", *argv, "--run-dir", str(alone)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    processes = start(*argv, "--run-dir", str(two))
    for lost, lines in ((1, 7), (0, 12)):
        wait_for_lines(two / "metrics.jsonl", lines, processes)
        processes[lost].kill()
        assert ended(processes[1 - lost], ENDS_SECONDS)[0] not in (0, None)
        processes = start("--resume", str(two))
    (status, out, errors), other = all_ended(processes)
    assert (status, other[0]) == (0, 0), errors
    assert "the environments go on exactly where they were" in out
    assert metrics(two) == metrics(alone)
    for name in ("episodes.csv", "evaluations.csv"):
        assert (two / name).read_bytes() == (alone / name).read_bytes()
    parts = [newest(run_dir)["parts"] for run_dir in (two, alone)]
    for name in parts[0].keys() - {"counters", "environment"}:  # seconds; one of each process
        assert parts[0][name] == parts[1][name], name


def test_a_signal_to_one_process_stops_all_at_one_tick(tmp_path):
    run_dir = tmp_path / "run"
    env = ["--env=jdqn/Chain", *options_of(train__steps=200_000)]
    processes = start(*env, "--run-dir", str(run_dir), devices=2)
    wait_for_lines(run_dir / "metrics.jsonl", 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    ends = all_ended(processes)
    assert [one[0] for one in ends] == [143, 143]
    steps = newest(run_dir)["steps"]
    for _, out, errors in ends:
        assert f"stopped by SIGTERM at {steps:,} steps; go on: " in out + errors
    assert len(newest(run_dir)["rows"]) == 4  # a ring for each device

    # What they saved does not depend on them.
    argv = ["--resume", str(run_dir), "--train.num_devices=1", f"--steps={steps + 80}"]
    alone = subprocess.run(
        [sys.executable, "-m", "jdqn.train", *argv],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    assert "train.num_devices was 4 and is 1" in alone.stdout
    assert metrics(run_dir)[-1]["steps"] == steps + 80
    assert len(newest(run_dir)["rows"]) == 1
