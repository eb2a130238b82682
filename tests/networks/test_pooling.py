"""Maximum pools: those of Flax and of Torch, and which of equals has the gradient."""

import functools

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import QUICK

from jdqn.networks import pooling

FLAX = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME")


@pytest.mark.parametrize(("height", "width"), [(1, 2), (5, 8)])
def test_value_and_gradient_are_those_of_flax_where_many_are_equal(rng, height, width):
    x = rng.integers(0, 3, (2, height, width, 3)).astype(np.float32)
    pull = rng.normal(size=FLAX(x).shape).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(x, pull):
        return [(y, back(pull)) for y, back in (jax.vjp(f, x) for f in (pooling.max_pool, FLAX))]

    ours, theirs = both(x, pull)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_windows_overlap_where_the_side_does_not_divide_the_length():
    """As in Torch: from ⌊i·n / side⌋ to ⌈(i + 1)·n / side⌉."""
    assert pooling.windows(11, 6) == [(0, 2), (1, 4), (3, 6), (5, 8), (7, 10), (9, 11)]
    assert pooling.windows(12, 6) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 12)]
    assert pooling.windows(4, 6) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_the_adaptive_pool_takes_the_maximum_of_each_window(rng):
    x = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    rows = [(0, 3), (2, 5)]
    columns = [(0, 4), (3, 7)]
    want = [[x[:, a:b, c:d].max(axis=(1, 2)) for c, d in columns] for a, b in rows]
    found = pooling.adaptive_max_pool(x, 2)
    np.testing.assert_array_equal(np.moveaxis(found, (1, 2), (0, 1)), want)


def test_each_maximum_of_the_adaptive_pool_gives_its_gradient_to_where_it_lies(rng):
    """Where windows overlap, one place may be the maximum of several."""
    x = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    pull = rng.normal(size=(2, 2, 2, 3)).astype(np.float32)
    found = jax.vjp(lambda x: pooling.adaptive_max_pool(x, 2), x)[1](pull)[0]
    want = np.zeros_like(x)
    for b, i, j, c in np.ndindex(pull.shape):
        top, left = [0, 2][i], [0, 3][j]
        window = x[b, top : top + 3, left : left + 4, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        want[b, top + row, left + column, c] += pull[b, i, j, c]
    np.testing.assert_allclose(found, want, rtol=1e-6)
