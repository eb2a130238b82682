"""Epsilon schedule, epsilon-greedy actions, one head per episode, the vote of all heads."""

import chex
import jax
import jax.numpy as jnp


def epsilon(
    steps: chex.Numeric, *, start: float, end: float, decay_steps: int, delay_steps: int
) -> chex.Array:
    """Linear schedule: `start` until `delay_steps`, `end` from `delay_steps + decay_steps` on.

    Args:
      steps: agent steps taken so far, any shape.
      start: first value.
      end: last value.
      decay_steps: agent steps from `start` to `end`; 0 jumps.
      delay_steps: agent steps before the decay begins (when learning starts, as in Nature DQN).

    Returns:
      f32 of the shape of `steps`.
    """
    # Divided in float32: int32 steps stay exact there up to 2^24, the schedule is long over then.
    fraction = (jnp.asarray(steps) - delay_steps).astype(jnp.float32) / max(decay_steps, 1)
    return start + jnp.clip(fraction, 0.0, 1.0) * (end - start)


def vote(key: chex.PRNGKey, q: chex.Array) -> chex.Array:
    """How many heads find each action best, ties broken at random (Osband et al. 2016, 6.1).

    Args:
      key: typed PRNG key, consumed.
      q: `[E, K, A]` f32.

    Returns:
      `[E, A]` f32: votes plus a random fraction below one half.
    """
    chex.assert_rank(q, 3)
    votes = jax.nn.one_hot(jnp.argmax(q, axis=-1), q.shape[-1]).sum(axis=1)
    return votes + jax.random.uniform(key, votes.shape, maxval=0.5)


def epsilon_greedy(key: chex.PRNGKey, q: chex.Array, epsilon: chex.Numeric) -> chex.Array:
    """Epsilon-greedy actions.

    Args:
      key: typed PRNG key, consumed.
      q: `[E, A]` f32, or any other score.
      epsilon: probability of a uniformly random action, scalar.

    Returns:
      `[E]` i32.
    """
    chex.assert_rank(q, 2)
    explore_key, action_key = jax.random.split(key)
    num_envs, num_actions = q.shape
    random = jax.random.randint(action_key, (num_envs,), 0, num_actions)
    explore = jax.random.uniform(explore_key, (num_envs,)) < epsilon
    return jnp.where(explore, random, jnp.argmax(q, axis=1).astype(jnp.int32))


def redraw_heads(
    key: chex.PRNGKey, head: chex.Array, first: chex.Array, num_heads: int
) -> chex.Array:
    """One head per environment, drawn anew where a true episode starts (Osband et al. 2016).

    Args:
      key: typed PRNG key, consumed.
      head: `[E]` i32, the heads so far.
      first: `[E]` bool, an episode starts here.
      num_heads: K.

    Returns:
      `[E]` i32.
    """
    chex.assert_equal_shape([head, first])
    return jnp.where(first, jax.random.randint(key, head.shape, 0, num_heads), head)
