"""Block sums and draws against a plain NumPy array."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny, vector_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_helpers import rows_of, small_blocks
from scipy import stats

from jdqn import replay
from jdqn.replay import priorities

# Ring rows, environments, leaves aimed at in a block: padding at the end, one block, one row each.
SHAPES = [(7, 3, 6), (4, 2, 1024), (5, 4, 3)]
BATCH = 6
DRAWN = 64
LEAF = st.sampled_from([0.0, 0.0, 1e-30, 1e-6, 0.5, 1.0, 3.0, 1e6])


def one_row(state, row, value):
    """Sets one ring row to values `[E]` or to one value."""
    num_envs = state.leaves.shape[-1]
    value = jnp.broadcast_to(jnp.asarray(value, jnp.float32), (num_envs,))
    return priorities.set_rows(state, jnp.asarray(row)[None], value[None])


set_row = jax.jit(one_row)
set_leaves = jax.jit(priorities.set_leaves)
draw = jax.jit(priorities.draw)


@functools.cache
def empty(num_rows, num_envs, block_leaves=priorities.BLOCK_LEAVES):
    with small_blocks(block_leaves):
        return priorities.init(num_rows, num_envs)


@jax.jit
def filled(state, leaves):
    """Writes `leaves` `[T, E]` row by row."""
    rows = jnp.arange(leaves.shape[0])
    return jax.lax.scan(lambda s, x: (one_row(s, *x), None), state, (rows, leaves))[0]


@jax.jit
def some_draws(state, seed):
    return priorities.draw(state, priorities.uniforms(jax.random.key(seed), DRAWN))


def check_draws(state, twin, seed):
    row, env, leaf = map(np.asarray, some_draws(state, seed))
    if np.any(twin > 0):
        assert np.all(leaf > 0)
        np.testing.assert_array_equal(leaf, twin[row, env])  # an index error: the padding
    else:
        np.testing.assert_array_equal(leaf, 0)


@given(data=st.data(), shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=60)
def test_writes_and_draws_agree_with_an_array(data, shape, seed):
    num_rows, num_envs, _ = shape
    state = empty(*shape)
    twin = np.zeros((num_rows, num_envs), np.float32)
    row = st.integers(0, num_rows - 1)
    env = st.integers(0, num_envs - 1)
    whole = st.tuples(row, st.lists(LEAF, min_size=num_envs, max_size=num_envs))
    single = st.tuples(row, env, LEAF.filter(bool))
    some = st.lists(single, min_size=BATCH, max_size=BATCH)
    for write in data.draw(st.lists(st.one_of(whole, some), min_size=1, max_size=8)):
        if isinstance(write, tuple):
            index, values = write
            state = set_row(state, index, np.float32(values))
            twin[index] = values
        else:
            rows, envs, values = zip(*write, strict=True)
            state = set_leaves(state, np.array(rows), np.array(envs), np.float32(values))
            for r, e, value in reversed(write):  # the first value is written last
                twin[r, e] = value
        np.testing.assert_array_equal(rows_of(state, num_rows), twin)
        sums = np.sum(np.asarray(state.leaves), axis=(1, 2), dtype=np.float64)
        np.testing.assert_allclose(state.sums, sums, rtol=1e-6)
        check_draws(state, twin, seed)


def test_a_scalar_sets_the_whole_row():
    state = set_row(filled(empty(3, 2), np.ones((3, 2), np.float32)), 1, 0.0)
    np.testing.assert_array_equal(rows_of(state, 3), [[1, 1], [0, 0], [1, 1]])
    assert np.sum(state.sums) == 4


@pytest.mark.parametrize("shape", [*SHAPES, (96, 32, 1024)])
def test_the_only_positive_leaf_is_always_drawn(shape):
    num_rows, num_envs, _ = shape
    state = empty(*shape)
    total = num_rows * num_envs
    for place in {*range(0, total, max(1, total // 40)), total - 1, *range(1023, total, 1024)}:
        row, env = divmod(place, num_envs)
        twin = np.zeros((num_rows, num_envs), np.float32)
        twin[row, env] = 1e-30
        check_draws(filled(state, twin), twin, place)


@pytest.mark.parametrize(("uniform", "place"), [(0.0, (1, 2)), (1.0, (4, 0))])
def test_rounding_to_either_end_hits_a_positive_leaf(uniform, place):
    leaves = np.zeros((7, 3), np.float32)
    leaves[[1, 2, 4], [2, 1, 0]] = 0.3  # zeros before and after, in the block and beyond
    state = filled(empty(7, 3, 6), leaves)
    row, env, leaf = draw(state, np.full((1, priorities.LEVELS), uniform, np.float32))
    assert (row[0], env[0]) == place
    assert leaf[0] > 0


def test_a_draw_wants_a_number_for_each_level():
    with pytest.raises(AssertionError, match="shape"):
        priorities.draw(empty(7, 3, 6), jnp.zeros((5, priorities.LEVELS - 1)))


def scattered(num_rows, num_envs, rng):
    """Uneven leaves, 30% zeros, among them block ends and whole blocks."""
    leaves = rng.gamma(0.5, size=num_rows * num_envs).astype(np.float32) + 0.01
    leaves[rng.random(leaves.size) < 0.29] = 0
    for offset in range(-10, 6):
        leaves[np.arange(1024, leaves.size, 1024) + offset] = 0
    leaves[-9:] = 0
    if leaves.size > 2**14:
        leaves[:2048] = leaves[5 * 1024 : 8 * 1024] = leaves[-3000:] = 0
    return leaves.reshape(num_rows, num_envs)


@functools.partial(jax.jit, static_argnums=(0, 3))
def draw_many(memory, leaves, key, num_batches):
    """How often each row was drawn, and the extremes of the importance weights."""
    state = memory.init(jax.random.key(0))
    state = state.replace(priorities=filled(state.priorities, leaves))

    def body(carry, key):
        counts, low, high = carry
        batch = memory.sample(state, priorities.uniforms(key, 500), 0)
        counts = counts.at[batch.row, batch.env].add(1)
        low = jnp.minimum(low, batch.weight.min())
        high = jnp.maximum(high, batch.weight.max())
        return (counts, low, high), None

    start = jnp.zeros(leaves.shape, jnp.int32), jnp.inf, -jnp.inf
    return jax.lax.scan(body, start, jax.random.split(key, num_batches))[0]


@pytest.mark.parametrize(
    ("num_rows", "num_draws"),
    [
        pytest.param(32, 10**6, id="one block, leaf by leaf"),
        pytest.param(31_250, 10**6, id="1M rows"),
        pytest.param(31_250, 10**7, id="1M rows, all draws", marks=pytest.mark.slow),
    ],
)
def test_frequencies_are_the_leaves_and_no_zero_is_drawn(num_rows, num_draws, rng):
    config = tiny(
        env__num_envs=32,
        env__frame_stack=1,
        train__learning_starts_steps=64,
        replay__capacity=num_rows * 32,
        replay__batch_size=500,
    )
    memory = replay.make_replay(config, vector_spec(width=1, frame_stack=1))
    leaves = scattered(num_rows, 32, rng)
    assert 0.27 < np.mean(leaves == 0) < 0.33

    counts, low, high = draw_many(memory, leaves, jax.random.key(1), num_draws // 500)
    counts = np.asarray(counts)
    assert 0 < low <= high == 1
    assert np.sum(counts) == num_draws
    assert np.all(counts[leaves == 0] == 0)
    cells = np.array_split(np.arange(leaves.size)[leaves.ravel() > 0], 1000)
    observed = np.array([counts.ravel()[cell].sum() for cell in cells if cell.size])
    mass = np.array([leaves.ravel()[cell].sum(dtype=np.float64) for cell in cells if cell.size])
    assert stats.chisquare(observed, mass / mass.sum() * observed.sum()).pvalue > 1e-3
