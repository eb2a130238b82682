"""DeepSea beside a slow twin of bsuite's definition, and the map that belongs to a run."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from envs_helpers import native, play_native
from helpers import QUICK, tiny

from jdqn import envs
from jdqn.envs import make_env
from jdqn.envs.deep_sea import DeepSea, DeepSeaState

SIZE = 4


def twin(mapping, row, column, action, fails=False, noise=None):
    """One step as bsuite's `deep_sea.py` has it, its two draws given; `noise` None: none drawn."""
    size = len(mapping)
    reward = 0.0
    action_right = action == mapping[row, column]
    if column == size - 1 and action_right:
        reward += 1.0
    if noise is not None and row == size - 1 and column in [0, size - 1]:
        reward += noise
    if action_right:
        if not fails:
            column = np.clip(column + 1, 0, size - 1)
        reward -= 0.01 / size
    else:
        column = np.clip(column - 1, 0, size - 1)
    row += 1
    observation = np.zeros((size, size), np.float32)
    if row < size:
        observation[row, column] = 1.0
    return observation, (row, column), reward, row == size


CELLS = list(itertools.product(range(SIZE), range(SIZE), range(2)))  # and every action in them


def all_steps(env, params):
    """A function of a key: what comes of every action in every cell, `[N * N * 2, ...]`."""
    row, column, action = jnp.array(CELLS).T

    def steps(key):
        keys = jax.random.split(key, len(CELLS))
        states = DeepSeaState(row, column)
        return jax.vmap(env.step_env, in_axes=(0, 0, 0, None))(keys, states, action, params)[:4]

    steps = jax.jit(steps, compiler_options=QUICK)
    return lambda seed: jax.device_get(steps(jax.random.key(seed)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_step_is_bsuites(seed):
    env = DeepSea(SIZE, is_stochastic=False)
    mapping = env.draw_params(jax.random.key(seed))
    observation, state, reward, ended = all_steps(env, mapping)(9)
    for i, cell in enumerate(CELLS):
        want, place, want_reward, want_ended = twin(np.asarray(mapping), *cell)
        np.testing.assert_array_equal(observation[i], want)
        assert (state.row[i], state.column[i], ended[i]) == (*place, want_ended)
        assert float(reward[i]) == pytest.approx(want_reward, abs=1e-7)


def test_every_stochastic_step_is_bsuites():
    """A step fails or not, with one noise: the twin with those draws comes to the same."""
    env = DeepSea(SIZE, is_stochastic=True)
    params = env.draw_params(jax.random.key(3))
    mapping = np.asarray(params)
    steps = all_steps(env, params)
    failed = []
    noises = []
    for seed in range(100):
        _, state, reward, _ = steps(seed)
        for i, (row, column, action) in enumerate(CELLS):
            right = action == mapping[row, column]
            fails = right and column < SIZE - 1 and bool(state.column[i] == column)
            _, place, want_reward, _ = twin(mapping, row, column, action, fails)
            assert (state.row[i], state.column[i]) == place
            noise = float(reward[i]) - want_reward
            if row == SIZE - 1 and column in (0, SIZE - 1):
                noises.append(noise)
            else:
                assert noise == pytest.approx(0, abs=1e-7)
            if right and column < SIZE - 1:
                failed.append(fails)
    assert np.mean(failed) == pytest.approx(1 / SIZE, abs=0.05)
    assert np.mean(noises) == pytest.approx(0, abs=0.2)
    assert np.std(noises) == pytest.approx(1, abs=0.15)


def test_the_best_episode_returns_almost_one_and_needs_no_gymnax(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    env = native("bsuite/DeepSea", 4, env__size=5)
    state, _ = env.init(envs.env_key(0), envs.world_key(0))
    rightward = np.asarray(state.drawn)
    best = [*np.diagonal(rightward), 0, *np.diagonal(rightward)]
    steps = play_native(env, np.repeat(np.array(best)[:, None], 4, axis=1))
    np.testing.assert_array_equal(np.flatnonzero(steps.last[:, 0]), [5, 11])
    assert steps.terminated[steps.last].all()
    np.testing.assert_allclose(steps.reward[:6].sum(axis=0), 0.99, rtol=1e-6)
    assert steps.frame.dtype == np.uint8
    np.testing.assert_array_equal(steps.frame[0, 0], np.eye(25)[0])
    assert not steps.frame[5].any()


def test_the_map_belongs_to_the_seed_of_the_run():
    """Through all resets, on the host too, whatever the seed of the games."""

    def maps(seed, run_seed):
        env = native("bsuite/DeepSea", 4, env__size=5)
        state, _ = env.init(envs.env_key(seed), envs.world_key(run_seed))
        after, _ = env.step(state.replace(ended=~state.ended), np.zeros(4, np.int32), 0)
        np.testing.assert_array_equal(after.drawn, state.drawn)
        return state.drawn.tolist()

    assert maps(0, 7) == maps(10_007, 7)
    assert len({str(maps(0, run_seed)) for run_seed in range(5)}) == 5
    on_host = make_env(tiny("bsuite/DeepSea", env__size=5, train__seed=7), seed=10_007)
    on_host.reset()
    assert on_host._state.drawn.tolist() == maps(0, 7)
