"""The ring by hand: what is stored, importance weights, priorities of new rows, masks."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import QUICK, tiny, vector_spec
from replay_helpers import (
    DISCOUNT,
    IMAGE,
    N_STEP,
    NUM_STACK,
    STEADY,
    empty_steps,
    play,
    ranked_replay,
    rows_of,
    setup,
)
from scipy import stats
from scripted import ScriptedEnv

from jdqn import replay
from jdqn.config import ConfigError
from jdqn.records import EnvSpec, Timestep

# --- To look at ---------------------------------------------------------------------------------


def test_a_replay_and_its_functions_say_what_they_are():
    made = replay.make_replay(tiny(), vector_spec())
    names = ("init", "add", "seal", "draw", "gather", "sample", "update", "refresh")
    for name in names:
        function = getattr(made, name)
        assert inspect.isroutine(function)  # what `help` shows the text of, not that of its type
        assert function.__name__ == name
        assert inspect.getdoc(function)
        assert "settings" not in inspect.signature(function).parameters
        assert len(repr(function)) < 150
        assert {function: 1}[getattr(made, name)]  # the same to the caches of `jax.jit`
    assert repr(made) == "<replay of 64 transitions, 5,448 bytes>"


# --- Rows ---------------------------------------------------------------------------------------


def test_stacks_start_filled_with_the_first_frame():
    made = setup(12, 1, 3, 1)
    long = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0)]
    short = [(0, 0, 1, 0)]
    state = play(made, [long, short], 10)
    assert state.rows.age[:10, 0].tolist() == [0, 1, 2, 2, 0, 1, 0, 1, 2, 2]
    batch = jax.device_get(made.sample_all(state, 0, 0))
    stacks = dict(zip(batch.row.tolist(), batch.obs[:, :, 1:].tolist(), strict=True))
    assert stacks == {
        0: [[0, 0], [0, 0], [0, 0]],  # episode, step
        1: [[0, 0], [0, 0], [0, 1]],
        2: [[0, 0], [0, 1], [0, 2]],
        4: [[1, 0], [1, 0], [1, 0]],
        6: [[2, 0], [2, 0], [2, 0]],
        7: [[2, 0], [2, 0], [2, 1]],
        8: [[2, 0], [2, 1], [2, 2]],
    }


@pytest.mark.parametrize(
    ("frame_shape", "dtype", "width", "on_a_tpu"),
    [
        ((4,), np.float32, 4, 4),
        ((10, 10, 4), np.uint8, 400, 512),
        ((16, 16), np.uint8, 256, 256),
        ((84, 84), np.uint8, 7056, 7168),
    ],
)
def test_frames_are_stored_flat_and_on_a_tpu_fill_its_lanes(
    monkeypatch, frame_shape, dtype, width, on_a_tpu
):
    spec = EnvSpec(frame_shape, np.dtype(dtype), 2, 3, 1.0)
    memory = replay.make_replay(tiny(), spec)
    for backend, expected in (("cpu", width), ("gpu", width), ("tpu", on_a_tpu)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        rows = jax.eval_shape(lambda: memory.init(jax.random.key(0))).rows
        assert (rows.frame.shape, rows.frame.dtype) == ((16, 4, expected), dtype)
        assert rows.frame_entries == width


def test_rewards_are_clipped_before_they_are_summed():
    made = setup(8, 1, 1, 2, agent__reward_clip=1.0)
    state = play(made, STEADY, 8)
    np.testing.assert_array_equal(state.rows.reward[1:], 5)  # stored raw
    reward = made.sample(state, 0, 0).reward
    np.testing.assert_allclose(reward, 1 + DISCOUNT, rtol=1e-6)


def test_capacity_is_rounded_up_and_bytes_are_counted():
    config = tiny(env__frame_stack=1, replay__capacity=10, network__heads=2)
    for spec in (vector_spec(frame_stack=1), EnvSpec(IMAGE, np.dtype("u1"), 1, 300, 1.0)):
        memory = replay.make_replay(config, spec)
        state = jax.jit(memory.init, compiler_options=QUICK)(jax.random.key(0))
        assert memory.capacity == state.rows.age.size == 12
        arrays = jax.tree.leaves(state.replace(key=None))
        assert memory.num_bytes == sum(x.nbytes for x in arrays)


def test_a_ring_too_short_is_refused():
    config = tiny(replay__capacity=64, replay__n_step=3)
    replay.make_replay(config, vector_spec(frame_stack=13))
    with pytest.raises(ConfigError, match=r"16 rows .* use at least 68"):
        replay.make_replay(config, vector_spec(frame_stack=14))


# --- Priorities ---------------------------------------------------------------------------------

PRIORITISED = functools.partial(
    setup,
    10,
    2,
    1,
    1,
    replay__priority_exponent=0.6,
    replay__priority_epsilon=0.1,
    replay__importance_exponent=0.4,
    replay__importance_anneal_steps=100,
)


def drawn(made, num_ticks=8):
    """A played replay and a batch of it."""
    state = play(made, STEADY, num_ticks)
    return state, made.sample(state, 1, 0)


@pytest.mark.parametrize(
    ("anneal_steps", "tick", "beta"),
    [(100, 0, 0.4), (100, 25, 0.7), (100, 50, 1.0), (100, 5000, 1.0), (0, 50, 0.55)],
)
def test_importance_weights(anneal_steps, tick, beta, rng):
    made = PRIORITISED()
    state, batch = drawn(made)
    state = made.update(state, batch, rng.gamma(0.5, size=batch.row.shape).astype(np.float32))
    annealed = PRIORITISED(replay__importance_anneal_steps=anneal_steps)
    batch = annealed.sample(state, 2, tick)
    leaves = np.asarray(made.leaves(state), np.float64)
    probability = leaves[batch.row, batch.env] / leaves.sum()
    weight = (np.sum(leaves > 0) * probability) ** -beta
    assert np.ptp(weight) > 0.1
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-5)


def test_uniform_replay_weighs_all_alike_and_keeps_its_leaves():
    made = setup(10, 2, 1, 1)
    state, batch = drawn(made)
    np.testing.assert_array_equal(batch.weight, 1)
    after = made.replay.update(state, batch, np.full(batch.row.shape, 9.0, np.float32))
    jax.tree.map(np.testing.assert_array_equal, after.replace(key=0), state.replace(key=0))
    assert after.key == state.key


def test_a_zero_error_closes_no_row():
    made = PRIORITISED()
    state, batch = drawn(made)
    was_open = np.asarray(made.leaves(state)) > 0
    errors = np.zeros(batch.row.shape, np.float32)
    leaves = np.asarray(made.leaves(made.update(state, batch, errors)))
    np.testing.assert_array_equal(leaves > 0, was_open)
    np.testing.assert_allclose(leaves[batch.row, batch.env], 0.1**0.6, rtol=1e-6)


@pytest.mark.parametrize(("largest", "entry"), [(0.5, 1.0), (7.0, 7.1), (1e6, 100.0)])
def test_new_rows_enter_at_the_largest_priority_seen_up_to_the_cap(largest, entry):
    made = PRIORITISED()
    state, batch = drawn(made)
    for priority in (largest, 0.01):  # a later small one does not lower it
        state = made.update(state, batch, np.full(batch.row.shape, priority, np.float32))
    timestep = ScriptedEnv(STEADY, 2).reset()
    state = made.add(state, timestep, np.zeros(2, int), 8)
    np.testing.assert_allclose(made.leaves(state)[7], entry**0.6, rtol=1e-6)


def test_no_row_has_a_higher_priority_than_a_new_one_can_have():
    """Else rewards that are not clipped would keep new rows from being seen."""
    made = PRIORITISED()
    state, batch = drawn(made)
    state = made.update(state, batch, np.full(batch.row.shape, 1e4, np.float32))
    np.testing.assert_allclose(made.leaves(state)[batch.row, batch.env], 100.0**0.6, rtol=1e-6)


def test_an_update_without_drawable_rows_opens_none():
    made = PRIORITISED()
    state = play(made, STEADY, 1)
    batch = made.sample(state, 0, 0)
    np.testing.assert_array_equal(batch.weight, 0)
    state = made.update(state, batch, np.full(batch.row.shape, 9.0, np.float32))
    np.testing.assert_array_equal(state.priorities.leaves, 0)
    np.testing.assert_array_equal(state.priorities.max_priority, 1)


# --- Masks --------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def ring_of(memory, seed, reward):
    """A full ring of one endless episode."""
    state = memory.init(jax.random.key(seed))
    num_rows, num_envs = state.rows.age.shape

    def body(state, tick):
        no = jnp.zeros(num_envs, bool)
        frame = jnp.zeros((num_envs, 3))
        timestep = Timestep(frame, jnp.full(num_envs, reward), no, no, no | (tick == 0))
        return memory.add(state, timestep, jnp.zeros(num_envs, int), tick), None

    return jax.lax.scan(body, state, jnp.arange(num_rows))[0]


def test_masks_are_bernoulli_and_an_empty_one_never_opens():
    made = setup(1000, 8, 1, 1, network__heads=3, replay__mask_probability=0.5)
    state = ring_of(made.replay, 0, 0.0)
    mask = np.asarray(state.rows.mask)
    pattern = np.bincount(mask.reshape(-1, 3) @ [4, 2, 1], minlength=8)
    assert stats.chisquare(pattern).pvalue > 1e-3
    np.testing.assert_array_equal(made.leaves(state)[:-1] > 0, mask[:-1].any(-1))

    other_rewards = ring_of(made.replay, 0, 1.0)
    np.testing.assert_array_equal(other_rewards.rows.mask, mask)
    other_key = ring_of(made.replay, 1, 0.0)
    assert 0.45 < np.mean(other_key.rows.mask == mask) < 0.55


@pytest.mark.parametrize("probability", [0.1, 1.0])
def test_mask_probability(probability):
    made = setup(1000, 8, 1, 1, network__heads=3, replay__mask_probability=probability)
    mask = ring_of(made.replay, 0, 0.0).rows.mask
    deviation = np.sqrt(probability * (1 - probability) / mask.size)
    assert abs(np.mean(mask) - probability) <= 4 * deviation


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def filled(memory, steps):
    """A ring of the given timesteps, `[T, E, ...]`."""
    num_rows, num_envs = steps.reward.shape

    def add(state, x):
        return memory.add(state, x[1], jnp.zeros(num_envs, jnp.int32), x[0]), None

    start = memory.init(jax.random.key(2))
    return jax.lax.scan(add, start, (jnp.arange(num_rows), steps))[0]


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_poisson_masks_and_rows_without_one(exponent):
    num_rows, num_envs, heads = 16, 64, 40
    rule = {
        "replay__priority_exponent": exponent,
        "replay__prioritization": "rank" if exponent else "proportional",
    }
    _, memory = ranked_replay(num_rows, num_envs, network__heads=heads, **rule)
    _, few = ranked_replay(num_rows, num_envs, **rule)
    steps = empty_steps(num_rows, num_envs)
    mask = np.asarray(filled(memory, steps).rows.mask)
    assert mask.dtype == np.uint8
    assert mask.shape == (num_rows, num_envs, heads)
    assert mask.mean() == pytest.approx(1.0, abs=0.025)
    assert mask.var() == pytest.approx(1.0, abs=0.045)
    counts = np.bincount(mask.ravel(), minlength=5)
    observed = [*counts[:5], counts[5:].sum()]
    expected = [*stats.poisson.pmf(range(5), 1), stats.poisson.sf(4, 1)]
    assert stats.chisquare(observed, mask.size * np.array(expected)).pvalue > 1e-3
    for axis in range(3):  # rows, environments and heads each draw their own
        moved = np.moveaxis(mask, axis, 0)
        assert np.mean(moved[0] == moved[1]) < 0.5

    state = filled(few, steps)
    has_sample = np.asarray(state.rows.mask).any(axis=-1)
    leaves = rows_of(state.priorities, num_rows)
    drawable = np.arange(NUM_STACK - 1, num_rows - N_STEP)  # the oldest stacks are incomplete
    assert (~has_sample[drawable]).sum() > 50  # e^-2 of them
    assert np.all(leaves[~has_sample] == 0)
    assert np.all(leaves[drawable][has_sample[drawable]] > 0)
