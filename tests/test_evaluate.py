"""The command `python -m jdqn.evaluate`."""

import shutil

import pytest
from helpers import tiny
from trained_helpers import write_run

from jdqn import evaluate
from jdqn.config import ConfigError
from jdqn.runs import checkpoint, evaluation
from jdqn.runs.episodes import Evaluation
from jdqn.runs.trained import load_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """What a CartPole run of 80 steps leaves, its parameters as they were drawn."""
    config = tiny(train__seed=4, train__steps=80, agent__epsilon_eval=0.3)
    return write_run(tmp_path_factory.mktemp("run"), config)


@pytest.fixture
def refusal(capsys):
    """The line with which the command refuses."""

    def refused(*argv):
        with pytest.raises(SystemExit) as info:
            evaluate.main([str(argument) for argument in argv])
        printed = capsys.readouterr()
        assert info.value.code == 2
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        return printed.err

    return refused


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        evaluate.main(["--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert "example: python -m jdqn.evaluate" in printed
    assert "default" in printed


def test_the_command_plays_and_prints(run_dir, capsys):
    evaluate.main([str(run_dir), "--episodes", "5", "--epsilon", "0.5"])
    first, second = capsys.readouterr().out.splitlines()
    for words in ["CartPole-v1", "dqn", "seed 4", "80 steps", "5 full games", "epsilon 0.5"]:
        assert words in first
    loaded = load_run(run_dir, train__eval_episodes=5, agent__epsilon_eval=0.5)
    play = evaluation.make_evaluator(loaded.config, loaded.agent)
    policy = loaded.config.agent.eval_policy
    (state,) = loaded.states
    want = play(state, 4, 20_000, policy)
    assert second.startswith(policy)
    for value in (want.return_mean, want.return_std_error, want.return_median):
        assert f"{value:.2f}" in second
    assert f"{want.length_mean:.0f} steps" in second
    # Other games than those of the run's own evaluations.
    assert want != play(state, 4, 10_000, policy)


def test_what_is_no_run_is_refused(tmp_path, refusal, run_dir):
    (tmp_path / "config.toml").write_bytes((run_dir / "config.toml").read_bytes())
    assert "no checkpoint" in refusal(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "no finished checkpoint" in refusal(tmp_path)
    assert f"{tmp_path / 'checkpoints'} is not a run directory" in refusal(tmp_path / "checkpoints")
    assert f"{tmp_path / 'none'}: there is no such folder" in refusal(tmp_path / "none")


def test_a_run_is_only_read(run_dir, monkeypatch, capsys):
    """From another folder, and by its best checkpoint, which is said to be selected."""
    before = {path: path.stat().st_mtime_ns for path in [run_dir, *run_dir.rglob("*")]}
    monkeypatch.chdir(run_dir.parent)
    for which, words in {"80": "after 80 steps;", "best": "after 80 steps (selected"}.items():
        evaluate.main([run_dir.name, "--episodes", "1", "--checkpoint", which])
        assert words in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in [run_dir, *run_dir.rglob("*")]}


def test_a_checkpoint_that_is_damaged_is_named_and_an_earlier_one_plays(run_dir, tmp_path, capsys):
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    (copy / "checkpoints" / "90.manifest").write_text("{}\n")
    evaluate.main([str(copy), "--episodes", "1"])
    printed = capsys.readouterr()
    assert "after 80 steps" in printed.out
    assert "90.manifest has changed since it was written; an earlier checkpoint" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(("which", "steps"), [("40", 40), ("3_7", 40), ("36", None), ("41", None)])
def test_a_step_names_the_checkpoint_written_at_the_tick_that_reached_it(tmp_path, which, steps):
    """Four environments: what is due at 37 steps is written at 40."""
    manifest = {
        "name": "40",
        "run": "r",
        "steps": 40,
        "tick": 10,
        "config": checkpoint.config_record(tiny()),
        "parts": {},
        "rows": [],
    }
    checkpoint.store_of(tmp_path).folder.mkdir(parents=True)
    (tmp_path / "checkpoints" / "blobs").mkdir()
    checkpoint.store_of(tmp_path).write_manifest("40", manifest)
    if steps is None:
        with pytest.raises(ConfigError, match="there are: 40"):
            checkpoint.find(tmp_path, which, run_id="r", agents_only=True)
    else:
        found = checkpoint.find(tmp_path, which, run_id="r", agents_only=True)
        assert found.manifest["steps"] == steps


@pytest.mark.parametrize(("limit", "is_shown"), [(27_000, True), (4_500, True), (200, False)])
def test_scores_of_games_cut_short_are_no_humans(limit, is_shown):
    result = Evaluation(2, 16.1, 16.0, 0.5, 900.0)
    line = evaluate._line(tiny("Breakout", env__max_episode_steps=limit), "vote", result)
    assert ("human-normalised 50.0 %" in line) == is_shown
