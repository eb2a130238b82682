"""Trials as tasks of Ray: with a stand-in for Ray; a real cluster is in `test_kills.py`."""

import os
import pathlib
import socket
import sys
import types

import pytest
from sweeps_helpers import ended, make_plan, stand_in, write

from jdqn.config import ConfigError, RunError
from jdqn.tools.sweeps import attempt, folders, on_ray, plan
from jdqn.tools.sweeps.attempt import Job, Outcome, folder_of


class RayError(Exception):
    """Of the stand-in."""


class Reference:
    """Of a task."""

    def __init__(self, function, arguments):
        self.call = lambda: function(*arguments)


class FakeRay:
    """Runs a task when its result is asked for, or loses it."""

    exceptions = types.SimpleNamespace(RayError=RayError)

    def __init__(self, **resources):
        self.resources = {"CPU": 2.0, "memory": 1e11} | resources
        self.loses = 0
        self.is_gone = False
        self.cancelled = []
        self.options = None
        self.address = ""  # where something else is

    def init(self, **options):
        self.options = options
        if options.get("address") == self.address:
            raise ConnectionError("could not connect\nand more")

    def cluster_resources(self):
        return self.resources

    def nodes(self):
        return [{"Alive": True}, {"Alive": False}, {"Alive": True}]

    def remote(self, **needs):
        self.needs = needs

        def decorate(function):
            start = lambda *arguments: Reference(function, arguments)  # noqa: E731
            return types.SimpleNamespace(remote=start)

        return decorate

    def wait(self, references, num_returns, timeout):
        if self.is_gone:
            raise RayError("no answer")
        return references, []

    def get(self, reference):
        if self.cancelled:
            raise RayError("cancelled")
        if self.loses:
            self.loses -= 1
            raise RayError("the node is dead\nand much more")
        return reference.call()

    def cancel(self, reference):
        self.cancelled.append(reference)

    def shutdown(self):
        self.options = None


@pytest.fixture
def ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = FakeRay()
    monkeypatch.setattr(on_ray, "_ray", lambda: found)
    monkeypatch.setattr(on_ray, "POLL_SECONDS", 0.01)
    return found


def test_a_trial_is_a_task(tmp_path, monkeypatch, ray):
    stand_in(monkeypatch)
    read = make_plan(tmp_path, seeds=3)
    executor = on_ray.OnRay(read, "auto")
    assert ray.options["address"] == "auto"
    assert ray.options["runtime_env"] == {"env_vars": on_ray.VARIABLES}
    assert ray.needs == {"num_cpus": 1, "num_gpus": 0, "memory": 10**9, "max_retries": 0}
    assert (executor.num_places(), executor.words()) == (2, "Ray, 2 nodes with 2 cores, 100.0 GB")
    first, second, _ = read.trials()
    for trial in (first, second):
        assert executor.has_room()
        executor.start(Job(trial))
    assert not executor.has_room()
    assert executor.running == [(Job(first), 0), (Job(second), 0)]
    outcomes = ended(executor.poll)
    assert [(job.trial, outcome.how) for job, outcome in outcomes] == [
        (first, folders.DONE),
        (second, folders.DONE),
    ]
    assert executor.poll() == []
    executor.close()
    assert ray.options is None


def test_what_a_lost_worker_ran_begins_again_so_often(tmp_path, monkeypatch, ray):
    stand_in(monkeypatch)
    read = make_plan(tmp_path, max_retries=1)
    (trial,) = read.trials()
    executor = on_ray.OnRay(read, "local")
    assert "address" not in ray.options
    hows = []
    for ray.loses in (1, 1):
        executor.start(Job(trial))
        ((_, outcome),) = executor.poll()
        hows.append(outcome.how)
    assert hows == [folders.LOST, folders.FAILED]
    folder = folder_of(read.directory, trial)
    assert folder.newest() == 2
    assert folder.result()["sentence"] == "RayError: the node is dead"


def test_a_result_that_the_lost_worker_had_written_counts(tmp_path, monkeypatch, ray):
    stand_in(monkeypatch)
    read = make_plan(tmp_path)
    (trial,) = read.trials()
    executor = on_ray.OnRay(read, "local")
    executor.start(Job(trial))
    folder = folder_of(read.directory, trial)
    folder.write_result(folder.claim(), {"status": folders.DONE, "score": 1.0})
    ray.loses = 1
    assert executor.poll() == [(Job(trial), Outcome(folders.DONE, 1, folder.result()))]


