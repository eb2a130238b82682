"""The adapter of environments written in JAX: its convention, spaces, refusals, key."""

import functools

import chex
import gymnax
import jax
import numpy as np
import pytest
from envs_helpers import always, make_native, native, play_native
from helpers import QUICK, tiny

from jdqn import envs
from jdqn.envs import make_env

CARTPOLE = "gymnax/CartPole-v1"


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
    state, timestep = env.init(envs.env_key(0), envs.world_key(0))
    own = state.inner
    ticks = 0
    while ticks < 30 and not timestep.last.any():
        actions = np.full(4, ticks % 2, np.int32)
        state, timestep = env.step(state, actions, ticks)
        observation, own = step_all(own, actions)
        np.testing.assert_allclose(timestep.frame, observation, rtol=1e-6)
        ticks += 1
    assert ticks > 8


def test_deep_sea_is_gymnaxs_with_the_same_map():
    env = native("bsuite/DeepSea", 4, env__size=5)
    key = envs.world_key(0)
    inner, params = gymnax.make("DeepSea-bsuite", size=5, action_mapping_key=key)
    np.testing.assert_array_equal(env.init(envs.env_key(0), key)[0].drawn, inner.action_mapping)
    actions = np.random.default_rng(0).integers(0, 2, 5)
    steps = play_native(env, np.repeat(actions[:, None], 4, axis=1))
    step = jax.jit(functools.partial(inner.step_env, params=params), compiler_options=QUICK)
    observation, state = inner.reset_env(key, params)
    np.testing.assert_array_equal(steps.frame[0, 0], observation.ravel())
    for i, action in enumerate(actions, start=1):
        observation, state, reward, terminated, _ = step(key, state, action)
        np.testing.assert_array_equal(steps.frame[i, 0], observation.ravel())
        assert (float(steps.reward[i, 0]), steps.last[i, 0]) == (pytest.approx(reward), terminated)


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
    _, timestep = jax.eval_shape(env.init, envs.env_key(0), envs.world_key(0))
    assert timestep.frame.shape == (4, *shape)
    assert timestep.frame.dtype == env.spec.frame_dtype == dtype


@pytest.mark.parametrize("game", ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"])
def test_minatar_frames_are_zeros_and_ones(game):
    """Nothing is lost by keeping them as u8."""
    inner, params = gymnax.make(f"{game}-MinAtar")
    reset = jax.jit(lambda key: inner.reset_env(key, params)[0], compiler_options=QUICK)
    assert set(np.unique(reset(jax.random.key(0)))) <= {0.0, 1.0}


def test_the_environments_keys_are_no_others():
    """fold_in(key, 1) would be the second half of split(key), the replay's."""
    key = jax.random.key(3)
    others = [*jax.random.split(key), *(jax.random.fold_in(key, tick) for tick in range(100))]
    own = [jax.random.key_data(of(3)).tolist() for of in (envs.env_key, envs.world_key)]
    assert own[0] != own[1]
    assert not [other for other in others if jax.random.key_data(other).tolist() in own]


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
