"""The chain of Osband et al. 2016, and how heads act in it."""

import jax
import numpy as np
import pytest
from conftest import tiny

from jdqn import envs, evaluate
from jdqn.config import ConfigError, default_preset, load_config


def play(actions, size=5):
    env = envs.make_native_env(tiny("jdqn/Chain", env__size=size), num_envs=2)
    step = jax.jit(env.step)
    state, timestep = jax.jit(env.init)(envs.env_key(0))
    seen = [timestep]
    for tick, action in enumerate(actions):
        state, timestep = step(state, np.full(2, action, np.int32), tick)
        seen.append(timestep)
    return jax.tree.map(lambda *x: np.stack(x), *seen)


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
    monkeypatch.setitem(__import__("sys").modules, "gymnax", None)
    assert play([1]).frame.shape == (2, 2, 5)
    assert default_preset("jdqn/Chain") == "chain"


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [("jdqn/Chian", 5, 'did you mean "jdqn/Chain"'), ("jdqn/Chain", 2, "at least 3 states")],
)
def test_refusals(name, size, words):
    with pytest.raises(ConfigError, match=words):
        envs.make_native_env(tiny(name, env__size=size), num_envs=1)


def test_evaluation_reports_every_head_the_mean_and_the_vote():
    cfg = load_config(env="jdqn/Chain", agent="bootstrapped", overrides={"network.heads": 2})
    assert evaluate.policies(cfg) == ["head_0", "head_1", "mean", "vote"]
    one = load_config(env="jdqn/Chain", agent="dqn", overrides={"agent.eval_policy": "mean"})
    assert evaluate.policies(one) == ["mean"]
