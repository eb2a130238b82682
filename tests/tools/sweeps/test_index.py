"""One trial of the list by its number."""

import os
import signal
import subprocess
import threading

import pytest
from docs_helpers import ROOT
from sweeps_helpers import make_plan, stand_in

from jdqn.config import ConfigError
from jdqn.runs import files
from jdqn.tools.sweeps import attempt, index, loop
from jdqn.tools.sweeps.attempt import folder_of


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(attempt, "LOOK_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("asked", "status", "attempts"),
    [("ends", 0, 1), ("crashes once", 0, 2), ("crashes at once", 2, 3), ("refuses", 2, 1)],
)
def test_a_task_runs_its_trial_to_an_end(tmp_path, monkeypatch, capsys, asked, status, attempts):
    stand_in(monkeypatch, s1=asked)
    plan = make_plan(tmp_path, seeds=2)
    first, second = plan.trials()
    assert index.run(plan, second) == status
    assert folder_of(plan.directory, second).newest() == attempts
    assert folder_of(plan.directory, first).newest() == 0
    # Once more it finds the result, and says so: of what failed also what may be done.
    assert "has ended before" not in capsys.readouterr().out
    assert index.run(plan, second) == status
    assert folder_of(plan.directory, second).newest() == attempts
    again = f" (to try again, delete {folder_of(plan.directory, second).path / 'result.json'})"
    said = {
        "crashes at once": f"failed: a traceback{again}",
        "refuses": "refused: error: seed is no seed",
    }
    ended = said.get(asked, "done, 11.00 (evaluation)")
    assert capsys.readouterr().out == f"has ended before: {ended}\n"


def test_what_a_search_has_pruned_is_trained_to_its_end(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    plan = make_plan(tmp_path)
    (trial,) = plan.trials()
    folder = folder_of(plan.directory, trial)
    folder.write_result(folder.claim(), {"status": "pruned", "score": 1.0})
    assert index.run(plan, trial) == 0
    assert folder.result()["status"] == "done"


def test_a_task_that_is_told_to_end_saves_a_checkpoint_first(tmp_path, monkeypatch):
    stand_in(monkeypatch, s0="waits once")
    plan = make_plan(tmp_path)
    folder = folder_of(plan.directory, plan.trials()[0])

    def watch():
        while folder.saved_steps() is None:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch)
    thread.start()
    assert index.run(plan, plan.trials()[0]) == 128 + signal.SIGTERM
    thread.join()
    assert folder.saved_steps() == 60
    assert index.run(plan, plan.trials()[0]) == 0


TRIAL = """#!/usr/bin/env bash
trap 'echo saved; exit 143' TERM
echo "trial $*"
for _ in {1..200}; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("sign", "said"),
    [(signal.SIGUSR1, ["saved", "scontrol requeue 7"]), (signal.SIGTERM, ["saved"])],
)
def test_the_task_of_the_sample_goes_back_into_the_queue_unless_it_was_cancelled(
    tmp_path, sign, said
):
    for name, text in {
        "python": TRIAL,
        "scontrol": '#!/usr/bin/env bash\necho "scontrol $*"\n',
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    variables = os.environ | {"PATH": path, "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "7"}
    command = ["bash", str(ROOT / "docs" / "samples" / "slurm.sh")]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout.readline() == "trial -m jdqn.sweep minatar --index 3\n"
        task.send_signal(sign)
        assert task.stdout.read().splitlines() == said


def test_tasks_share_a_directory_and_a_sweep_does_not(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    plan = make_plan(tmp_path)
    plan.directory.mkdir()
    with files.lock(plan.directory), pytest.raises(ConfigError, match=r"sweep directory .* in use"):
        index.run(plan, plan.trials()[0])
    with files.lock(plan.directory, shared=True):
        assert index.run(plan, plan.trials()[0]) == 0
