"""A sweep from its first trial to its last."""

import threading

import pytest
from sweeps_helpers import make_plan, stand_in

from jdqn.config import RunError
from jdqn.runs import stopping
from jdqn.tools.sweeps import attempt, folders, local, loop
from jdqn.tools.sweeps.attempt import Job, Outcome, Place, folder_of
from jdqn.tools.sweeps.board import Board


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(attempt, "LOOK_SECONDS", 0.0)


def drive(plan, stop=None, source=None):
    """Runs a sweep, two trials at once; its results."""
    stop = stopping.Stop() if stop is None else stop
    results = {}
    executor = local.Local(plan, plan.directory, [Place(), Place()])
    source = source or loop.Grid(plan)
    loop.drive(executor, source, results, Board(plan.directory, stop), stop)
    return results


def test_every_trial_ends_once_whatever_becomes_of_it(tmp_path, monkeypatch):
    stand_in(monkeypatch, s1="crashes once", s2="crashes at once", s3="refuses")
    plan = make_plan(tmp_path, seeds=5)
    results = drive(plan)
    statuses = {trial.seed: results[trial.name]["status"] for trial in plan.trials()}
    assert statuses == {0: "done", 1: "done", 2: "failed", 3: "refused", 4: "done"}
    attempts = [folder_of(plan.directory, trial).newest() for trial in plan.trials()]
    assert attempts == [1, 2, 3, 1, 1]
    # Nothing is left for another round.
    stand_in(monkeypatch, s0="crashes at once")
    assert drive(plan).keys() == results.keys()
    assert [folder_of(plan.directory, trial).newest() for trial in plan.trials()] == attempts


def test_what_a_search_has_pruned_is_trained_to_its_end_in_a_grid(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    plan = make_plan(tmp_path)
    (trial,) = plan.trials()
    folder = folder_of(plan.directory, trial)
    folder.write_result(folder.claim(), {"status": folders.PRUNED, "score": 1.0})
    assert drive(plan)[trial.name]["status"] == folders.DONE
    assert folder.result()["attempt"] == 2
    assert drive(plan) == {trial.name: folder.result()}


def test_a_stop_ends_all_with_checkpoints_and_the_same_goes_on(tmp_path, monkeypatch, capsys):
    stand_in(monkeypatch, s0="waits once", s1="waits once")
    plan = make_plan(tmp_path, seeds=3)
    found = [folder_of(plan.directory, trial) for trial in plan.trials()]
    stop = stopping.Stop()

    def watch():
        while not all(folder.saved_steps() for folder in found[:2]):
            pass
        stop.reasons.append(2)

    thread = threading.Thread(target=watch)
    thread.start()
    assert drive(plan, stop) == {}
    thread.join()
    assert [folder.saved_steps() for folder in found] == [60, 60, None]
    said = capsys.readouterr().out
    assert "stopping: 2 trials will save a checkpoint first" in said
    assert said.count("stopped, with what it has saved: jdqn/Chain") == 2
    assert len(drive(plan)) == 3
    assert [folder.newest() for folder in found] == [2, 2, 1]


def test_what_is_to_be_run_is_asked_again_when_something_has_ended(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    plan = make_plan(tmp_path, seeds=3)
    trials = plan.trials()

    class OneAfterTheOther:
        def jobs(self, results):
            return [Job(trial) for trial in trials[: len(results) + 1] if trial.name not in results]

    assert [*drive(plan, source=OneAfterTheOther())] == [trial.name for trial in trials]


def test_a_full_disk_is_no_mistake_of_the_users(tmp_path, monkeypatch):
    """Status 2 would say to a cluster never to try again."""
    stand_in(monkeypatch)
    plan = make_plan(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device", "result.json")

    monkeypatch.setattr(folders.Folder, "write_result", full)
    said = r"cannot write result.json: No space .* goes on"
    with pytest.raises(RunError, match=said) as info, loop.writing(plan.directory):
        drive(plan)
    assert info.value.status == 1


class Forgetful:
    """An executor that loses what it runs, once."""

    def __init__(self):
        self.running = []
        self.lost = False

    def has_room(self):
        return not self.running

    def start(self, job):
        self.running.append((job, 1))

    def poll(self):
        if not self.running:
            return []
        job, _ = self.running.pop()
        how = folders.DONE if self.lost else folders.LOST
        self.lost = True
        result = {"status": how, "score": None, "score_of": "", "settings": {}}
        return [(job, Outcome(how, 1, result if how == folders.DONE else None))]


def test_what_was_lost_is_run_again(tmp_path):
    plan = make_plan(tmp_path)
    results = {}
    stop = stopping.Stop()
    source = loop.Grid(plan)
    loop.drive(Forgetful(), source, results, Board(tmp_path, stop), stop)
    assert [*results] == [plan.trials()[0].name]
