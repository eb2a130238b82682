"""Looking for settings: the same draws whatever the order, the worse ended early."""

import sys

import pytest
from sweeps_helpers import make_plan, stand_in, write

from jdqn.config import ConfigError
from jdqn.runs import stopping
from jdqn.tools.sweeps import attempt, folders, local, loop, plan
from jdqn.tools.sweeps.attempt import Place, folder_of
from jdqn.tools.sweeps.board import Board
from jdqn.tools.sweeps.schema import Range
from jdqn.tools.sweeps.search import Studies, distribution, value_of

pytest.importorskip("optuna")
RATE = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
STEPS = {"replay": {"n_step": {"low": 1, "high": 20}}}
SHORT = {"train.steps": 100, "train.eval_period_steps": 50}


def make(tmp_path, fields=RATE, seeds=1, games=("jdqn/Chain",), common=SHORT, **search):
    sweep = {"games": list(games), "seeds": seeds, "directory": str(tmp_path / "sweep")}
    search = {"settings": 24, "batch": 12, "fields": fields, **search}
    return plan.read(write(tmp_path / "s.toml", sweep=sweep, fields=common, search=search), {}, {})


def score_of(trial):
    """The best rate is 1e-4."""
    rate = trial.settings["optimizer.learning_rate"]
    return -abs(rate - 1e-4)


def result(trial):
    return {"status": folders.DONE, "score": score_of(trial), "trial": trial.name}


def drawn(read, *, backwards=False, on_disk=False):
    """All settings of a search, whose trials end in some order."""
    studies = Studies(read)
    results = {}
    while jobs := studies.jobs(results):
        for job in reversed(jobs) if backwards else jobs:
            results[job.trial.name] = result(job.trial)
            if on_disk:
                folder = folder_of(read.directory, job.trial)
                folder.write_result(folder.claim(), result(job.trial))
        if on_disk:  # as if the sweep had been killed
            studies = Studies(read)
            results = {}
    return [setting.settings for study in studies.studies for setting in study.settings()]


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_the_order_in_which_trials_end_changes_nothing_nor_does_a_new_start(tmp_path, method):
    read = make(tmp_path, method=method)
    found = drawn(read)
    assert len(found) == 24
    assert found == drawn(read, backwards=True)
    assert found == drawn(read, on_disk=True)
    assert found != drawn(make(tmp_path, method=method, seed=1))


