"""The sentence at the top."""

import numpy as np
import pytest
from report_helpers import write_run

from jdqn.tools import groups, scoring, story


def told(tmp_path, thresholds=None):
    environments = groups.read_groups([str(tmp_path)])
    finals = [scoring.final(env, (thresholds or {}).get(env.title)) for env in environments]
    return story.headline(environments, finals, scoring.aggregate(environments, finals))


def test_of_one_run_what_was_trained_and_how_it_went(tmp_path):
    write_run(tmp_path / "a", level=5.0)
    assert told(tmp_path) == (
        "dqn was trained on CartPole-v1 for 1,000 steps, once. At the end dqn scored 10.0 in test "
        "games."
    )


def test_of_agents_who_is_ahead_and_whether_chance_explains_it(tmp_path):
    write_run(tmp_path / "a", seeds=(0, 1, 2), level=5.0, evaluates=False)
    write_run(tmp_path / "b", agent="double", seeds=(0, 1, 2), level=5.5, evaluates=False)
    assert told(tmp_path, {"CartPole-v1": 7.0}) == (
        "dqn and double were trained on CartPole-v1 for 1,000 steps, 3 times from different random "
        "seeds each. At the end double scored 6.50 (95% interval 4.02 to 8.98) in the last "
        "training games, dqn 6.00 (95% interval 3.52 to 8.48). 7 counts as solved: 1 of 3 runs of "
        "double and 1 of 3 runs of dqn got there. The difference between double and dqn may be "
        "chance (Welch's t-test, p = 0.57): more seeds would tell."
    )


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([1.0, 1.1, 0.9], [9.0, 9.1, 9.2], "Chance alone would seldom set a and b so far apart"),
        ([1.0, 5.0], [2.0, 5.0], "may be chance"),
        ([1.0], [2.0, 5.0], "With a single run of an agent"),
        ([2.0, 2.0], [2.0, 2.0], "All runs of an agent scored the same"),
    ],
)
def test_what_is_said_of_a_difference(a, b, words):
    scores = {"a": np.array(a), "b": np.array(b)}
    final = scoring.Final("training", scores, None, None, ["a", "b"])
    assert words in story._difference(final, "a", "b")


def test_of_several_atari_games_the_interquartile_mean(tmp_path):
    write_run(tmp_path / "a", env="Pong", level=-3.0)
    write_run(tmp_path / "b", env="Breakout", level=0.85)
    words = "1 a human tester, they typically ended (interquartile mean over 2 games) at: dqn 0.21."
    assert told(tmp_path).endswith(words)


def test_where_agents_share_no_environments_who_was_ahead_on_each(tmp_path):
    write_run(tmp_path / "a", level=7.0)
    write_run(tmp_path / "b", agent="double", level=8.0)
    write_run(tmp_path / "c", env="Acrobot-v1", level=-90.0)
    words = "Mean scores at the end: on CartPole-v1 double was ahead with 16.0; on Acrobot-v1 dqn "
    assert told(tmp_path).endswith(f"{words}with −180.0.")
    trained = (
        "dqn and double were trained on CartPole-v1 and dqn was trained on Acrobot-v1 for 1,000"
    )
    assert told(tmp_path).startswith(trained)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ((4.75, 4.75), "double and dqn were equal with 9.50"),
        ((4.75, 4.7501), "double and dqn were equal with 9.50"),
        ((4.75, 4.755), "double was ahead with 9.51"),
        ((4.75, 4.75, 4.0), "double and dqn were ahead, equal with 9.50"),
    ],
)
def test_nobody_is_ahead_of_who_has_the_same_score(tmp_path, levels, words):
    for agent, level in zip(("dqn", "double", "dueling"), levels, strict=False):
        write_run(tmp_path / agent, agent=agent, level=level)
    write_run(tmp_path / "other", env="Acrobot-v1", level=-90.0)
    assert f"Mean scores at the end: on CartPole-v1 {words}; on Acrobot-v1" in told(tmp_path)


def test_where_nobody_solved_it_that_is_said(tmp_path):
    write_run(tmp_path / "a")
    assert "475 counts as solved: no run got there." in told(tmp_path, {"CartPole-v1": 475.0})


def test_many_names_are_counted():
    assert story.listed(["a"]) == "a"
    assert story.listed(["a", "b", "c"]) == "a, b and c"
    assert story.listed(list("abcdef")) == "a, b, c and 3 more"
    assert story.span([3, 1_000, 20]) == "3 to 1,000"
