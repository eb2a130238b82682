"""One attempt at a trial, with a stand-in for jdqn.train."""

import json
import os
import subprocess
import sys

import pytest
from sweeps_helpers import ended, make_plan, stand_in

from jdqn.runs import files, processes, stopping
from jdqn.tools.sweeps import attempt, folders, plan
from jdqn.tools.sweeps.attempt import Attempt, Job, Place, folder_of


@pytest.fixture
def trial(tmp_path):
    (found,) = make_plan(tmp_path).trials()
    return found


@pytest.fixture
def folder(tmp_path, trial):
    return folder_of(tmp_path / "sweep", trial)


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(attempt, "LOOK_SECONDS", 0.0)


NOWHERE = Place()
CHAIN = {"sweep.games": ["jdqn/Chain"]}
STEPS = {"train.steps": 100}


def begin(trial, folder, until_steps=None, max_retries=1, place=NOWHERE):
    return Attempt(Job(trial, until_steps), folder, place, max_retries)


def started(one):
    """An attempt whose process has saved a checkpoint."""
    ended(lambda: one.poll() or one._folder.saved_steps())
    return one


def test_a_trial_that_ends_has_a_result(trial, folder, monkeypatch):
    stand_in(monkeypatch)
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    one = begin(trial, folder, place=Place((core,), 1, "3"))
    outcome = ended(one.poll)
    assert (outcome.how, outcome.number) == (folders.DONE, 1)
    assert outcome.result == {
        "status": "done",
        "trial": trial.name,
        "game": "jdqn/Chain",
        "agent": "dqn",
        "seed": 0,
        "settings": {},
        "steps": 100,
        "score": 10.0,
        "training": 5.0,
        "score_of": "evaluation",
        "sentence": "",
    }
    assert folder.result() == {"attempt": 1, **outcome.result}
    variables = json.loads((folder.run / "variables.json").read_text())
    assert variables["CUDA_VISIBLE_DEVICES"] == "3"
    assert variables["SESSION"]  # of its own: Ctrl-C on a terminal is for the sweep alone
    assert {variables[name] for name in ("OMP_NUM_THREADS", "NPROC")} == {"1"}
    if hasattr(os, "sched_setaffinity"):
        assert json.loads((folder.run / "cores.json").read_text()) == [core]
    # Another attempt finds it done.
    again = ended(begin(trial, folder).poll)
    assert (again.how, again.result) == (folders.DONE, folder.result())


def test_a_trial_is_a_run_of_its_own_whatever_the_shell_has_exported(trial, folder, monkeypatch):
    assert (processes.ADDRESS, *processes.NUMBERS) == attempt.OF_SEVERAL
    for name in attempt.OF_SEVERAL:
        monkeypatch.setenv(name, "1")
    stand_in(monkeypatch)
    ended(begin(trial, folder).poll)
    variables = json.loads((folder.run / "variables.json").read_text())
    assert not variables.keys() & set(attempt.OF_SEVERAL)
    assert "STAND_IN" in variables


def test_what_may_be_otherwise_a_moment_later_is_no_mistake(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="finds it in use")
    assert ended(begin(trial, folder).poll).how == folders.CRASHED
    assert folder.result() is None


def test_what_crashes_when_it_is_asked_to_stop_has_crashed(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="waits and breaks")
    one = started(begin(trial, folder))
    one.stop()
    assert ended(one.poll).how == folders.CRASHED


def test_what_has_a_checkpoint_and_is_refused_is_tried_again_as_after_a_crash(
    trial, folder, monkeypatch
):
    """A shared folder that cannot be read for a moment is no mistake in the sweep's file."""
    stand_in(monkeypatch, s0="crashes once")
    assert ended(begin(trial, folder).poll).how == folders.CRASHED
    stand_in(monkeypatch, s0="refuses")
    outcome = ended(begin(trial, folder, max_retries=2).poll)
    assert (outcome.how, outcome.sentence) == (folders.CRASHED, "error: seed is no seed")
    assert ended(begin(trial, folder, max_retries=2).poll).how == folders.FAILED
    assert folder.result()["sentence"] == "error: seed is no seed"


def test_what_was_pruned_while_it_came_to_its_end_is_pruned(trial, folder, monkeypatch):
    """What is remembered is what is on the disk."""
    stand_in(monkeypatch)
    one = begin(trial, folder)
    assert one.poll() is None  # it has begun
    pruned = {"status": folders.PRUNED, "score": 1.0, "sentence": "not among the best"}
    assert folder.write_result(1, pruned)
    outcome = ended(one.poll)
    assert (outcome.how, outcome.result) == (folders.PRUNED, folder.result())


def test_a_trial_that_was_killed_goes_on_from_its_checkpoint(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="crashes once")
    outcome = ended(begin(trial, folder).poll)
    assert (outcome.how, outcome.result) == (folders.CRASHED, None)
    assert outcome.sentence == "ended by SIGKILL"
    assert ended(begin(trial, folder).poll).how == folders.DONE
    assert folder.result()["attempt"] == 2


def test_what_was_killed_is_said_so_before_the_line_that_it_printed_last(trial, folder):
    folder.log.parent.mkdir(parents=True, exist_ok=True)
    folder.log.write_text("steps 2,360  4%\n")
    assert begin(trial, folder)._ended(-9).sentence == "ended by SIGKILL, after: steps 2,360  4%"


