"""The adapter of environments written in JAX: its convention, spaces, refusals, key."""

import sys

import chex
import gymnax
import jax
import numpy as np
import pytest
from envs_helpers import always, make_native, native, play_native
from helpers import QUICK, tiny

from jdqn import envs
from jdqn.config import ConfigError
from jdqn.envs import jax_native, make_env

CARTPOLE = "gymnax/CartPole-v1"


def deep_sea(stochastic):
    return native("bsuite/DeepSea", 4, env__size=5, env__stochastic=stochastic)


def test_the_step_after_an_end_resets_and_ignores_the_action():
    steps = play_native(native(CARTPOLE, 4), always(1, 60, 4))  # always right: short episodes
    assert steps.first[0].all()
    assert steps.last.sum() >= 8
    np.testing.assert_array_equal(steps.first[1:], steps.last[:-1])
    assert not steps.last[steps.first].any()
    assert (steps.reward[steps.first] == 0).all()
    assert (steps.reward[~steps.first] == 1).all()
    # The last observation is the fallen pole, the first of the next episode is near upright.
    assert (np.abs(steps.frame[steps.last][:, 2]) > 0.2).all()
    assert (np.abs(steps.frame[steps.first]) <= 0.05).all()


def test_physics_are_gymnax_own():
    """Four environments against gymnax's `step_env` by hand, up to the first end of any."""
    env = native(CARTPOLE, 4)
    inner, params = gymnax.make("CartPole-v1")

    def step_all(states, actions):
        stepped = jax.vmap(inner.step_env, in_axes=(None, 0, 0, None))
        observation, after, *_ = stepped(jax.random.key(9), states, actions, params)
        return observation, after

    step_all = jax.jit(step_all, compiler_options=QUICK)
    state, timestep = env.init(envs.env_key(0))
    own = state.inner
    ticks = 0
    while ticks < 30 and not timestep.last.any():
        actions = np.full(4, ticks % 2, np.int32)
        state, timestep = env.step(state, actions, ticks)
        observation, own = step_all(own, actions)
        np.testing.assert_allclose(timestep.frame, observation, rtol=1e-6)
        ticks += 1
    assert ticks > 8


def test_a_time_limit_truncates_and_does_not_terminate():
    """DeepSea ends by itself at its limit: terminated wins. Catch ends before its limit."""
    deep = play_native(deep_sea(stochastic=False), always(0, 17, 4))
    np.testing.assert_array_equal(np.flatnonzero(deep.last[:, 0]), [5, 11, 17])
    assert deep.terminated[deep.last].all()


def test_truncation_alone(monkeypatch):
    inner, params = gymnax.make("CartPole-v1")
    short = params.replace(max_steps_in_episode=5)
    monkeypatch.setattr(gymnax, "make", lambda name: (inner, short))
    steps = play_native(make_native(CARTPOLE, 4), np.tile([[0] * 4, [1] * 4], (7, 1))[:13])
    np.testing.assert_array_equal(np.flatnonzero(steps.last[:, 0]), [5, 11])
    assert not steps.terminated.any()


def test_an_episode_is_cut_at_max_episode_steps():
    """The chain ends by itself after 14 steps: then it terminates, whatever the limit."""

    def first_end(limit):
        env = make_native("jdqn/Chain", 2, env__size=5, env__max_episode_steps=limit)
        steps = play_native(env, always(1, 16, 2))
        end = np.flatnonzero(steps.last[:, 0])[0]
        assert steps.first[end + 1].all()
        return end, steps.terminated[end, 0]

    assert first_end(13) == (13, False)
    assert first_end(14) == (14, True)
    assert first_end(2_000_000_000) == (14, True)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "actions"),
    [
        ("minatar/Breakout", (10, 10, 4), np.uint8, 3),
        ("minatar/Freeway", (10, 10, 7), np.uint8, 3),
        ("bsuite/Catch", (50,), np.uint8, 3),
        ("bsuite/DeepSea", (64,), np.uint8, 2),
        (CARTPOLE, (4,), np.float32, 2),
    ],
)
def test_spaces(name, shape, dtype, actions):
    env = make_native(name, 4, env__size=8, network__torso="auto")
    assert env.spec.frame_shape == shape
    assert env.spec.num_actions == actions
    _, timestep = jax.eval_shape(env.init, envs.env_key(0))
    assert timestep.frame.shape == (4, *shape)
    assert timestep.frame.dtype == env.spec.frame_dtype == dtype


@pytest.mark.parametrize("game", ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"])
def test_minatar_frames_are_zeros_and_ones(game):
    """Nothing is lost by keeping them as u8."""
    inner, params = gymnax.make(f"{game}-MinAtar")
    reset = jax.jit(lambda key: inner.reset_env(key, params)[0], compiler_options=QUICK)
    assert set(np.unique(reset(jax.random.key(0)))) <= {0.0, 1.0}


def test_stochastic_deep_sea_differs_from_deterministic():
    def rewards(stochastic):
        env = deep_sea(stochastic)
        return play_native(env, [[0, 1, 0, 1]] * 40).reward

    assert set(np.unique(rewards(False).round(4))) <= {0, np.float32(-0.002), np.float32(0.998)}
    assert len(np.unique(rewards(True))) > 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minatar/Brekout", 'did you mean "minatar/Breakout"'),
        ("gymnax/Pendulum-v1", "not discrete"),
        ("bsuite/Nothing", "unknown environment"),
    ],
)
def test_refusals(name, words):
    with pytest.raises(ConfigError, match=words):
        make_native(name, 4)


def test_a_missing_gymnax_is_answered_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(ConfigError, match=r"pip install \"jdqn\[jax-envs\]\""):
        jax_native.make(tiny(CARTPOLE).env, num_envs=1)


def test_the_environments_key_is_no_other():
    """fold_in(key, 1) would be the second half of split(key), the replay's."""
    key = jax.random.key(3)
    others = [*jax.random.split(key), *(jax.random.fold_in(key, tick) for tick in range(100))]
    own = jax.random.key_data(envs.env_key(3)).tolist()
    assert own not in [jax.random.key_data(other).tolist() for other in others]


def test_an_environment_on_the_host_is_brought_back_exactly():
    config = tiny("jdqn/Chain", env__max_episode_steps=7)
    there = make_env(config)
    there.reset()
    for action in np.random.default_rng(0).integers(0, 2, (20, 4)):
        there.send(action)
        timestep = there.recv()
    saved = there.save()
    back = make_env(config)
    assert back.restore(saved, timestep) is True
    for action in np.random.default_rng(1).integers(0, 2, (20, 4)):
        for env in (there, back):
            env.send(action)
        chex.assert_trees_all_equal(there.recv(), back.recv())
    other = make_env(config, num_envs=3)
    assert other.restore(saved, timestep) is False
    assert other.restore({}, timestep) is False
