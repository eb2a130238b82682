"""The counters of a run: plain data that can be written down and taken up again."""

import io

import jax
import numpy as np
import pytest
from helpers import tiny

from jdqn import clock, envs
from jdqn.records import Timestep
from jdqn.runs import counters

NUM_SEEDS = 2
NUM_TICKS = 240


@pytest.fixture(scope="module")
def config():
    """Two seeds, of which the first reaches its goal."""
    return tiny("gymnax/CartPole-v1", train__num_seeds=NUM_SEEDS, train__stop_return=5.0)


@pytest.fixture(scope="module")
def timesteps():
    """`[ticks][seeds]`: two-step episodes; of seed 0 the returns rise to 10 and fall again."""
    rng = np.random.default_rng(0)
    ticks = []
    for tick in range(NUM_TICKS):
        first = np.full(4, tick % 3 == 0)
        last = np.full(4, tick % 3 == 2)
        reward = 5.0 if 60 < tick < 180 else 0.0
        rewards = [np.full(4, reward, np.float32), rng.normal(size=4).astype(np.float32)]
        ticks.append([Timestep(None, reward, last, last, first) for reward in rewards])
    return ticks


def count_all(config, before, timesteps, first_tick=0):
    """The counters after some ticks, and the episodes that ended, by tick and seed."""
    ended = []
    for i, one_tick in enumerate(timesteps):
        before, now = counters.count(config, before, first_tick + i, one_tick)
        ended.append(now)
    return before, ended


def written_and_read(tree):
    """A tree of the same structure whose leaves went through a file of NumPy's."""
    leaves, structure = jax.tree.flatten(tree)
    file = io.BytesIO()
    np.savez(file, *leaves)
    file.seek(0)
    with np.load(file) as arrays:
        return jax.tree.unflatten(structure, [arrays[name] for name in arrays.files])


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bsuite/DeepSea", {"env__size": 8}),
        ("CartPole-v1", {"env__max_episode_steps": 8}),
        ("Breakout", {"env__max_episode_steps": 8}),
    ],
)
def test_the_step_that_resets_counts_but_is_not_part_of_an_episodes_length(name, fields):
    """As docs/runs.md says."""
    config = tiny(name, env__num_envs=1, train__update_period_steps=4, **fields)
    env = envs.make_env(config)
    timesteps = [env.reset()]
    for _ in range(27):
        env.send(np.zeros(1, np.int32))
        timesteps.append(env.recv())
    env.close()
    _, ended = count_all(config, counters.start(config), [[timestep] for timestep in timesteps])
    steps = {clock.steps_at(config, i): now[0].length for i, (now,) in enumerate(ended) if now}
    assert steps == {9: 8, 18: 8, 27: 8}


def test_counters_are_a_pytree_of_integers_and_arrays(config, timesteps):
    for some in (counters.start(config), count_all(config, counters.start(config), timesteps)[0]):
        leaves = jax.tree.leaves(some)
        assert all(isinstance(leaf, int | float | np.ndarray) for leaf in leaves)
        assert all(leaf.dtype != object for leaf in leaves if isinstance(leaf, np.ndarray))
        assert jax.tree.structure(some) == jax.tree.structure(counters.start(config))


def test_counting_half_writing_it_down_and_going_on_is_counting_straight(config, timesteps):
    straight, all_ended = count_all(config, counters.start(config), timesteps)
    half = NUM_TICKS // 2 + 2  # within an episode
    before, first_ended = count_all(config, counters.start(config), timesteps[:half])
    after, then_ended = count_all(config, written_and_read(before), timesteps[half:], half)
    assert jax.tree.structure(after) == jax.tree.structure(straight)
    for leaf, expected in zip(jax.tree.leaves(after), jax.tree.leaves(straight), strict=True):
        np.testing.assert_array_equal(leaf, expected)
    assert [*first_ended, *then_ended] == all_ended
    # What was written down matters: none of it is as at the start.
    assert before.episodes[0].episode_return.all()
    assert before.episodes[0].length.all()
    assert before.episodes[1].num_episodes > 100
    assert before.reached_steps[0] != counters.NOT_REACHED
    assert before.updates > 0


def test_reached_steps_are_those_of_the_first_time(config, timesteps):
    after, ended = count_all(config, counters.start(config), timesteps)
    returns = []
    expected = None
    for tick, seeds in enumerate(ended):
        returns += [episode.episode_return for episode in seeds[0]]
        if expected is None and len(returns) >= 100 and np.mean(returns[-100:]) >= 5.0:
            expected = (tick + 1) * 4
    assert np.mean(returns[-100:]) < 5.0  # it fell again
    assert after.reached_steps == (expected, counters.NOT_REACHED)
    assert expected is not None


def test_nothing_is_reached_without_a_goal(config, timesteps):
    without = tiny("gymnax/CartPole-v1", train__num_seeds=NUM_SEEDS)
    after, _ = count_all(without, counters.start(without), timesteps)
    assert after.reached_steps == (counters.NOT_REACHED,) * NUM_SEEDS


@pytest.mark.parametrize(
    ("num_envs", "update_period", "updates"),
    [
        (4, 4, 43),  # steps 32, 36 ... 200, one each
        (8, 4, 44),  # steps 32, 40 ... 200, two each
        (4, 8, 22),  # steps 32, 40 ... 200, one each
    ],
)
def test_updates_are_those_of_the_ticks_that_learn(num_envs, update_period, updates):
    config = tiny(env__num_envs=num_envs, train__update_period_steps=update_period)
    no = np.zeros(num_envs, bool)
    timestep = Timestep(None, no.astype(np.float32), no, no, no)
    counted = counters.start(config)
    expected = 0
    for tick in range(200 // num_envs):
        counted, _ = counters.count(config, counted, tick, [timestep])
        expected += clock.updates_per_call(config) if clock.learns_at(config, tick) else 0
        assert counted.updates == expected
        assert counted.steps == (tick + 1) * num_envs
    assert counted.updates == updates
