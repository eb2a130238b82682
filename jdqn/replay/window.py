"""What is gathered around a drawn row: its stack of frames, and the rows that follow it."""

import math

import chex
import jax.numpy as jnp


def gather_stack(
    frame: chex.Array,
    age: chex.Array,
    row: chex.Array,
    env: chex.Array,
    *,
    frame_stack: int,
    frame_shape: tuple[int, ...],
) -> chex.Array:
    """Stacks that end at `row`, the episode's first frame repeated.

    Args:
      frame: `[T, E, W]`, the ring's frames, flat; what is beyond a frame's entries is left out.
      age: `[T, E]` u8, how many earlier rows belong to a row's stack.
      row: `[B]` i32 ring rows.
      env: `[B]` i32 environments.
      frame_stack: S.
      frame_shape: of one frame.

    Returns:
      `[B, S, *frame_shape]`, oldest first.
    """
    num_rows = frame.shape[0]
    own_age = age[row, env].astype(jnp.int32)
    back = jnp.minimum(jnp.arange(frame_stack - 1, -1, -1)[None, :], own_age[:, None])
    # Indexed per dimension: a flat index into 1M frames exceeds 2^31.
    stack = frame[(row[:, None] - back) % num_rows, env[:, None]]
    return stack[..., : math.prod(frame_shape)].reshape(*stack.shape[:2], *frame_shape)


def n_step_return(
    reward: chex.Array, terminated: chex.Array, last: chex.Array, discount: float
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Folds the N rows that follow a row into one transition (Sutton 1988; Rainbow, eq. 3).

    A terminal (a lost life too) zeroes what follows it without shortening the window; the end
    of the episode shortens the window and keeps its discount.

    Args:
      reward: `[N]` f32, rewards of rows t+1 to t+N; an array, as the others.
      terminated: `[N]` bool, no bootstrap through that row.
      last: `[N]` bool, the episode ended at that row.
      discount: γ of one step.

    Returns:
      The return `[]` f32, the discount of the bootstrap value `[]` f32, and how many rows ahead
      the bootstrap observation lies `[]` i32, from 1 to N. For a batch: `jax.vmap`.
    """
    chex.assert_rank([reward, terminated, last], 1)
    chex.assert_equal_shape([reward, terminated, last])
    total = jnp.zeros((), jnp.float32)
    factor = jnp.ones((), jnp.float32)
    alive = jnp.ones((), bool)
    length = jnp.zeros((), jnp.int32)
    for i in range(reward.shape[0]):
        total += jnp.where(alive, factor * reward[i], 0.0)
        factor *= jnp.where(alive, discount * (1.0 - terminated[i]), 1.0)
        length += alive
        alive &= ~last[i]
    return total, factor, length
