"""Exploration: epsilon-greedy actions, one head per episode, the vote of all heads."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jdqn.config import modules


class Behaviour(NamedTuple):
    """Who acts in training."""

    redraws_every_step: bool  # the head that acts; else at the start of each episode
    # (key, Q [E, K, A], heads [E] i32) -> score [E, A], whose largest is the greedy action
    score: Callable[[chex.PRNGKey, chex.Array, chex.Array], chex.Array]


def by_head(_: chex.PRNGKey, q: chex.Array, head: chex.Array) -> chex.Array:
    """Q `[E, A]` of each environment's own head (Osband et al. 2016)."""
    return jnp.take_along_axis(q, head[:, None, None], axis=1)[:, 0]


def by_vote(key: chex.PRNGKey, q: chex.Array, _: chex.Array) -> chex.Array:
    """The votes `[E, A]` of all heads."""
    return vote(key, q)


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


# By the name in `agent.behaviour`.
BEHAVIOURS = {
    "head": Behaviour(False, by_head),
    "head_per_step": Behaviour(True, by_head),
    "vote": Behaviour(False, by_vote),
}


def make_behaviour(name: str) -> Behaviour:
    """What `agent.behaviour` names; a function of the user's is the score of an episode's head."""
    found = BEHAVIOURS.get(name) or modules.load_object(name, f'agent.behaviour = "{name}"')
    return found if isinstance(found, Behaviour) else Behaviour(False, found)
