"""What holds of Atari's games whoever emulates them."""

import chex
import numpy as np
import pytest
from envs_helpers import always, play
from helpers import tiny

from jdqn.envs import make_env

pytestmark = pytest.mark.parametrize("backend", ["envpool", "ale"])


def test_rewards_are_raw(backend):
    steps = play(
        make_env(tiny("MsPacman", env__backend=backend), num_envs=1), always(3, 80, 1)
    )  # leftwards
    assert set(np.unique(steps.reward)) == {0, 10}
    assert steps.reward.dtype == np.float32


def test_seeds(backend):
    config = tiny("Pong", env__backend=backend, env__sticky_probability=0.25)

    def frames(num_envs, seed):
        return play(make_env(config, num_envs=num_envs, seed=seed), always(2, 40, num_envs)).frame

    three = frames(3, seed=5)
    np.testing.assert_array_equal(three, frames(3, seed=5))
    for i in range(3):
        np.testing.assert_array_equal(three[:, i], frames(1, seed=5 + i)[:, 0])
    assert (three[:, 0] != three[:, 1]).any()
    assert (three[:, 1] != three[:, 2]).any()


def test_games_are_brought_back_exactly(backend):
    """After resets, lost lives and a game that has just ended, whenever each of them started."""
    config = tiny("Breakout", env__backend=backend, env__max_episode_steps=170)
    rng = np.random.default_rng(0)
    there = make_env(config)
    timestep = there.reset()
    lengths = set()
    for _ in range(1000):
        there.send(rng.integers(0, 4, 4))
        timestep = there.recv()
        lengths = set(there.save()["lengths"])
        if timestep.last.any() and len(lengths) == 4:
            break
    assert timestep.last.any()
    assert there.save()["resets"].min() > 1
    saved = there.save()
    back = make_env(config)
    assert back.restore(saved, timestep) is True
    for _ in range(200):
        action = rng.integers(0, 4, 4)
        for env in (there, back):
            env.send(action)
        chex.assert_trees_all_equal(there.recv(), back.recv())
    chex.assert_trees_all_equal(there.save(), back.save())