def test_a_crash_is_tried_again_so_often(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="crashes at once")
    hows = [ended(begin(trial, folder, max_retries=2).poll).how for _ in range(3)]
    assert hows == [folders.CRASHED, folders.CRASHED, folders.FAILED]
    assert folder.result()["sentence"] == "a traceback"
    assert folder.result()["status"] == folders.FAILED


def test_what_is_not_finite_twice_at_the_same_update_is_not_tried_again(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="crashes at once")
    hows = [ended(begin(trial, folder, max_retries=9).poll).how]
    stand_in(monkeypatch, s0="is not finite")
    hows += [ended(begin(trial, folder, max_retries=9).poll).how for _ in range(2)]
    assert hows == [folders.CRASHED, folders.CRASHED, folders.FAILED]
    assert folder.result()["sentence"] == "error: the loss is not finite since update 2"


def test_a_configuration_error_is_not_tried_again(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="refuses")
    outcome = ended(begin(trial, folder).poll)
    assert outcome.how == folder.result()["status"] == folders.REFUSED
    assert outcome.sentence == "error: seed is no seed"


def test_a_stop_waits_for_the_checkpoint(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="waits once")
    one = started(begin(trial, folder))
    one.stop()
    outcome = ended(one.poll)
    assert (outcome.how, outcome.result) == (folders.STOPPED, None)
    assert folder.saved_steps() == 60
    assert folder.crashes() == 0
    assert ended(begin(trial, folder).poll).how == folders.DONE


def test_a_stop_before_the_process_begins_starts_none(trial, folder, monkeypatch):
    stand_in(monkeypatch)
    one = begin(trial, folder)
    one.stop()
    assert one.poll().how == folders.STOPPED
    assert not folder.run.exists()


def test_what_a_later_attempt_has_taken_over_is_ended_at_once(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="waits")
    one = started(begin(trial, folder))
    assert folder.claim() == 2
    assert ended(one.poll).how == folders.SUPERSEDED
    assert folder.saved_steps() == 50  # it had no time for a checkpoint
    late = begin(trial, folder)
    folder.claim()
    assert late.poll().how == folders.SUPERSEDED  # before it began


def test_it_waits_while_another_process_holds_the_run(trial, folder, monkeypatch):
    stand_in(monkeypatch)
    folder.run.mkdir(parents=True)
    one = begin(trial, folder)
    with files.lock(folder.run):
        assert [one.poll() for _ in range(3)] == [None] * 3
        assert not folder.log.exists()
    assert ended(one.poll).how == folders.DONE


def test_it_pauses_where_it_has_come_far_enough(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="waits")
    outcome = ended(begin(trial, folder, until_steps=50).poll)
    assert (outcome.how, outcome.result) == (folders.PAUSED, None)
    one = started(begin(trial, folder, until_steps=51))
    assert one.poll() is None
    one.stop()
    assert ended(one.poll).how == folders.STOPPED


def test_it_does_not_pause_where_it_has_been_evaluated_at_its_end(tmp_path, monkeypatch):
    """It would be started again only to be done."""
    (trial,) = plan.read(None, CHAIN | {"sweep.directory": str(tmp_path)}, STEPS).trials()
    folder = folder_of(tmp_path, trial)
    stand_in(monkeypatch, s0="waits at its end")
    one = begin(trial, folder, until_steps=50)
    ended(lambda: one.poll() or 100 in folder.standing().evaluations)
    assert [one.poll() for _ in range(3)] == [None] * 3
    assert one._pipe is not None  # nobody has asked it to stop
    # Where the signal comes at the very end all the same, what is there says that it is done.
    monkeypatch.setattr("jdqn.runs.resume.is_finished", lambda run: run == folder.run)
    one.stop()
    assert ended(one.poll).how == folders.DONE


def test_a_run_whose_end_nobody_saw_is_done(trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="waits once")
    one = started(begin(trial, folder))
    one.kill()
    monkeypatch.setattr("jdqn.runs.resume.is_finished", lambda run: run == folder.run)
    monkeypatch.setattr(attempt, "COMMAND", ("/none",))  # nothing is started
    outcome = ended(begin(trial, folder).poll)
    assert (outcome.how, outcome.number) == (folders.DONE, 2)


PARENT = """
import json, os, sys, time
from sweeps_helpers import make_plan
import pathlib
from jdqn.tools.sweeps.attempt import Attempt, Job, Place, folder_of
from jdqn.tools.sweeps import attempt
attempt.COMMAND = (sys.executable, "-S", sys.argv[2])
folder = pathlib.Path(sys.argv[1])
(trial,) = make_plan(folder).trials()
one = Attempt(Job(trial), folder_of(folder / "sweep", trial), Place(), 1)
while one.poll() is None and one._folder.saved_steps() is None:
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""


def test_a_process_ends_by_itself_when_its_parent_is_killed(tmp_path, trial, folder, monkeypatch):
    stand_in(monkeypatch, s0="waits")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = [sys.executable, "-c", PARENT, str(tmp_path), attempt.COMMAND[2]]
    answer = subprocess.run(code, env=environment, timeout=60, check=False)
    assert answer.returncode == -9
    ended(lambda: folder.saved_steps() == 60)  # saved when the pipe closed


def test_the_variable_is_that_of_the_command():
    assert stopping.PARENT_PIPE == "JDQN_PARENT_PIPE"  # as the stand-in has it
