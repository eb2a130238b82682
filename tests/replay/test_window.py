"""The window of rows that follow a row: by a Python loop, by hand, RLax as oracle."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import needs_rlax, rlax

from jdqn import replay

FOLD = jax.jit(lambda r, t, s: replay.n_step_return(r, t, s, 0.9))


def naive_n_step(reward, terminated, last, discount):
    """The window by its definition, one row after another."""
    total = 0.0
    factor = 1.0
    length = 0
    for r, end, stop in zip(reward, terminated, last, strict=True):
        total += factor * r
        factor *= 0.0 if end else discount
        length += 1
        if stop:
            break
    return total, factor, length


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.tuples(st.floats(-5, 5, width=32), st.booleans(), st.booleans()),
            min_size=n,
            max_size=n,
        )
    )
)
def test_n_step_return_is_a_python_loop(rows):
    reward, terminated, last = (np.array(column) for column in zip(*rows, strict=True))
    got = FOLD(reward.astype(np.float32), terminated, last)
    want = naive_n_step(reward, terminated, last, 0.9)
    np.testing.assert_allclose(np.array([float(x) for x in got]), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("terminated", "last", "want"),
    [
        ([0, 0, 0], [0, 0, 0], (1 + 0.9 * 2 + 0.81 * 4, 0.729, 3)),
        ([0, 1, 0], [0, 1, 0], (1 + 0.9 * 2, 0.0, 2)),  # game over: shorter, no bootstrap
        ([0, 0, 0], [0, 1, 0], (1 + 0.9 * 2, 0.81, 2)),  # truncated: shorter, γ² kept
        ([1, 0, 0], [0, 0, 0], (1.0, 0.0, 3)),  # a lost life: what follows counts for nothing
    ],
)
def test_n_step_return_by_hand(terminated, last, want):
    got = FOLD(np.float32([1, 2, 4]), np.array(terminated, bool), np.array(last, bool))
    np.testing.assert_allclose([float(x) for x in got], want, rtol=1e-6)


@needs_rlax
def test_n_step_return_is_rlax(rng):
    reward = rng.normal(size=3).astype(np.float32)
    none = np.zeros(3, bool)
    total, factor, _ = FOLD(reward, none, none)
    value = 2.5
    want = rlax.n_step_bootstrapped_returns(
        jnp.asarray(reward), jnp.full(3, 0.9), jnp.array([0.0, 0.0, value]), n=3
    )
    chex.assert_trees_all_close(total + factor * value, want[0], rtol=1e-5)