def test_a_stop_cancels_what_runs(tmp_path, monkeypatch, ray):
    stand_in(monkeypatch)
    read = make_plan(tmp_path)
    executor = on_ray.OnRay(read, "local")
    executor.start(Job(read.trials()[0]))
    executor.stop()
    assert len(ray.cancelled) == 1
    ((_, outcome),) = executor.poll()
    assert outcome.how == folders.STOPPED


def test_a_task_that_is_cancelled_saves_a_checkpoint_first(tmp_path, monkeypatch):
    stand_in(monkeypatch, s0="waits")
    read = make_plan(tmp_path)
    (trial,) = read.trials()
    folder = folder_of(read.directory, trial)

    def sleep(_):
        if folder.saved_steps() == 50:
            monkeypatch.undo()  # once
            raise KeyboardInterrupt

    monkeypatch.setattr(on_ray.time, "sleep", sleep)
    here = os.getcwd()
    outcome = on_ray.run_attempt(Job(trial), str(read.directory), here, 1, 1)
    assert Outcome(*outcome).how == folders.STOPPED
    assert folder.saved_steps() == 60


def test_a_node_without_the_folder_says_so(tmp_path):
    read = make_plan(tmp_path)
    missing = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="is not a folder on this node"):
        on_ray.run_attempt(Job(read.trials()[0]), str(read.directory), missing, 1, 1)
    assert not pathlib.Path(read.directory).exists()


def test_a_cluster_that_is_gone_ends_the_sweep(tmp_path, ray):
    read = make_plan(tmp_path)
    executor = on_ray.OnRay(read, "local")
    executor.start(Job(read.trials()[0]))
    ray.is_gone = True
    with pytest.raises(RunError, match="the Ray cluster is gone: no answer"):
        executor.poll()


@pytest.mark.parametrize(
    ("resources", "gpus", "there", "places"),
    [
        ({}, 0, {}, 2),
        ({}, 1, {"GPU": 8.0, "CPU": 64.0}, 8),
        ({"gpus": 0.5}, 0.5, {"GPU": 2.0, "CPU": 64.0}, 4),
        ({"gpus": 0, "at_once": 3}, 0, {"GPU": 2.0, "CPU": 64.0}, 3),
        ({"cores": 4}, 0, {"CPU": 64.0, "memory": 5e9}, 5),
    ],
)
def test_as_many_at_once_as_the_cluster_holds(tmp_path, ray, resources, gpus, there, places):
    ray.resources |= there
    file = write(tmp_path / "s.toml", sweep={"games": ["jdqn/Chain"]}, resources=resources)
    executor = on_ray.OnRay(plan.read(file, {}, {}), "auto")
    assert ray.needs["num_gpus"] == gpus
    assert executor.num_places() == places


def test_what_cannot_be_is_refused(tmp_path, ray):
    read = make_plan(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:  # something else
        ray.address = f"127.0.0.1:{server.getsockname()[1]}"
        said = f"--ray {ray.address}: no cluster answers: could not connect$"
        with pytest.raises(ConfigError, match=said):
            on_ray.OnRay(read, ray.address)
    ray.resources["CPU"] = 0.0
    with pytest.raises(ConfigError, match="--ray auto: no trial fits on 2 nodes with 0 cores"):
        on_ray.OnRay(read, "auto")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nowhere", "--ray nowhere: must be auto, local, or host:port"),
        (":6379", "--ray :6379: must be auto, local, or host:port"),
        ("127.0.0.1:0", "--ray 127.0.0.1:0: no cluster answers: "),
        ("ray://127.0.0.1:0", "--ray ray://127.0.0.1:0: no cluster answers: "),
        ("127.0.0.1:99999", "--ray 127.0.0.1:99999: no cluster answers: "),
        ("auto", "--ray auto, which is RAY_ADDRESS = '127.0.0.1:0': no cluster answers: "),
    ],
)
def test_where_nothing_is_ray_is_not_asked(tmp_path, ray, monkeypatch, address, said):
    """It would wait for minutes, and hear no signal."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:0")
    with pytest.raises(ConfigError) as info:
        on_ray.OnRay(make_plan(tmp_path), address)
    assert str(info.value).startswith(said)
    assert ray.options is None


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install -e '\.\[ray\]'"):
        on_ray.OnRay(make_plan(tmp_path), "local")
    assert attempt.COMMAND[0] == sys.executable  # the rest of sweeps needs none
