"""Functions of the user's: what they are told, how they stop a run, that they change nothing."""

import functools
import time

import numpy as np
import pytest
from helpers import tiny
from runs_helpers import EPISODES, assert_same, log, newest, table
from scripted import maker

from jdqn.config import ConfigError
from jdqn.runs import stopping
from jdqn.runs.hooks import Hooks
from jdqn.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("answer", "stops"),
    [(True, True), (np.True_, True), (False, False), (None, False), (1, False), ("figure", False)],
)
def test_only_true_stops(answer, stops):
    stop = stopping.Stop()
    told = []
    hooks = Hooks(on_log=lambda row: told.append(row) or answer)
    assert hooks.tell(stopping.ON_LOG, [{"seed": 0}, {"seed": 1}], stop) >= 0.0
    assert told == [{"seed": 0}, {"seed": 1}]
    assert (stop.reason, hooks.error) == (stopping.ON_LOG if stops else 0, None)
    assert hooks.tell(stopping.ON_EVALUATION, [{}], stop) == 0.0
    assert len(told) == 2


@pytest.mark.parametrize("name", ["on_log", "on_evaluation"])
def test_what_is_no_function_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match=f"^{name} = 3: expected a function of one row"):
        train(tiny(), run_dir=tmp_path / "run", **{name: 3})
    assert not (tmp_path / "run").exists()


SLOW_SECONDS = 0.3
CONFIG = {
    "train__steps": 160,
    "train__log_period_steps": 40,
    "train__eval_period_steps": 80,
    "replay__importance_anneal_steps": 400,
}


def run(path, **more):
    return train(tiny(**CONFIG), run_dir=path, make_env=maker(EPISODES), **more)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The directory of a run whose functions are told everything, and what they were told.

    They spoil what they are told, and take their time at 120 steps.
    """
    path = tmp_path_factory.mktemp("straight") / "run"
    told = {"log": [], "evaluation": []}

    def tell(rows, row):
        rows.append(dict(row))
        row.clear()
        if rows[-1]["steps"] == 120:
            time.sleep(SLOW_SECONDS)

    hooks = {f"on_{name}": functools.partial(tell, rows) for name, rows in told.items()}
    run(path, **hooks)
    return path, told


def test_functions_are_told_what_the_files_hold(straight):
    path, told = straight
    assert told["log"] == log(path)
    assert [row["steps"] for row in told["log"]] == [40, 80, 120, 160]
    as_text = [{k: str(v) for k, v in row.items()} for row in told["evaluation"]]
    assert as_text == table(path / "evaluations.csv")
    assert [row["steps"] for row in told["evaluation"]] == [80, 160]


def test_the_time_of_a_function_is_not_trainings(straight):
    *_, before, after = straight[1]["log"]
    period = after["seconds"] - before["seconds"]
    assert period > SLOW_SECONDS
    assert 40 / after["steps_per_second"] < period - 0.9 * SLOW_SECONDS


def test_without_functions_and_quiet_the_run_is_the_same(straight, tmp_path, capfd):
    result = run(tmp_path / "run", quiet=True)
    assert capfd.readouterr() == ("", "")
    assert result.stopped_by == 0
    assert_same(straight[0], tmp_path / "run")


def test_a_function_stops_a_run_that_can_go_on(straight, tmp_path, capsys):
    result = run(tmp_path / "run", on_log=lambda row: row["steps"] >= 80)
    assert (result.steps, result.stopped_by) == (80, stopping.ON_LOG)
    assert result.evaluation is None  # it is owed
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("stopped by on_log at 80 steps; go on: jdqn.train.train(config, ")
    result = run(tmp_path / "run", resumes=True)
    assert (result.steps, result.stopped_by) == (160, 0)
    assert_same(straight[0], tmp_path / "run")


class Mine(Exception):
    pass


def test_of_two_functions_that_raise_at_one_step_the_first_is_told():
    def broken(name):
        def function(row):
            raise Mine(name)

        return function

    hooks = Hooks(broken("on_log"), broken("on_evaluation"))
    for reason in (stopping.ON_LOG, stopping.ON_EVALUATION):
        hooks.tell(reason, [{}], stopping.Stop())
    assert str(hooks.error) == "on_log"


def test_what_a_function_raises_comes_out_after_a_checkpoint(straight, tmp_path, capsys):
    def broken(row):
        raise Mine("no more figures")

    with pytest.raises(Mine, match="no more figures") as info:
        run(tmp_path / "run", on_evaluation=broken, quiet=True)
    assert capsys.readouterr() == ("", "")
    assert "broken" in [entry.name for entry in info.traceback]
    assert newest(tmp_path / "run")["steps"] == 80
    run(tmp_path / "run", resumes=True)
    assert_same(straight[0], tmp_path / "run")
