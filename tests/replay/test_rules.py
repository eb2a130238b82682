"""Rank-based priorities: against a naive sort, a naive twin, and their exact frequencies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import QUICK
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_helpers import (
    ALPHA,
    BATCH,
    N_STEP,
    NUM_STACK,
    empty_steps,
    ranked_replay,
    rows_of,
    small_blocks,
)
from scipy import stats

from jdqn import clock
from jdqn.replay import priorities, rules

# --- The structure ------------------------------------------------------------------------------


def ranked(magnitude, is_open, newest, alpha=ALPHA):
    """Leaves `[T, E]` by definition: rank^-α, ties to the newest ring row, then by environment."""
    num_rows, num_envs = magnitude.shape
    row, env = np.divmod(np.arange(magnitude.size), num_envs)
    order = np.lexsort((env, (newest - row) % num_rows, -magnitude.ravel()))
    order = order[is_open.ravel()[order]]
    leaves = np.zeros(magnitude.size)
    leaves[order] = np.arange(1, order.size + 1.0) ** -alpha
    return leaves.reshape(num_rows, num_envs), magnitude.ravel()[order]


def structure(magnitude, is_open, block_leaves=6):
    """Priorities that remember magnitudes `[T, E]`, leaves 1 where open."""
    with small_blocks(block_leaves):
        shapes = jax.eval_shape(lambda: rules.by_rank(ALPHA, 1).init(*magnitude.shape))

    def padded(x):
        flat = np.zeros(shapes.leaves.size, np.float32)
        flat[: x.size] = x.ravel()
        return flat.reshape(shapes.leaves.shape)

    leaves = padded(is_open.astype(np.float32))
    never_sorted = np.full(shapes.ranks.sorted.shape, np.inf, np.float32)
    ranks = priorities.Ranks(padded(magnitude), never_sorted, np.int32(5))
    return priorities.Priorities(leaves, leaves.sum(axis=(1, 2)), np.float32(1), ranks)


refresh = jax.jit(functools.partial(rules.refresh, exponent=ALPHA), static_argnums=2)
rank_of = jax.jit(rules.rank_of)
rank_of_new = jax.jit(rules.rank_of_new)


def test_a_rank_based_rule_starts_empty():
    state = rules.by_rank(ALPHA, 1).init(7, 3)
    assert np.all(np.asarray(state.leaves) == 0)
    assert np.all(np.isposinf(state.ranks.sorted))
    assert state.ranks.magnitude.shape == state.leaves.shape
    assert state.ranks.added == 0


@pytest.mark.parametrize("newest", [0, 3, 6])
@pytest.mark.parametrize("ties", [False, True])
def test_refresh_sorts_as_a_naive_sort(rng, newest, ties):
    magnitude = rng.random((7, 3)).astype(np.float32)
    if ties:
        magnitude = np.float32([0.0, 0.5, 2.0])[rng.integers(0, 3, (7, 3))]
    is_open = rng.random((7, 3)) < 0.7
    state = refresh(structure(magnitude, is_open), newest, 7)
    want, in_order = ranked(magnitude, is_open, newest)
    np.testing.assert_allclose(rows_of(state, 7), want, rtol=1e-6)
    assert np.all(rows_of(state, 7)[~is_open] == 0)
    assert np.asarray(state.leaves).sum() == pytest.approx(want.sum(), rel=1e-5)  # no padding
    np.testing.assert_allclose(state.sums, np.asarray(state.leaves).sum(axis=(1, 2)), rtol=1e-6)
    in_state = np.asarray(state.ranks.sorted)
    np.testing.assert_array_equal(in_state[: in_order.size], -in_order)
    assert np.all(np.isposinf(in_state[in_order.size :]))
    assert state.ranks.added == 0


def test_the_jth_new_row_takes_rank_j():
    state = structure(np.zeros((7, 3), np.float32), np.zeros((7, 3), bool))
    state = refresh(state, 0, 7)
    taken = []
    for row, opens in enumerate([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]):
        opens = np.array(opens, bool)
        state, rank = rank_of_new(state, row, opens, np.float32(2.5))
        taken += np.asarray(rank)[opens].tolist()
    assert taken == [1, 2, 3, 4, 5, 6]
    assert state.ranks.added == 6
    remembered = np.asarray(state.ranks.magnitude).reshape(-1, 3)[:4]
    np.testing.assert_array_equal(remembered, 2.5)
    state = refresh(state, 4, 7)
    _, rank = rank_of_new(state, 5, np.array([False, True, True]), np.float32(1.0))
    assert np.asarray(rank)[1:].tolist() == [1, 2]


def test_rank_of_counts_the_larger_magnitudes_of_the_last_sort():
    magnitude = np.float32([[4, 1], [3, 3], [0.5, 9]])
    is_open = np.array([[1, 1], [1, 1], [1, 0]], bool)  # 9 is closed
    state = refresh(structure(magnitude, is_open, block_leaves=4), 2, 3)
    row = np.array([0, 1, 1, 2, 1, 0])
    env = np.array([0, 0, 1, 0, 0, 1])
    given = np.float32([5, 3, 2, 0.1, 7, 4])  # (1, 0) twice: the first is remembered
    state, rank = rank_of(state, row, env, given)
    larger = [int(np.sum(magnitude[is_open] > value)) for value in given]
    assert larger == [0, 1, 3, 5, 0, 0]
    np.testing.assert_array_equal(rank, 1 + np.array(larger))
    remembered = np.asarray(state.ranks.magnitude).reshape(-1, 2)[:3]
    np.testing.assert_array_equal(remembered, np.float32([[5, 4], [3, 2], [0.1, 9]]))


def total_variation(leaves, other):
    return 0.5 * np.abs(leaves / leaves.sum() - other / other.sum()).sum()


def test_between_refreshes_the_distribution_stays_near_the_exact_ranks(rng):
    """256 rows, 16 new and 56 replayed since the sort: 0.23; 0.31 with rank 1 for all new."""
    magnitude = rng.exponential(size=(64, 4)).astype(np.float32)
    is_open = np.ones((64, 4), bool)
    state = refresh(structure(magnitude, is_open, 1024), 63, 64)
    exact, _ = ranked(magnitude, is_open, 63)
    assert total_variation(rows_of(state, 64), exact) < 1e-6

    @functools.partial(jax.jit, compiler_options=QUICK)
    def enter(state, row, largest):
        state, rank = rules.rank_of_new(state, row, np.ones(4, bool), largest)
        leaves = rank[None].astype(jnp.float32) ** -ALPHA
        return priorities.set_rows(state, jnp.asarray(row)[None], leaves)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def replayed(state, row, env, given):
        state, rank = rules.rank_of(state, row, env, given)
        return priorities.set_leaves(state, row, env, rank.astype(jnp.float32) ** -ALPHA)

    for row in range(4):  # the oldest are overwritten
        state = enter(state, row, magnitude.max())
        magnitude[row] = magnitude.max()
    row = np.arange(8, 64)
    env = rng.integers(0, 4, 56)
    given = magnitude[row, env] * rng.uniform(0.2, 1.0, 56).astype(np.float32)
    state = replayed(state, row, env, given)
    magnitude[row, env] = given
    exact, _ = ranked(magnitude, is_open, 3)
    distance = total_variation(rows_of(state, 64), exact)
    assert 0.001 < distance < 0.27
    state = refresh(state, 3, 64)
    assert total_variation(rows_of(state, 64), exact) < 1e-6


# --- Through the replay -------------------------------------------------------------------------

NUM_ROWS = 9
NUM_ENVS = 2


@functools.cache
def compiled():
    with small_blocks():  # several blocks even here
        _, memory = ranked_replay(NUM_ROWS, NUM_ENVS)
        state = jax.jit(memory.init, compiler_options=QUICK)(jax.random.key(7))

    @jax.jit
    def replayed(state, tick, errors):
        uniform = priorities.uniforms(jax.random.key(tick), BATCH)
        batch = memory.sample(state, uniform, tick)
        return memory.update(state, batch, errors), batch.row, batch.env

    return state, jax.jit(memory.add), replayed, jax.jit(memory.refresh)


class RankTwin:
    """What may be drawn, how it ranks and what was remembered, by definition."""

    def __init__(self):
        self.last = []
        self.masks = []
        self.leaf = {}  # by time and environment, as is the next
        self.magnitude = {}
        self.sorted = []
        self.added = 0
        self.max_priority = np.float32(1)

    def add(self, last, mask):
        self.last.append(last)
        self.masks.append(mask)
        now = len(self.last) - 1
        opening = now - N_STEP
        lost = now - NUM_ROWS + NUM_STACK - 1
        for env in range(NUM_ENVS):
            if opening >= 0 and not self.last[opening][env] and np.any(self.masks[opening][env]):
                self.added += 1
                self.leaf[opening, env] = self.added**-ALPHA
                self.magnitude[opening, env] = self.max_priority
            for t in range(now - NUM_ROWS, lost + 1):
                self.leaf.pop((t, env), None)

    def update(self, drawn, errors):
        values = errors + np.float32(0.25)
        for place, value in zip(reversed(drawn), reversed(values), strict=True):
            self.leaf[place] = (1 + sum(old > value for old in self.sorted)) ** -ALPHA
            self.magnitude[place] = value
        self.max_priority = max(self.max_priority, values.max())

    def refresh(self):
        places = sorted(self.leaf, key=lambda p: (-self.magnitude[p], -p[0], p[1]))
        self.leaf = {place: (1 + i) ** -ALPHA for i, place in enumerate(places)}
        self.sorted = [self.magnitude[place] for place in places]
        self.added = 0

    def leaves(self):
        leaves = np.zeros((NUM_ROWS, NUM_ENVS))
        for (t, env), leaf in self.leaf.items():
            leaves[t % NUM_ROWS, env] = leaf
        return leaves


EVENT = st.tuples(
    st.lists(st.sampled_from([False, False, False, True]), min_size=2, max_size=2),
    st.one_of(st.none(), st.lists(st.sampled_from([0.0, 0.5, 0.5, 3.0, 250.0]), min_size=1)),
    st.sampled_from([False, False, True]),
)


@given(st.lists(EVENT, min_size=6, max_size=40), st.integers(0, 99))
@settings(max_examples=25)
def test_ranks_agree_with_a_naive_twin(events, seed):
    state, add, replayed, sort = compiled()
    assert state.priorities.leaves.shape == (3, 4, NUM_ENVS)
    state = state.replace(key=jax.random.key(seed))
    twin = RankTwin()
    for tick, (last, errors, refreshes) in enumerate(events):
        last = np.array(last)
        step = empty_steps(NUM_ENVS)._replace(last=last)
        state = add(state, step, np.zeros(NUM_ENVS, np.int32), tick)
        twin.add(last, np.asarray(state.rows.mask)[tick % NUM_ROWS])
        np.testing.assert_allclose(rows_of(state.priorities, NUM_ROWS), twin.leaves(), rtol=1e-5)
        if refreshes:
            state = sort(state, tick)
            twin.refresh()
        if errors is not None:
            errors = np.resize(np.float32(errors), BATCH)
            state, *drawn = replayed(state, tick, errors)
            if twin.leaf:
                row, env = map(np.asarray, drawn)
                drawn = list(zip((tick - (tick - row) % NUM_ROWS).tolist(), env, strict=True))
                assert {(t, int(e)) for t, e in drawn} <= set(twin.leaf)
                twin.update(drawn, errors)
        np.testing.assert_allclose(rows_of(state.priorities, NUM_ROWS), twin.leaves(), rtol=1e-5)
        sums = np.asarray(state.priorities.leaves).sum(axis=(1, 2))
        np.testing.assert_allclose(state.priorities.sums, sums, rtol=1e-5)
        assert state.priorities.ranks.added == twin.added
        assert state.priorities.max_priority == twin.max_priority


def test_draws_right_after_a_refresh_have_the_exact_frequencies(rng):
    num_rows, num_envs, ticks, size = 32, 4, 45, 250
    config, memory = ranked_replay(
        num_rows, num_envs, replay__batch_size=100, train__steps=100 * ticks
    )
    steps = empty_steps(ticks, num_envs)
    steps = steps._replace(last=rng.random((ticks, num_envs)) < 0.1)
    error = rng.exponential(size=(num_rows, num_envs)).astype(np.float32)

    def keys_of(number, seed=0):
        return jax.random.split(jax.random.key(seed), number)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(steps, error):
        def add(state, x):
            tick, step = x
            return memory.add(state, step, jnp.zeros(num_envs, jnp.int32), tick), None

        def replayed(state, key):
            batch = memory.sample(state, priorities.uniforms(key, 100), 0)
            return memory.update(state, batch, error[batch.row, batch.env]), None

        # Sorted half-way, so that rare rows are replayed too.
        def replayed_and_sorted(state, keys):
            state = jax.lax.scan(replayed, state, keys)[0]
            return memory.refresh(state, ticks - 1), None

        def count(carry, key):
            counts, _ = carry
            batch = memory.sample(state, priorities.uniforms(key, 100), ticks)
            return (counts.at[batch.row, batch.env].add(1), batch), None

        state = memory.init(jax.random.key(0))
        state = jax.lax.scan(add, state, (jnp.arange(ticks), steps))[0]
        halves = jnp.stack([keys_of(20), keys_of(20, 1)])
        state = jax.lax.scan(replayed_and_sorted, state, halves)[0]
        first = memory.sample(state, priorities.uniforms(keys_of(1)[0], 100), 0)
        start = jnp.zeros((num_rows, num_envs), jnp.int32), first
        return state, *jax.lax.scan(count, start, keys_of(size, 2))[0]

    state, counts, batch = jax.device_get(run(steps, error))
    magnitude = state.priorities.ranks.magnitude.reshape(-1, num_envs)[:num_rows]
    is_open = rows_of(state.priorities, num_rows) > 0
    known = np.isclose(magnitude, error + 0.25)
    assert is_open.sum() > 80
    assert np.mean(known[is_open]) > 0.9
    expected, _ = ranked(magnitude, is_open, (ticks - 1) % num_rows)
    expected /= expected.sum()
    assert counts.sum() == 100 * size
    assert np.all(counts[~is_open] == 0)
    assert stats.chisquare(counts[is_open], counts.sum() * expected[is_open]).pvalue > 1e-3
    # (n·P)^-β over the batch's maximum.
    beta = float(clock.importance_exponent(config, ticks))
    weight = expected[batch.row, batch.env] ** -beta
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-4)
