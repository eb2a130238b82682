"""Maximum pools, by comparisons: XLA's own gradient of a pool takes twice as long on a CPU."""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp


def max_pool(x: chex.Array) -> chex.Array:
    """The maxima of 3 × 3 windows of stride 2, padded as `"SAME"`, `[B, H, W, C]`."""
    for axis in (2, 1):
        length = -(-x.shape[axis] // 2)
        missing = 2 * length + 1 - x.shape[axis]
        around = [(0, 0)] * x.ndim
        around[axis] = (missing // 2, missing - missing // 2)
        padded = jnp.pad(x, around, constant_values=-jnp.inf)
        reach = 2 * length - 1
        x = _largest([jax.lax.slice_in_dim(padded, i, i + reach, 2, axis) for i in range(3)])
    return x


def adaptive_max_pool(x: chex.Array, side: int) -> chex.Array:
    """The maxima of `side` × `side` windows that cover the image, as Torch's `AdaptiveMaxPool2d`.

    As many as there are rows, or columns, where those are fewer.
    """
    for axis in (2, 1):
        lines = jnp.split(x, x.shape[axis], axis)
        maxima = [_largest(lines[start:end]) for start, end in windows(x.shape[axis], side)]
        x = jnp.concatenate(maxima, axis)
    return x


def windows(length: int, side: int) -> list[tuple[int, int]]:
    """Start and end of each window of `adaptive_max_pool` along an axis of that length."""
    number = min(length, side)
    return [(i * length // number, -(-(i + 1) * length // number)) for i in range(number)]


def _largest(arrays: Sequence[chex.Array]) -> chex.Array:
    """The largest of several; of equals the first alone has a gradient, as in XLA's own pools."""
    return functools.reduce(lambda x, y: jnp.where(y > x, y, x), arrays)
