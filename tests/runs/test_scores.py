"""Human-normalised scores."""

import pytest
from helpers import tiny

from jdqn.config import with_overrides
from jdqn.runs import scores


@pytest.fixture(scope="module")
def config():
    return tiny("Breakout", env__max_episode_steps=27_000)


@pytest.mark.parametrize(
    ("game", "score", "expected"),
    [
        ("Breakout", 1.7, 0),
        ("Breakout", 401.2, 13.87),
        ("Pong", 14.6, 1),
        ("Jamesbond", 302.8, 1),
        ("UpNDown", 533.4, 0),
        ("Skiing", -17098.1, 0),  # both below 0
        ("DoubleDunk", -17.5, 0.5),
        ("Surround", 6.5, 1),
    ],
)
def test_zero_is_a_random_agent_and_one_the_human_tester(config, game, score, expected):
    found = scores.human_normalised(with_overrides(config, env__name=game), score)
    assert found == pytest.approx(expected, abs=0.01)


def test_there_are_57_games_under_the_names_that_envpool_knows(config):
    envpool = pytest.importorskip("envpool")
    known = {name.removesuffix("-v5") for name in envpool.list_all_envs()}
    assert len(scores.REFERENCE_SCORES) == 57
    assert set(scores.REFERENCE_SCORES) <= known
    for game, (random, human) in scores.REFERENCE_SCORES.items():
        assert random < human
        assert scores.human_normalised(with_overrides(config, env__name=game), human) == 1


@pytest.mark.parametrize(
    ("changed", "is_known"),
    [
        ({"env__max_episode_steps": 4_500}, True),
        ({"env__max_episode_steps": 4_499}, False),
        ({"env__max_episode_steps": 4_500, "env__frame_skip": 3}, False),
        ({"env__max_episode_steps": 18_000, "env__frame_skip": 1}, True),
        ({"env__name": "AirRaid"}, False),
    ],
)
def test_a_game_without_a_reference_or_cut_short_has_none(config, changed, is_known):
    found = scores.human_normalised(with_overrides(config, **changed), 5.0)
    assert (found is not None) == is_known
