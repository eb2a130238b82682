"""The replay of several devices, beside the replay of one and beside definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices_helpers import needs_several, spread
from helpers import tiny
from learning_helpers import SPEC, fill, quick_jit, random_steps
from scipy import stats

from jdqn import devices, replay
from jdqn.replay import priorities, shards

pytestmark = needs_several

NUM_DEVICES = 4
NUM_ENVS = 8
NUM_ROWS = 16
BATCH = 16
DRAWS = 4_000
TICK = 19


@functools.cache
def made(by="proportional", **overrides):
    """Configuration, replay of one device and of several, and the state of a filled one."""
    config = tiny(
        **{
            "env__num_envs": NUM_ENVS,
            "replay__capacity": NUM_ROWS * NUM_ENVS,
            "replay__batch_size": BATCH,
            "replay__prioritization": by,
            "replay__priority_exponent": 0.7,
            "replay__importance_exponent": 1.0,
            "network__heads": 3,
            "replay__mask_probability": 0.5,
            "train__num_devices": NUM_DEVICES,
            "train__learning_starts_steps": 64,
        }
        | overrides
    )
    one = replay.make_replay(config, SPEC)
    several = shards.make_replay(config, SPEC, devices.make_mesh(config))
    state = quick_jit(fill(one))(*random_steps(NUM_ENVS))
    return config, one, several, state


def weighed(state):
    """The same with leaves of very different sizes; devices have very different totals."""
    leaves = state.priorities.leaves
    rng = np.random.default_rng(1)
    size = rng.exponential(size=leaves.shape) * np.repeat([0.1, 1, 5, 2], 2)
    new = jnp.where(leaves > 0, size.astype(np.float32), 0.0)
    leaves = state.priorities.replace(leaves=new, sums=priorities.block_sums(new, 1))
    return state.replace(priorities=leaves)


def probabilities(leaves):
    """Of each row by the definition, `[T, E]`: leaf / (D · total of its device)."""
    leaves = np.asarray(leaves, np.float64).reshape(-1, NUM_ENVS)[:NUM_ROWS]
    parts = leaves.reshape(NUM_ROWS, NUM_DEVICES, -1)
    return (parts / (NUM_DEVICES * parts.sum(axis=(0, 2), keepdims=True))).reshape(leaves.shape)


def global_env(env):
    """Environments of batches `[..., B]` by their number in the run."""
    device = np.arange(env.shape[-1]) // (env.shape[-1] // NUM_DEVICES)
    return np.asarray(env) + device * (NUM_ENVS // NUM_DEVICES)


@pytest.mark.parametrize("by", ["proportional", "rank"])
def test_every_row_is_drawn_as_often_as_its_definition_says_and_weights_undo_it(by):
    config, _, several, state = made(by)
    state = spread(weighed(state), config)
    if by == "rank":
        state = quick_jit(several.refresh)(state, TICK)
    uniform = jax.vmap(lambda key: priorities.uniforms(key, BATCH))(
        jax.random.split(jax.random.key(2), DRAWS // BATCH)
    )
    sample = jax.vmap(several.gather, in_axes=(None, 0, None))

    def look(state, uniform):
        drawn = jax.vmap(several.draw, in_axes=(None, 0))(state, uniform)
        return drawn, sample(state, drawn, TICK).weight

    (row, env, _), weight = quick_jit(look)(state, uniform)
    expected = probabilities(state.priorities.leaves)
    seen = np.zeros_like(expected)
    np.add.at(seen, (np.asarray(row), global_env(env)), 1)
    assert not seen[expected == 0].any()
    often = expected * DRAWS >= 5
    counts = [*seen[often], *([seen[~often].sum()] if (expected[~often] > 0).any() else [])]
    chances = [*expected[often], *([expected[~often].sum()] if len(counts) > often.sum() else [])]
    found = stats.chisquare(counts, np.array(chances) * DRAWS)
    assert found.pvalue > 1e-3
    # With exponent 1 a weight is 1 / P but for a factor of its batch, the largest is 1: the
    # weighted draws of a batch are proportional to even ones, and so their mean is unbiased.
    batch_p = expected[np.asarray(row), global_env(env)]
    np.testing.assert_allclose(weight, batch_p.min(axis=1, keepdims=True) / batch_p, rtol=1e-5)
    value = np.random.default_rng(3).normal(size=expected.shape)
    unbiased = value[np.asarray(row), global_env(env)] / batch_p
    mean = unbiased.mean(axis=1)
    spread_of_mean = mean.std() / np.sqrt(len(mean))
    assert abs(mean.mean() - value[expected > 0].sum()) < 4 * spread_of_mean


def test_each_device_draws_by_random_numbers_of_its_own():
    config, _, several, state = made()
    state = weighed(state)
    uniform = priorities.uniforms(jax.random.key(1), BATCH)
    drawn = quick_jit(several.draw)(spread(state, config), uniform)
    leaves = np.split(np.asarray(state.priorities.leaves), NUM_DEVICES, axis=2)
    alone = quick_jit(priorities.draw)
    for device, part in enumerate(leaves):
        own = slice(device * BATCH // NUM_DEVICES, (device + 1) * BATCH // NUM_DEVICES)
        of_part = priorities.Priorities(part, part.sum(axis=(1, 2)), np.float32(1))
        for x, y in zip(alone(of_part, uniform[own]), drawn, strict=True):
            assert np.array_equal(x, np.asarray(y)[own])


@pytest.mark.parametrize("by", ["proportional", pytest.param("rank", marks=pytest.mark.slow)])
def test_rows_masks_and_leaves_do_not_depend_on_the_number_of_devices(by):
    """The leaves of rows that enter: by rank they are ranks within a device."""
    _, one, several, _ = made(by)
    steps, actions = random_steps(NUM_ENVS)

    @functools.partial(quick_jit, static_argnums=0)
    def filled(memory, steps, actions):
        def add(state, x):
            return memory(state, *x), None

        start = one.init if memory is one.add else several.init
        ticks = jnp.arange(len(actions))
        return jax.lax.scan(add, start(jax.random.key(5)), (steps, actions, ticks))[0]

    alone, apart = (filled(memory.add, steps, actions) for memory in (one, several))
    assert len(apart.rows.frame.sharding.device_set) == NUM_DEVICES
    assert apart.rows.frame.addressable_shards[0].data.shape[1] == NUM_ENVS // NUM_DEVICES
    for x, y in zip(*map(jax.tree.leaves, (alone.rows, apart.rows)), strict=True):
        assert np.array_equal(x, y)
    assert np.ptp(alone.rows.mask) == 1
    opened = [np.asarray(s.priorities.leaves) > 0 for s in (alone, apart)]
    assert np.array_equal(*opened)
    np.testing.assert_allclose(
        apart.priorities.sums, priorities.block_sums(apart.priorities.leaves, NUM_DEVICES), 1e-5
    )
    if by == "proportional":
        assert np.array_equal(alone.priorities.leaves, apart.priorities.leaves)


@pytest.mark.parametrize("by", ["proportional", "rank"])
def test_errors_are_written_where_they_were_drawn_and_the_largest_is_known_everywhere(by):
    config, _, several, state = made(by)
    before = spread(weighed(state), config)
    drawn = quick_jit(several.draw)(before, priorities.uniforms(jax.random.key(1), BATCH))
    batch = quick_jit(several.gather)(before, drawn, TICK)
    error = np.arange(1.0, BATCH + 1, dtype=np.float32)
    after = quick_jit(several.update)(before, batch, error)
    place = (np.asarray(batch.row), global_env(batch.env))
    old, new = (
        np.asarray(s.priorities.leaves).reshape(-1, NUM_ENVS)[:NUM_ROWS] for s in (before, after)
    )
    changed = old != new
    assert set(zip(*np.nonzero(changed), strict=True)) <= set(zip(*place, strict=True))
    if by == "proportional":
        first = {}
        for row, env, value in zip(*place, error, strict=True):
            first.setdefault((row, env), value)
        for at, value in first.items():
            epsilon = config.replay.priority_epsilon
            np.testing.assert_allclose(new[at], (value + epsilon) ** 0.7, rtol=1e-5)
    largest = [np.asarray(s.data) for s in after.priorities.max_priority.addressable_shards]
    assert np.allclose(largest, BATCH, atol=0.01)
    np.testing.assert_allclose(
        after.priorities.sums, priorities.block_sums(after.priorities.leaves, NUM_DEVICES), 1e-5
    )


def test_a_sample_of_any_size_is_whole_on_every_device():
    config, _, several, state = made()
    uniform = priorities.uniforms(jax.random.key(0), 7)
    batch = quick_jit(several.sample)(spread(state, config), uniform, TICK)
    assert batch.obs.shape[0] == 7
    assert batch.obs.sharding.is_fully_replicated


def test_without_anything_to_draw_weights_are_zero():
    _, _, several, _ = made()
    empty = quick_jit(several.init)(jax.random.key(0))
    uniform = priorities.uniforms(jax.random.key(0), BATCH)
    assert not np.asarray(quick_jit(several.sample)(empty, uniform, TICK).weight).any()


@pytest.mark.parametrize("num_devices", [1, 8])
def test_priorities_are_regrouped_for_another_number_of_devices(num_devices):
    config, one, several, state = made("rank")
    before = quick_jit(several.refresh)(spread(weighed(state), config), TICK).priorities
    after = shards.regrouped(before, num_devices)
    assert np.array_equal(before.leaves, after.leaves)
    assert after.sums.shape == (num_devices * len(before.leaves),)
    np.testing.assert_allclose(np.sum(after.sums), np.sum(before.leaves), rtol=1e-5)
    shape = jax.eval_shape(one.init, jax.random.key(0)).priorities.ranks.added.shape
    assert after.ranks.added.shape == ((num_devices,) if num_devices > 1 else shape)
    part = np.asarray(after.ranks.sorted).reshape(num_devices, -1)
    finite = np.where(np.isfinite(part), part, 0)
    assert (np.diff(part[:, :2]) >= 0).all()
    magnitudes = np.where(before.leaves > 0, before.ranks.magnitude, 0)
    of_devices = magnitudes.reshape(*magnitudes.shape[:2], num_devices, -1).sum(axis=(0, 1, 3))
    np.testing.assert_allclose(-finite.sum(axis=1), of_devices, rtol=1e-5)
