"""The chain of Osband et al. 2016."""

import sys

import numpy as np
import pytest
from envs_helpers import always, make_native, native, play_native

from jdqn.config import ConfigError, default_preset


def play(actions):
    """Two chains of five states, the same actions `[T]` in both."""
    return play_native(native("jdqn/Chain", 2, env__size=5), [[action] * 2 for action in actions])


def test_the_best_episode_returns_eleven():
    steps = play([1] * 15)
    assert steps.last[:, 0].tolist() == [False] * 14 + [True, False]  # N + 9 steps, then a reset
    assert steps.terminated[14].all()
    assert steps.reward[:, 0].sum() == 11.0
    np.testing.assert_array_equal(steps.frame[0, 0], [1, 1, 0, 0, 0])  # from the second state
    np.testing.assert_array_equal(steps.frame[3, 0], [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(steps.frame[15, 0], [1, 1, 0, 0, 0])


def test_left_pays_a_little_once_there():
    steps = play([0] * 14)
    np.testing.assert_allclose(steps.reward[:4, 0], [0.0, 0.0, 0.001, 0.001], rtol=1e-6)
    np.testing.assert_array_equal(steps.frame[1, 0], [1, 0, 0, 0, 0])
    assert steps.frame.dtype == np.uint8


def test_the_chain_needs_no_gymnax(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    env = make_native("jdqn/Chain", 2, env__size=5)
    assert play_native(env, always(1, 1, 2)).frame.shape == (2, 2, 5)
    assert default_preset("jdqn/Chain") == "chain"


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [("jdqn/Chian", 5, 'did you mean "jdqn/Chain"'), ("jdqn/Chain", 2, "at least 3 states")],
)
def test_refusals(monkeypatch, name, size, words):
    monkeypatch.setitem(sys.modules, "gymnax", None)  # has nothing to do with it
    with pytest.raises(ConfigError, match=words):
        make_native(name, 1, env__size=size)
