"""What a run keeps and shows: tables, log events, evaluations, checkpoints, its end."""

import re
import tomllib

import jax
import numpy as np
import pytest
from helpers import tiny
from runs_helpers import EPISODES, log, metrics, table
from scripted import maker

from jdqn.config import load_config
from jdqn.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Else the length of a run would be a constant in what is compiled for it.
SAME_PROGRAMS = {"replay__importance_anneal_steps": 400}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """A run of 50 ticks in the scripted environment: configuration, result, `make_env`."""
    config = tiny(
        train__seed=3,
        train__steps=198,
        train__log_period_steps=40,
        train__eval_period_steps=100,
        train__checkpoint_period_steps=80,
        train__checkpoint_keep=2,
        **SAME_PROGRAMS,
    )
    make_env = maker(EPISODES)
    path = tmp_path_factory.mktemp("scripted") / "new" / "run"
    result = train(config, run_dir=path, make_env=make_env, command="the command")
    return config, result, make_env


def test_what_a_run_leaves(scripted):
    _, result, make_env = scripted
    files = {path.name.partition(".tfevents")[0] for path in result.run_dir.iterdir()}
    tables = {"metrics.jsonl", "episodes.csv", "evaluations.csv"}
    assert files == {"config.toml", *tables, "events.out", "checkpoints"}
    assert result.steps == 200  # 198, rounded up to whole ticks
    # Due at the first tick at or after 80 and 160, and at the end; the newest two are kept.
    kept = {path.name for path in (result.run_dir / "checkpoints").iterdir()}
    assert kept == {"160.manifest", "200.manifest", "best.manifest", "blobs"}
    assert all(env.closed for _, env in make_env.made)


def test_config_toml_repeats_the_run(scripted):
    config, result, _ = scripted
    file = result.run_dir / "config.toml"
    assert load_config(file=file) == config
    recorded = tomllib.loads(file.read_text(encoding="utf-8"))["versions"]
    assert recorded["command"] == "the command"
    assert recorded["jax"] == jax.__version__
    assert {"jdqn", "python", "numpy", "envpool", "gymnasium", "git"} <= recorded.keys()


def expected_episodes(num_envs, num_ticks):
    """`(steps, return, length)` of every episode that ends, in order."""
    rows = []
    for env in range(num_envs):
        number = env
        tick = len(EPISODES[env % len(EPISODES)])
        while tick < num_ticks:
            episode = EPISODES[number % len(EPISODES)]
            rows.append((tick, env, sum(reward for reward, *_ in episode), len(episode)))
            number += 1
            tick += 1 + len(EPISODES[number % len(EPISODES)])  # the reset takes a tick
    return [((tick + 1) * num_envs, total, length) for tick, _, total, length in sorted(rows)]


def test_episodes_are_true_games(scripted):
    _, result, _ = scripted
    rows = table(result.run_dir / "episodes.csv")
    assert list(rows[0]) == ["steps", "seed", "return", "length"]
    assert {row["seed"] for row in rows} == {"3"}
    got = [(int(row["steps"]), float(row["return"]), int(row["length"])) for row in rows]
    assert got == expected_episodes(4, 50)
    assert result.episodes == len(got)


def test_log_events_say_how_the_run_stands(scripted):
    config, result, _ = scripted
    rows = metrics(result.run_dir)
    assert [row["steps"] for row in rows] == [40, 80, 120, 160, 200]
    for row in rows:
        assert {"epsilon", "loss", "q_mean"} <= row.keys()
        ended = [e for e in expected_episodes(4, 50) if e[0] <= row["steps"]]
        assert row["episodes"] == len(ended)
        assert row["episode_return"] == pytest.approx(np.mean([e[1] for e in ended]))
        assert row["episode_length"] == pytest.approx(np.mean([e[2] for e in ended]))
    assert rows[0]["epsilon"] == pytest.approx(1 - 0.9 * (36 - 32) / 100)  # of the last action
    assert rows[-1]["epsilon"] == pytest.approx(config.agent.epsilon_end)
    assert result.mean_return == rows[-1]["episode_return"]


def test_evaluations_are_not_counted_against_the_speed(scripted):
    _, result, _ = scripted
    rows = log(result.run_dir)
    seconds = [row["seconds"] for row in rows]
    rates = [row["steps_per_second"] for row in rows]
    assert 0 < seconds[0] < seconds[-1]
    assert sorted(seconds) == seconds
    periods = np.diff(seconds)
    # The evaluation at 100 steps is not counted against the speed from 80 to 120; no other
    # period holds one.
    assert 40 / rates[2] < 0.9 * periods[1]
    np.testing.assert_allclose(40 / np.array(rates)[[1, 3, 4]], periods[[0, 2, 3]], rtol=1e-6)


def test_evaluations_are_written_and_play_in_environments_of_their_own(scripted):
    config, result, make_env = scripted
    rows = table(result.run_dir / "evaluations.csv")
    columns = "steps seed policy episodes return_mean return_median return_std_error length_mean"
    assert list(rows[0]) == columns.split()
    assert [row["steps"] for row in rows] == ["100", "200"]
    assert {(row["seed"], row["episodes"]) for row in rows} == {("3", "3")}
    assert float(rows[-1]["return_mean"]) == result.evaluation.return_mean
    # One environment for training; the others' seeds are far from its.
    (seed, training), *others = make_env.made
    assert (seed, len(training.actions), len(others)) == (3, 50, 2)
    assert all(seed >= 10_000 + config.train.seed for seed, _ in others)


def test_tensorboard_gets_the_metrics(scripted):
    _, result, _ = scripted
    (events,) = result.run_dir.glob("events.out.tfevents*")
    written = events.read_bytes()
    assert all(name in written for name in [b"loss", b"episode_return", b"evaluation/"])


def test_no_evaluation_where_none_is_asked_for(tmp_path):
    config = tiny(train__eval_episodes=0, train__steps=8, **SAME_PROGRAMS)
    make_env = maker(EPISODES)
    result = train(config, run_dir=tmp_path, make_env=make_env)
    assert result.evaluation is None
    assert table(tmp_path / "evaluations.csv") == []
    assert len(make_env.made) == 1


def test_a_run_stops_where_it_has_reached_its_goal(tmp_path, capsys):
    rising = [[(float(number), True, False, False)] for number in range(300)]
    config = tiny(
        train__stop_return=20.0, train__steps=4000, train__eval_episodes=0, **SAME_PROGRAMS
    )
    result = train(config, run_dir=tmp_path, make_env=maker(rising))
    rows = table(tmp_path / "episodes.csv")
    steps = np.array([int(row["steps"]) for row in rows])
    returns = np.array([float(row["return"]) for row in rows])
    means = {step: returns[steps <= step][-100:].mean() for step in np.unique(steps)}
    reached = min(s for s, m in means.items() if m >= 20.0 and (steps <= s).sum() >= 100)
    assert means[reached - 8] < 20.0
    # It stops where a log period ends.
    assert result.steps == -(-reached // 80) * 80 < 4000
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.search(rf"reached a mean return of 20 .* after {reached:,} steps.* \d+ s", said)