def test_tpe_draws_by_what_was_good(tmp_path):
    """Its second batch lies nearer to the best rate than what is drawn at random."""

    def distances(method):
        found = drawn(make(tmp_path, method=method, settings=48, batch=16))
        rates = [settings["optimizer.learning_rate"] for settings in found[16:]]
        return sorted(max(rate / 1e-4, 1e-4 / rate) for rate in rates)[len(rates) // 2]

    assert distances("tpe") < distances("random")


def test_every_game_and_agent_has_a_search_of_its_own(tmp_path):
    studies = Studies(make(tmp_path, games=("jdqn/Chain", "CartPole-v1"), batch=2, seeds=3))
    trials = studies.trials
    assert len(trials) == 2 * 2 * 3
    of_games = {t.game: t.settings for t in trials}
    assert of_games["jdqn/Chain"] != of_games["CartPole-v1"]
    assert [job.trial for job in studies.jobs({})] == trials


def test_what_is_worse_is_pruned_and_the_best_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(attempt, "LOOK_SECONDS", 0.0)
    stand_in(monkeypatch, s0="waits once")
    read = make(tmp_path, fields=STEPS, settings=6, batch=4, halving_factor=2)
    studies = Studies(read)
    first = {t.name: t.settings["replay.n_step"] for t in studies.trials}
    results = {}
    stop = stopping.Stop()
    executor = local.Local(read, read.directory, [Place(), Place()])
    loop.drive(executor, studies, results, Board(read.directory, stop), stop)
    done = [first[name] for name in first if results[name]["status"] == folders.DONE]
    pruned = [first[name] for name in first if results[name]["status"] == folders.PRUNED]
    assert len(done) == len({*first.values()}) // 2
    assert min(done) >= max(pruned)
    for trial in studies.trials:
        folder = folder_of(read.directory, trial)
        assert folder.result() == {"attempt": folder.newest(), **results[trial.name]}
        if folder.result()["status"] == folders.PRUNED:
            assert folder.saved_steps() == 60  # what was pruned has a checkpoint
            assert folder.result()["sentence"] == "not among the best at 50 steps"
    best = max(t.settings["replay.n_step"] for t in studies.trials)
    assert studies.best(results) == [f"jdqn/Chain {10 * best:.2f} by dqn, replay.n_step {best}"]
    assert "waits for others to come as far" in capsys.readouterr().out
    assert Studies(read).jobs({}) == []  # all is there


def evaluate(read, trial, **means):
    """What a trial has been evaluated at: `s50=1.0`."""
    folder = folder_of(read.directory, trial)
    folder.claim()
    folder.run.mkdir(exist_ok=True)
    rows = [f"{steps.removeprefix('s')},{mean}\n" for steps, mean in means.items()]
    (folder.run / "evaluations.csv").write_text("".join(["steps,return_mean\n", *rows]))


def test_a_setting_that_is_drawn_again_is_trained_once_and_is_not_its_own_rival(tmp_path):
    fields = {"replay": {"n_step": {"choices": [1, 2]}}}
    read = make(tmp_path, fields=fields, settings=8, batch=4, halving_factor=4)
    studies = Studies(read)
    (study,) = studies.studies
    drawn = [setting.settings["replay.n_step"] for setting in study.settings()]
    best = max(drawn, key=drawn.count)
    assert 1 < drawn.count(best) < 4
    results = {}
    first, second = (job.trial for job in studies.jobs(results))
    assert [first, second] == studies.trials
    for trial in (first, second):
        evaluate(read, trial, s50=1.0 + (trial.settings["replay.n_step"] == best))
    (job,) = studies.jobs(results)
    assert job.trial.settings["replay.n_step"] == best
    assert [result["status"] for result in results.values()] == [folders.PRUNED]
    results[job.trial.name] = {"status": folders.DONE, "score": 3.0}
    assert studies.jobs(results) == []  # the second batch has nothing new
    assert len([*study.settings()]) == 8
    assert [score for score, _ in study.best(results)] == [3.0]


def test_what_is_told_of_a_pruned_setting_is_the_same_however_far_it_came_meanwhile(tmp_path):
    common = {"train.steps": 200, "train.eval_period_steps": 50}
    told = []
    for further in ({}, {"s100": 9.0}, {"s100": 9.0, "s200": 9.0}):
        folder = tmp_path / str(len(told))
        folder.mkdir()
        read = make(folder, common=common, settings=3, batch=2, halving_factor=2)
        studies = Studies(read)
        results = {}
        best, other = (job.trial for job in studies.jobs(results))
        if "s200" in further:
            results[other.name] = {"status": folders.DONE, "score": 9.0}
        evaluate(read, other, s50=1.0, **further)
        evaluate(read, best, s50=2.0, s100=2.0)
        assert [job.trial for job in studies.jobs(results)] == [best]
        results[best.name] = {"status": folders.DONE, "score": 2.0}
        assert studies.jobs(results)
        (study,) = studies.studies
        told.append([(one.state.name, one.values, one.intermediate_values) for one in study._told])
    assert told == [[("COMPLETE", [2.0], {}), ("PRUNED", None, {50: 1.0})]] * 3


def test_what_one_search_has_pruned_another_one_may_want_whole(tmp_path):
    read = make(tmp_path, settings=2, batch=2, halving_factor=2)
    results = {}
    studies = Studies(read)
    best, other = (job.trial for job in studies.jobs(results))
    evaluate(read, best, s50=2.0)
    evaluate(read, other, s50=1.0)
    assert [job.trial for job in studies.jobs(results)] == [best]
    assert folder_of(read.directory, other).result()["status"] == folders.PRUNED
    results = {}
    assert [job.trial for job in Studies(read).jobs(results)] == [best]
    assert [*results] == [other.name]  # pruned as before
    without = make(tmp_path, settings=2, batch=2)
    assert [job.trial for job in Studies(without).jobs({})] == [best, other]


def test_rungs_grow_by_the_factor(tmp_path):
    common = {"train.steps": 1000, "train.eval_period_steps": 50}
    (study,) = Studies(make(tmp_path, common=common, halving_factor=3)).studies
    assert study.rungs() == [50, 150, 450]
    (study,) = Studies(make(tmp_path, common=common, halving_factor=2, first_steps=300)).studies
    assert study.rungs() == [300, 600]
    (study,) = Studies(make(tmp_path, common=common)).studies
    assert study.rungs() == []


def test_what_failed_is_the_worst_and_ends_no_search(tmp_path):
    read = make(tmp_path, halving_factor=2, settings=24)
    studies = Studies(read)
    results = {}
    rounds = 0
    while jobs := studies.jobs(results):
        rounds += 1
        for number, job in enumerate(jobs):
            status = folders.DONE if number == 3 else folders.FAILED
            results[job.trial.name] = {"status": status, "score": 1.0}
    assert rounds == 2
    assert len(studies.studies[0].best(results)) == 2


def test_what_is_drawn_and_no_configuration_is_left_out_with_a_word(tmp_path):
    fields = {"agent.target_period_steps": {"low": 4, "high": 12}}  # its ends are multiples of 4
    common = {**SHORT, "env.num_envs": 4, "train.update_period_steps": 4}
    studies = Studies(make(tmp_path, fields=fields, common=common))
    is_one = [bool(setting.trials) for setting in studies.studies[0].settings()]
    assert (len(is_one), is_one.count(False)) == (12, len(studies.refused))
    assert studies.refused
    assert all("agent.target_period_steps" in sentence for sentence in studies.refused)


@pytest.mark.parametrize(
    ("range_", "kind", "low", "high"),
    [
        ({"low": 1, "high": 6, "step": 2}, "IntDistribution", 1, 5),
        ({"low": 1, "high": 8, "log": True}, "IntDistribution", 1, 8),
        ({"low": 0.5, "high": 1}, "FloatDistribution", 0.5, 1.0),
        ({"low": 1, "high": 4, "step": 0.5}, "FloatDistribution", 1.0, 4.0),
        ({"low": 0.1, "high": 0.7, "step": 0.1}, "FloatDistribution", 0.1, 0.7),
        ({"low": 0.1, "high": 0.75, "step": 0.1}, "FloatDistribution", 0.1, 0.7),
    ],
)
def test_a_range_is_whole_or_not_as_its_ends_are(range_, kind, low, high):
    found = distribution(Range(**range_))
    assert (type(found).__name__, found.low, found.high) == (kind, low, high)


def test_choices_may_be_lists():
    range_ = Range(choices=[[64], [64, 64]])
    assert distribution(range_).choices == (0, 1)
    assert value_of(range_, 1) == [64, 64]
    assert value_of(Range(low=1, high=2), 1) == 1


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    read = make(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"Optuna is not installed; pip install -e '\.\[sweep\]'"):
        Studies(read)
    assert make_plan(tmp_path).trials()  # a grid needs none
