"""`kill -9`, ten times, whatever it hits: every trial ends once, as if nothing had been."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from runs_helpers import assert_same
from sweeps_helpers import write

pytestmark = pytest.mark.slow

NUM_KILLS = 10
SWEEP = {"games": ["jdqn/Chain", "gymnax/CartPole-v1"], "seeds": 2, "max_retries": 50}
FIELDS = {
    "env.num_envs": 4,
    "network.torso_hidden": [8],
    "network.hidden": [8],
    "agent.target_period_steps": 100,
    "replay.capacity": 512,
    "replay.batch_size": 8,
    "train.steps": 100_000,
    "train.learning_starts_steps": 32,
    "train.update_period_steps": 4,
    "train.log_period_steps": 40,
    "train.eval_period_steps": 2_000,
    "train.eval_episodes": 2,
    "train.checkpoint_period_steps": 400,
}
ROOT = pathlib.Path(__file__).parents[3]


def start(file, folder, *options):
    """A sweep; the file that it prints to lies beside its directory."""
    command = [sys.executable, "-m", "jdqn.sweep", file, "--dir", str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with pathlib.Path(f"{folder}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def results(folder):
    paths = folder.glob("trials/*/result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def trials_of(folder):
    """The processes of the sweep's trials."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if "jdqn.train" in command and any(str(folder) + "/" in word for word in command):
            found.append(process)
    return found


def kill_at_random(rng, sweep, folder, kill_worker=None):
    """Kills the sweep, a trial, or a worker; returns what it was."""
    trials = trials_of(folder)
    targets = ["sweep", "trial", *(["worker", "node"] if kill_worker else [])]
    target = rng.choice(targets) if trials else "sweep"
    if target == "sweep":
        sweep.kill()
        sweep.wait()
    elif target == "trial":
        rng.choice(trials).kill()
    else:
        kill_worker(target, rng.choice(trials))
    return target


def killed_and_ended(folder, begin, kill_worker=None, seed=0):
    """Kills ten times at random moments and waits for the end; what was killed."""
    rng = random.Random(seed)
    sweep = begin()
    killed = []
    while len(killed) < NUM_KILLS:
        time.sleep(rng.uniform(1, 8))
        assert sweep.poll() is None, f"it has ended after {len(killed)} kills: too soon"
        killed.append(kill_at_random(rng, sweep, folder, kill_worker))
        if killed[-1] == "sweep":
            sweep = begin()
    assert sweep.wait(timeout=900) == 0, pathlib.Path(f"{folder}.log").read_text()
    return killed


def check_same(straight, killed):
    """Every trial ended once, and as in a sweep that nothing happened to."""
    assert results(straight).keys() == results(killed).keys()
    assert {r["status"] for r in results(killed).values()} == {"done"}
    for name, result in results(killed).items():
        assert_same(straight / "trials" / name / "run", killed / "trials" / name / "run")
        assert result["score"] == results(straight)[name]["score"]
        attempts = len([*(killed / "trials" / name / "attempts").iterdir()])
        print(f"{name}: {attempts} attempts, the result by number {result['attempt']}")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    pytest.importorskip("gymnax")
    return write(tmp_path_factory.mktemp("file") / "sweep.toml", sweep=SWEEP, fields=FIELDS)


@pytest.fixture(scope="module")
def straight(file, tmp_path_factory):
    """A sweep that nothing happens to."""
    folder = tmp_path_factory.mktemp("straight") / "sweep"
    assert start(file, folder).wait(timeout=900) == 0
    assert len(results(folder)) == 4
    return folder


def test_a_sweep_killed_ten_times_ends_as_one_never_killed(file, straight, tmp_path):
    folder = tmp_path / "sweep"
    killed = killed_and_ended(folder, lambda: start(file, folder))
    print(f"killed: {', '.join(killed)}")
    assert {"sweep", "trial"} <= {*killed}
    check_same(straight, folder)


def test_ctrl_c_ends_all_with_checkpoints_and_the_same_command_goes_on(file, straight, tmp_path):
    folder = tmp_path / "sweep"
    sweep = start(file, folder)
    until = time.monotonic() + 300
    while not [*folder.glob("trials/*/run/checkpoints/*.manifest")]:
        assert time.monotonic() < until
        time.sleep(0.1)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(timeout=120) == 128 + signal.SIGINT
    assert trials_of(folder) == []
    said = pathlib.Path(f"{folder}.log").read_text()
    assert "stopped by SIGINT; the same command goes on" in said
    assert "crashed" not in said
    assert start(file, folder).wait(timeout=900) == 0
    check_same(straight, folder)


@pytest.fixture
def cluster():
    """Two nodes with a core each, beside a head without."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    found = Cluster(head_node_args={"num_cpus": 0, "include_dashboard": False})
    # With addresses of their own: what is driven from here is driven by the head.
    found.workers = [found.add_node(num_cpus=1, node_ip_address=f"127.0.0.{n}") for n in (2, 3)]
    found.wait_for_nodes()
    yield found
    found.shutdown()


@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_on_ray_workers_and_nodes_may_be_lost_too(file, straight, cluster, tmp_path):
    folder = tmp_path / "sweep"
    addresses = iter(range(4, 100))

    def kill(target, trial):
        if target == "worker":
            trial.parent().kill()
            return
        cluster.remove_node(cluster.workers.pop(0), allow_graceful=False)
        address = f"127.0.0.{next(addresses)}"
        cluster.workers.append(cluster.add_node(num_cpus=1, node_ip_address=address))

    begin = lambda: start(file, folder, "--ray", cluster.address)  # noqa: E731
    killed = killed_and_ended(folder, begin, kill)
    print(f"killed: {', '.join(killed)}")
    assert {"worker", "node"} & {*killed}
    check_same(straight, folder)
