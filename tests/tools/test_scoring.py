"""Scores at the end, thresholds, and what may be averaged."""

import numpy as np
import pytest
from report_helpers import write_run

from jdqn.config import ConfigError
from jdqn.tools import groups, scoring


def read(*paths):
    return groups.read_groups([str(path) for path in paths])


def finals(environments, thresholds=None):
    return [scoring.final(env, (thresholds or {}).get(env.title)) for env in environments]


def test_scores_are_of_the_last_evaluation_of_each_seed(tmp_path):
    (env,) = read(write_run(tmp_path / "a", seeds=(0, 1), level=5.0))
    found = scoring.final(env, None)
    assert found.source == "evaluation"
    np.testing.assert_allclose(found.scores["dqn"], [10, 12])


def test_scores_are_those_that_seeds_had_where_the_shortest_ends(tmp_path):
    a = write_run(tmp_path / "a", seeds=(0,), level=5.0)
    b = write_run(tmp_path / "b", seeds=(1,), level=5.0, steps=500)  # stopped
    found = scoring.final(read(a, b)[0], None)
    np.testing.assert_allclose(found.scores["dqn"], [4, 12])  # at 400 steps, at 500


def test_where_an_agent_has_no_evaluation_training_games_are_compared(tmp_path):
    a = write_run(tmp_path / "a", seeds=(0, 1), level=5.0)
    b = write_run(tmp_path / "b", agent="double", evaluates=False, level=7.0)
    found = scoring.final(read(a, b)[0], None)
    assert found.source == "training"
    np.testing.assert_allclose(found.scores["dqn"], [5, 6])
    np.testing.assert_allclose(found.scores["double"], [7])


def test_solved_is_what_gymnasium_says_or_the_option(tmp_path):
    environments = read(write_run(tmp_path / "a"), write_run(tmp_path / "b", env="Acrobot-v1"))
    known = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0}
    assert scoring.read_solved(None, environments) == known
    assert scoring.read_solved("CartPole-v1=20", environments) == known | {"CartPole-v1": 20}
    assert scoring.read_solved("-5.5", environments[:1]) == {"CartPole-v1": -5.5}
    for text, words in {
        "20": "the runs are on CartPole-v1 and Acrobot-v1; expected ENV=NUMBER",
        "Pong=3": "no run is on Pong, only CartPole-v1",
        "CartPole-v1=x": "must be a number, or ENV=NUMBER",
        "CartPole-v1=nan": "must be a number",
    }.items():
        with pytest.raises(ConfigError, match=words):
            scoring.read_solved(text, environments)


def test_solved_holds_by_whatever_rules_an_environment_is_played(tmp_path):
    other = write_run(tmp_path / "b", env__max_episode_steps=99)
    environments = read(write_run(tmp_path / "a"), other)
    titles = [environment.title for environment in environments]
    assert len(titles) == 2
    assert scoring.read_solved("CartPole-v1=20", environments) == dict.fromkeys(titles, 20.0)


def test_over_atari_games_scores_are_human_normalised(tmp_path):
    for i, game in enumerate(["Breakout", "Pong"]):
        write_run(tmp_path / game, env=game, seeds=(0, 1), level=0.85 if i == 0 else -3.0)
    environments = read(tmp_path)
    found = scoring.aggregate(environments, finals(environments))
    assert found.scale.startswith("human-normalised")
    scores = [[(1.7 - 1.7) / 28.8, (-6 + 20.7) / 35.3], [(3.7 - 1.7) / 28.8, (-4 + 20.7) / 35.3]]
    estimate = found.rows["dqn"]["mean"]
    assert estimate.value == pytest.approx(np.mean(scores))
    assert estimate.low <= estimate.value <= estimate.high
    assert found.rows["dqn"]["optimality gap"].value == pytest.approx(1 - np.mean(scores))
    assert found.profiles["dqn"].shape == (3, scoring.PROFILE_POINTS)
    assert found.profiles["dqn"][0, -1] == 0  # nothing is above the best


def test_over_other_games_they_lie_between_the_worst_and_the_best_run(tmp_path):
    for env, level in [("CartPole-v1", 100.0), ("Acrobot-v1", -50.0)]:
        write_run(tmp_path / env / "a", env=env, seeds=(0, 1), level=level)
        write_run(tmp_path / env / "b", env=env, agent="double", seeds=(0, 1), level=level + 2)
    environments = read(tmp_path)
    found = scoring.aggregate(environments, finals(environments))
    assert "0 the worst run of a game, 1 the best" in found.scale
    assert found.rows["dqn"]["mean"].value == pytest.approx(1 / 6)
    assert found.rows["double"]["mean"].value == pytest.approx(5 / 6)


def test_of_one_environment_scores_stay_what_they_are_and_one_seed_has_no_interval(tmp_path):
    a = write_run(tmp_path / "a", seeds=(0, 1, 5), level=5.0)
    b = write_run(tmp_path / "b", agent="double", level=7.0)
    environments = read(a, b)
    found = scoring.aggregate(environments, finals(environments, {"CartPole-v1": 14.0}))
    assert found.rows["dqn"]["median"].value == 12
    assert found.rows["dqn"]["optimality gap"].value == pytest.approx((4 + 2 + 0) / 3)
    assert found.rows["double"]["IQM"].value == 14
    assert np.isnan(found.rows["double"]["IQM"].low)
    assert np.isnan(found.profiles["double"][1:]).all()


def test_agents_are_averaged_over_the_games_and_seeds_that_they_share(tmp_path):
    write_run(tmp_path / "a", seeds=(0, 1, 2))
    write_run(tmp_path / "b", env="Acrobot-v1", seeds=(0, 1))
    write_run(tmp_path / "c", env="MountainCar-v0", agent="double", seeds=(0, 1))
    write_run(tmp_path / "d", agent="double", seeds=(0, 1))
    write_run(tmp_path / "e", env="Acrobot-v1", agent="double", seeds=(0, 1))
    environments = read(tmp_path)
    found = scoring.aggregate(environments, finals(environments))
    assert found.games == ["CartPole-v1", "Acrobot-v1"]
    assert found.seeds == {"dqn": 2, "double": 2}
    assert found.notes == [
        "Not every agent was trained on MountainCar-v0, which is left out.",
        "Of dqn the first 2 seeds of each game are used.",
    ]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([("Pong", {"env__noop_max": 1}), ("Breakout", {})], "played by different noop_max"),
        ([("Pong", {"env__noop_max": 1}), ("Pong", {})], "Pong is there under different rules"),
        ([("CartPole-v1", {})], "One seed on one environment"),
        ([("CartPole-v1", {}), ("Acrobot-v1", {"agent": "double"})], "No environment has runs of"),
    ],
)
def test_what_does_not_go_together_is_not_averaged(tmp_path, runs, words):
    for i, (env, changed) in enumerate(runs):
        write_run(tmp_path / str(i), env=env, **changed)
    environments = read(tmp_path)
    assert words in scoring.aggregate(environments, finals(environments))
