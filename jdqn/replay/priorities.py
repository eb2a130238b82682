"""The priority structure behind replay: leaves and their block sums, nothing else.

A leaf above 0 means "this row may be drawn", so validity and priority are one number. Whole ring
rows are grouped into blocks of about 1,024 leaves, whose sums are kept; a draw picks a block and
then a leaf in it, each in two levels of about 32. Sums are recomputed from leaves, never updated
by differences: differences drift, and a drifting sum draws rows of priority 0.
"""

from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

BLOCK_LEAVES = 1024
GROUP = 32
LEVELS = 4  # of a draw: a block and a leaf in it, each in two


class Ranks(flax.struct.PyTreeNode):
    """What rank-based priorities remember beside their leaves."""

    magnitude: chex.Array  # [blocks, R, E] f32: |TD error|
    sorted: chex.Array  # [blocks·R·E] f32, rising: -magnitude at the last refresh, then +inf
    added: chex.Array  # [] i32: rows opened since; of several devices [D]


class Priorities(flax.struct.PyTreeNode):
    """Leaves by block, `R` ring rows of `E` environments in each."""

    leaves: chex.Array  # [blocks, R, E] f32; padding beyond the last ring row stays 0
    sums: chex.Array  # [blocks] f32; of several devices [D·blocks]: see `block_sums`
    max_priority: chex.Array  # [] f32: |TD error| + ε with which a new row enters
    ranks: Ranks | None = None  # rank-based only


class Drawn(NamedTuple):
    """What a draw finds, `[B]` each."""

    row: chex.Array  # i32 ring rows
    env: chex.Array  # i32 environments
    leaf: chex.Array  # f32; 0 only when every leaf is 0


def init(num_rows: int, num_envs: int) -> Priorities:
    """All leaves 0 for a ring of `num_rows` rows × `num_envs` environments."""
    rows_per_block = max(1, BLOCK_LEAVES // num_envs)
    num_blocks = -(-num_rows // rows_per_block)
    return Priorities(
        leaves=jnp.zeros((num_blocks, rows_per_block, num_envs), jnp.float32),
        sums=jnp.zeros((num_blocks,), jnp.float32),
        max_priority=jnp.ones((), jnp.float32),
    )


def block_sums(leaves: chex.Array, num_devices: int) -> chex.Array:
    """Sums `[D·blocks]` of leaves `[blocks, R, E]`: each device's of its part of `E`."""
    parts = leaves.reshape(*leaves.shape[:2], num_devices, -1)
    return parts.sum(axis=(1, 3)).T.reshape(-1)


def num_devices_of(state: Priorities) -> int:
    """Devices that have a part of them."""
    return state.sums.size // len(state.leaves)


def set_rows(state: Priorities, row: chex.Array, value: chex.Array) -> Priorities:
    """Sets the leaves of whole ring rows; `row` is `[n]`, `value` `[n, E]` f32.

    A row may be named twice with the same value only.
    """
    rows_per_block = state.leaves.shape[1]
    block = row // rows_per_block
    leaves = state.leaves.at[block, row % rows_per_block].set(value)
    # Without the barrier XLA would sum blocks of its own making, from the old leaves, and copy all
    # of them to have both.
    leaves = jax.lax.optimization_barrier(leaves)
    sums = state.sums.at[block].set(jnp.sum(leaves[block], axis=(1, 2)))
    return state.replace(leaves=leaves, sums=sums)


def set_leaves(
    state: Priorities, row: chex.Array, env: chex.Array, value: chex.Array
) -> Priorities:
    """Sets single leaves; of a leaf named twice the first value is written.

    Args:
      state: the priorities.
      row: `[B]` i32 ring rows.
      env: `[B]` i32 environments.
      value: `[B]` f32, above 0.
    """
    chex.assert_rank([row, env, value], 1)
    leaves = state.leaves.at[places(state, row, env)].set(value, mode="drop")
    block = row // state.leaves.shape[1]
    sums = state.sums.at[block].set(jnp.sum(leaves[block], axis=(1, 2)))
    return state.replace(leaves=leaves, sums=sums)


def places(
    state: Priorities, row: chex.Array, env: chex.Array
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Indices `[B]` into leaves; all but the first of a repeated row lie out of range."""
    num_blocks, rows_per_block, _ = state.leaves.shape
    same = (row[:, None] == row[None, :]) & (env[:, None] == env[None, :])
    is_repeat = jnp.any(jnp.tril(same, k=-1), axis=1)
    return jnp.where(is_repeat, num_blocks, row // rows_per_block), row % rows_per_block, env


def uniforms(key: chex.PRNGKey, batch_size: int) -> chex.Array:
    """The random numbers of one draw, `[B, LEVELS]` f32 in [0, 1)."""
    return jax.random.uniform(key, (batch_size, LEVELS))


def draw(state: Priorities, uniform: chex.Array) -> Drawn:
    """Draws leaves independently, each with probability leaf / total (Schaul et al. 2015).

    Args:
      state: the priorities.
      uniform: `uniforms`, a column a level: the remainder of one number has lost its low bits.
    """
    chex.assert_shape(uniform, (None, LEVELS))
    num_blocks, rows_per_block, num_envs = state.leaves.shape
    block = jax.vmap(_descend, in_axes=(None, 0))(state.sums, uniform[:, :2])
    inside = state.leaves.reshape(num_blocks, rows_per_block * num_envs)[block]
    offset = jax.vmap(_descend)(inside, uniform[:, 2:])
    leaf = jnp.take_along_axis(inside, offset[:, None], axis=1)[:, 0]
    return Drawn(block * rows_per_block + offset // num_envs, offset % num_envs, leaf)


def _descend(values: chex.Array, uniform: chex.Array) -> chex.Array:
    """Picks one of `values` `[n]` in two levels, groups of `GROUP` and one group; `uniform` [2]."""
    grouped = jnp.pad(values, (0, -values.size % GROUP)).reshape(-1, GROUP)
    group = _pick(jnp.sum(grouped, axis=1), uniform[0])
    return jnp.minimum(group * GROUP + _pick(grouped[group], uniform[1]), values.size - 1)


def _pick(values: chex.Array, uniform: chex.Array) -> chex.Array:
    """First index of `values` `[n]` whose running sum exceeds `uniform` × total, never a 0.

    Rounding may put the wanted sum at or beyond the total, or (running sums are not exactly
    monotone) on a 0: hence the test for a positive value and the clamp to the last positive one.
    """
    cumulative = jnp.cumsum(values)
    positive = values > 0
    hit = (cumulative > uniform * cumulative[-1]) & positive
    last_positive = values.size - 1 - jnp.argmax(positive[::-1])
    return jnp.where(jnp.any(hit), jnp.argmax(hit), last_positive).astype(jnp.int32)
