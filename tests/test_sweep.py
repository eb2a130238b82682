"""The command `python -m jdqn.sweep`."""

import functools

import pytest
from bad_inputs_helpers import check_refusal, fill
from sweeps_helpers import make_plan, stand_in, write

from jdqn import sweep
from jdqn.runs import files
from jdqn.tools.sweeps import attempt, local, loop, plan
from jdqn.tools.sweeps.local import Machine


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(attempt, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(local, "this_machine", lambda: Machine((), 10**11, ())._replace(cores=(0,)))


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        sweep.main(["--help"])
    assert info.value.code == 0
    assert "python -m jdqn.sweep minatar.toml --dry-run" in capsys.readouterr().out


def test_a_dry_run_lists_the_trials_and_writes_nothing(tmp_path, capsys):
    make_plan(tmp_path, seeds=2, agents=["dqn", "double"])
    sweep.main([str(tmp_path / "sweep.toml"), "--dry-run", "--train.steps", "1_000"])
    assert capsys.readouterr().out.splitlines() == [
        "    0  jdqn/Chain, dqn, seed 0, 1,000 steps",
        "    1  jdqn/Chain, dqn, seed 1, 1,000 steps",
        "    2  jdqn/Chain, double, seed 0, 1,000 steps",
        "    3  jdqn/Chain, double, seed 1, 1,000 steps",
        f"4 trials, 4,000 agent steps in all, in {tmp_path / 'sweep'}",
        "on this machine 1 at once (1 core, 1 each)",
    ]
    assert not (tmp_path / "sweep").exists()


def test_a_dry_run_says_where_each_trial_is_also_while_the_sweep_runs(tmp_path, capsys):
    read = make_plan(tmp_path, seeds=5)
    folders = [attempt.folder_of(read.directory, trial) for trial in read.trials()]
    results = [
        attempt.result_of(trial, folder, "done")
        for trial, folder in zip(read.trials(), folders, strict=True)
    ]
    for folder in folders[:4]:
        folder.claim()
    folders[0].write_result(1, results[0] | {"score": 1.0})
    folders[1].write_result(1, results[1] | {"status": "failed", "sentence": "a traceback"})
    folders[2].end(1, "stopped")
    folders[3].run.mkdir()
    (folders[3].run / "metrics.jsonl").write_text('{"steps": 500}\n')
    make_plan(tmp_path, seeds=[1, 2, 3, 4])  # an edit
    with files.lock(read.directory):
        sweep.main([str(tmp_path / "sweep.toml"), "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" steps")[2] for line in lines[:4]] == [
        ": failed: a traceback",
        ": stopped, at 0 steps",
        ": begun, at 500 steps",
        "",
    ]
    assert lines[5:7] == [
        f"The sweep {read.directory} has begun 4 trials: 2 not ended, 1 done, 1 failed.",
        "also there, and in a report, of other settings or seeds: 1 trial",
    ]


def test_a_dry_run_names_what_changes_nothing_once_for_each_game_and_agent(tmp_path, capsys):
    path = write(
        tmp_path / "s.toml",
        sweep={"games": ["jdqn/Chain"], "agents": ["double", "c51"], "seeds": 2},
        grid={"agent.loss": ["huber", "squared"], "replay.n_step": [1, 2]},
    )
    sweep.main([path, "--dry-run"])
    notes = [line for line in capsys.readouterr().out.splitlines() if "without effect" in line]
    why = "without effect here: agent.loss (C51 has a loss of its own)"
    assert notes == [f"jdqn/Chain, c51: {why}"]


def test_a_dry_run_of_one_trial_lists_that_one(tmp_path, capsys):
    make_plan(tmp_path, seeds=3)
    sweep.main([str(tmp_path / "sweep.toml"), "--dry-run", "--index", "1"])
    assert capsys.readouterr().out.startswith("    1  jdqn/Chain, dqn, seed 1, ")


def test_a_dry_run_says_what_does_not_fit_here_and_lists_all_the_same(tmp_path, capsys):
    """Another machine may run them."""
    path = write(tmp_path / "s.toml", sweep={"games": ["jdqn/Chain"]}, resources={"cores": 64})
    sweep.main([path, "--dry-run"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "not on this machine: resources.cores = 64: this process may use 1"
    sweep.main([path, "--dry-run", "--ray", "auto"])
    assert "machine" not in capsys.readouterr().out


def test_the_command_runs_all_says_what_failed_and_what_comes_next(tmp_path, capsys, monkeypatch):
    stand_in(monkeypatch, s1="refuses")
    folder = tmp_path / "a b"
    argv = ["--games", "jdqn/Chain", "--seeds", "0,1,2", "--dir", str(folder), "--at-once", "1"]
    with pytest.raises(SystemExit) as info:
        sweep.main(argv)
    assert info.value.code == 1
    said = capsys.readouterr().out
    assert said.startswith(f"3 trials; 1 at once (1 core, 1 each), writing {folder}\n")
    assert "2 done, 1 refused, 0 running, 0 waiting\n" in said
    assert "best: jdqn/Chain 11.00 by dqn, mean of 2 seeds\n" in said
    assert "not done: error: seed is no seed\n" in said  # to try again would change nothing
    assert said.endswith(f"  python -m jdqn.report '{folder}' --out report.html\n")
    (refused,) = folder.glob("trials/*-1-*/result.json")
    refused.unlink()
    stand_in(monkeypatch)
    sweep.main(argv)
    said = capsys.readouterr().out
    assert said.startswith("3 trials, 2 trials ended before; ")
    assert "3 done, 0 running" in said


def test_where_nothing_was_trained_no_report_is_proposed(tmp_path, capsys, monkeypatch):
    stand_in(monkeypatch, s0="crashes at once")
    argv = ["--games", "jdqn/Chain", "--dir", str(tmp_path / "s"), "--max-retries", "0"]
    with pytest.raises(SystemExit):
        sweep.main(argv)
    said = capsys.readouterr().out
    (result,) = tmp_path.glob("s/trials/*/result.json")
    assert said.endswith(f"not done: a traceback (to try again, delete {result})\n")


def test_one_trial_by_its_number(tmp_path, capsys, monkeypatch):
    stand_in(monkeypatch)
    make_plan(tmp_path, seeds=2)
    sweep.main([str(tmp_path / "sweep.toml"), "--index", "1"])
    assert capsys.readouterr().out.splitlines() == [
        "begins: jdqn/Chain, dqn, seed 1",
        "done: jdqn/Chain, dqn, seed 1, 11.00 (evaluation)",
    ]


def test_a_sweep_that_ships_is_found_by_its_name(capsys, monkeypatch):
    monkeypatch.setattr(plan, "check_games", lambda _: None)  # gymnax takes seconds
    sweep.main(["minatar", "--dry-run"])
    assert "minatar/Breakout" in capsys.readouterr().out


def test_a_search_lists_what_it_draws_first(tmp_path, capsys, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)  # a sweep may lie in `runs/s` already
    rates = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
    search = {"settings": 20, "batch": 3, "fields": rates}
    games = {"games": ["jdqn/Chain"], "seeds": 2}
    sweep.main([write(tmp_path / "s.toml", sweep=games, search=search), "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("    0  jdqn/Chain, dqn, seed 0, optimizer.learning_rate ")
    assert lines[-2] == "the first batch of 20 settings × 2 seeds, in runs/s"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    fill(path)
    rates = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3}}
    search = {"settings": 3, "fields": rates}
    write(path / "search.toml", sweep={"games": ["jdqn/Chain"]}, search=search)
    write(path / "good.toml", sweep={"games": ["jdqn/Chain"], "seeds": 2, "directory": "out"})
    return path


REFUSED = {
    "nothing": ([], ["FILE", "--games"]),
    "no such file": (["none.toml"], ["FILE none.toml: there is no such file", "minatar"]),
    "a name nearly": (["minatr"], ["FILE minatr", 'did you mean "minatar"?']),
    "a folder": (["folder"], ["folder", "it is a folder"]),
    "broken": (["broken.toml"], ["broken.toml is not valid TOML"]),
    "not a sweep": (["nan.toml"], ["nan.toml: sweep.games: is missing"]),
    "game": (["--games", "Pong,"], ["sweep.games"]),
    "seeds": (["good.toml", "--seeds", "many"], ["sweep.seeds = 'many'"]),
    "at once": (["good.toml", "--at-once", "-1"], ["resources.at_once = -1"]),
    "a field": (["good.toml", "--replay.n_step", "0"], ["replay.n_step = 0"]),
    "a game": (
        ["--games", "jdqn/Chain,CartPol-v1", "--dry-run"],
        ['unknown environment "CartPol-v1"', 'did you mean "CartPole-v1"?'],
    ),
    "a game by its settings": (
        ["--games", "jdqn/Chain", "--env.size", "2"],
        ["env.size = 2", "at least 3"],
    ),
    "index": (["good.toml", "--index", "2"], ["--index 2", "from 0 to 1"]),
    "index of none": (["good.toml", "--dry-run", "--index", "2"], ["--index 2", "from 0 to 1"]),
    "index with ray": (["good.toml", "--index", "1", "--ray", "auto"], ["--index 1", "--ray"]),
    "index of words": (["good.toml", "--index", "one"], ["--index 'one'"]),
    "index of a search": (["search.toml", "--index", "1"], ["--index 1", "search"]),
    "option": (["good.toml", "--agent", "dqn"], ['unknown option "--agent"', "--agents"]),
    "a field without its section": (
        ["good.toml", "--step", "100"],
        ['unknown option "--step"', 'did you mean "--train.steps"?'],
    ),
    "directory": (["good.toml", "--dir", "file"], ["file", "exists"]),
}


@pytest.mark.parametrize(("argv", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(folder, monkeypatch, capsys, argv, said):
    check_refusal(folder, monkeypatch, capsys, "sweep", argv, said)


def test_two_sweeps_are_kept_apart(folder, monkeypatch, capsys):
    (folder / "taken").mkdir(exist_ok=True)
    refused = functools.partial(check_refusal, folder, monkeypatch, capsys)
    with files.lock(folder / "taken"):
        said = ["sweep directory taken is in use"]
        refused("sweep", ["good.toml", "--dir", "taken"], said, status=75)  # it may pass
