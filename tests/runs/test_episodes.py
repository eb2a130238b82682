"""Episodes as they end: sums of raw rewards, means over the last hundred."""

import numpy as np
import pytest

from jdqn.records import Timestep
from jdqn.runs import episodes
from jdqn.runs.episodes import RECENT_EPISODES, Episode


def random_timesteps(rng, num_ticks, num_envs, end_probability=0.2):
    """Ends at random, each followed by a reset; lost lives in between."""
    first = np.ones(num_envs, bool)
    reward = np.zeros(num_envs, np.float32)
    last = np.zeros(num_envs, bool)
    for _ in range(num_ticks):
        lost_life = rng.random(num_envs) < 0.2
        yield Timestep(None, reward, last | lost_life, last, first)
        first = last
        reward = np.where(first, 0.0, rng.normal(size=num_envs)).astype(np.float32)
        last = (rng.random(num_envs) < end_probability) & ~first


def track_all(timesteps, num_envs):
    """What stands at the end, and every episode that ended."""
    tracked = episodes.start(num_envs)
    ended = []
    for timestep in timesteps:
        tracked, now = episodes.track(tracked, timestep)
        ended += now
    return tracked, ended


def one_step_episodes(returns):
    """Episodes of one step in one environment, `returns` one after the other."""
    no = np.array([False])
    for value in returns:
        yield Timestep(None, np.zeros(1, np.float32), no, no, ~no)
        yield Timestep(None, np.array([value], np.float32), ~no, ~no, no)


def test_returns_and_lengths_are_those_of_a_plain_sum(rng):
    timesteps = list(random_timesteps(rng, 300, 3))
    tracked, ended = track_all(timesteps, 3)
    expected = []
    sums = [[] for _ in range(3)]
    for timestep in timesteps:
        for env in range(3):
            rewards = sums[env]
            if timestep.first[env]:
                rewards.clear()
            else:
                rewards.append(float(timestep.reward[env]))
            if timestep.last[env]:
                expected.append(Episode(sum(rewards), len(rewards), env))
    assert ended == expected
    assert len(ended) > RECENT_EPISODES
    assert tracked.num_episodes == len(ended)
    assert tracked.length.tolist() == [len(rewards) for rewards in sums]
    np.testing.assert_allclose(tracked.episode_return, [sum(rewards) for rewards in sums])
    recent = ended[-RECENT_EPISODES:]
    assert episodes.mean_return(tracked) == np.mean([e.episode_return for e in recent])
    assert episodes.mean_length(tracked) == np.mean([e.length for e in recent])


def test_means_of_fewer_than_a_hundred_are_over_those_that_there_are():
    tracked, ended = track_all(one_step_episodes([3.0, 5.0, 10.0]), 1)
    assert [episode.length for episode in ended] == [1, 1, 1]
    assert episodes.mean_return(tracked) == 6.0
    assert episodes.mean_length(tracked) == 1.0


def test_there_is_no_mean_before_an_episode_has_ended():
    tracked = episodes.start(2)
    assert episodes.mean_return(tracked) is None
    assert episodes.mean_length(tracked) is None
    assert not episodes.has_reached(tracked, -1e9)


def test_tracking_leaves_what_was_before_untouched(rng):
    timesteps = list(random_timesteps(rng, 60, 2))
    tracked, _ = track_all(timesteps[:40], 2)
    before = [np.array(leaf) for leaf in tracked]
    for timestep in timesteps[40:]:
        episodes.track(tracked, timestep)
    for leaf, kept in zip(tracked, before, strict=True):
        np.testing.assert_array_equal(leaf, kept)


@pytest.mark.parametrize(
    ("returns", "target", "reached"),
    [
        ([20.0] * 99, 20.0, False),  # not yet a hundred
        ([20.0] * 100, 20.0, True),
        ([20.0] * 100, 20.5, False),
        ([0.0] * 50 + [20.0] * 100, 20.0, True),  # the last hundred alone
        ([20.0] * 100, None, False),
    ],
)
def test_a_goal_is_reached_by_the_last_hundred_episodes(returns, target, reached):
    tracked, _ = track_all(one_step_episodes(returns), 1)
    assert episodes.has_reached(tracked, target) is reached
