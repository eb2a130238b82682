"""Temporal-difference losses of ONE transition and ONE head; `batch_loss` adds the axes.

Inside a loss `_tm1` is the time of the action and `_t` the time of the bootstrap, as in RLax.
A new algorithm is one more function with the signature of `q_learning`.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jdqn.records import Batch, QOutput


class Loss(NamedTuple):
    """Loss of one transition and one head."""

    loss: chex.Array  # [] f32
    priority: chex.Array  # [] f32: what prioritised replay ranks by, here |TD error|


LossFn = Callable[[QOutput, chex.Array, chex.Array, chex.Array, QOutput, QOutput], Loss]


def huber(td_error: chex.Array) -> chex.Array:
    """Huber loss with δ = 1: Nature DQN's clipped error, any shape."""
    absolute = jnp.abs(td_error)
    return jnp.where(absolute <= 1.0, 0.5 * td_error**2, absolute - 0.5)


def squared(td_error: chex.Array) -> chex.Array:
    """Half the squared error, any shape."""
    return 0.5 * td_error**2


PENALTIES = {"huber": huber, "squared": squared}


def q_learning(penalty: Callable[[chex.Array], chex.Array]) -> LossFn:
    """Q-learning (Mnih et al. 2015) and, by the selector, Double Q-learning.

    Args:
      penalty: what the TD error costs, `huber` or `squared`.

    Returns:
      A loss of `(online_tm1, action_tm1, reward_t, discount_t, target_t, selector_t)`, with
      `online_tm1.q`, `target_t.q`, `selector_t.q` of shape `[A]` and scalars else. The selector
      picks the action that the target evaluates: pass the target itself for Q-learning, the
      online network at time t for Double Q-learning (van Hasselt et al. 2015, eq. 4).
    """

    def loss(
        online_tm1: QOutput,
        action_tm1: chex.Array,
        reward_t: chex.Array,
        discount_t: chex.Array,
        target_t: QOutput,
        selector_t: QOutput,
    ) -> Loss:
        chex.assert_rank([online_tm1.q, target_t.q, selector_t.q], 1)
        chex.assert_rank([action_tm1, reward_t, discount_t], 0)
        bootstrap = target_t.q[jnp.argmax(selector_t.q)]
        target = jax.lax.stop_gradient(reward_t + discount_t * bootstrap)
        td_error = target - online_tm1.q[action_tm1]
        return Loss(penalty(td_error), jnp.abs(td_error))

    return loss


def n_step_return(
    reward: chex.Array, terminated: chex.Array, last: chex.Array, discount: float
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Folds the N rows that follow a row into one transition (Sutton 1988; Rainbow, eq. 3).

    A terminal (a lost life too) zeroes what follows it without shortening the window; the end
    of the episode shortens the window and keeps its discount.

    Args:
      reward: `[N]` f32, rewards of rows t+1 to t+N.
      terminated: `[N]` bool, no bootstrap through that row.
      last: `[N]` bool, the episode ended at that row.
      discount: γ of one step.

    Returns:
      The return `[]` f32, the discount of the bootstrap value `[]` f32, and how many rows ahead
      the bootstrap observation lies `[]` i32, from 1 to N.
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


def batch_loss(
    loss_fn: LossFn, online: QOutput, batch: Batch, target: QOutput, selector: QOutput
) -> tuple[chex.Array, chex.Array]:
    """Masked, importance-weighted loss: summed over heads, averaged over the batch.

    Args:
      loss_fn: loss of one transition and one head.
      online: of `batch.obs`, leaves `[B, K, ...]`.
      batch: the transitions; `mask` is `[B, K]`, `weight` is `[B]`.
      target: of `batch.next_obs`, leaves `[B, K, ...]`: each head bootstraps from its own target.
      selector: of `batch.next_obs`, leaves `[B, K, ...]`.

    Returns:
      The loss `[]` and the priority of each transition `[B]`: the unweighted |TD error|, a
      mask-weighted mean over heads.
    """
    chex.assert_rank([batch.mask, batch.weight, online.q], [2, 1, 3])
    chex.assert_equal_shape([online.q, target.q, selector.q])
    over_heads = jax.vmap(loss_fn, in_axes=(0, None, None, None, 0, 0))
    over_batch = jax.vmap(over_heads)
    each = over_batch(online, batch.action, batch.reward, batch.discount, target, selector)
    mask = batch.mask.astype(jnp.float32)
    loss = jnp.mean(batch.weight * jnp.sum(mask * each.loss, axis=1))
    priority = jnp.sum(mask * each.priority, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)
    return loss, jax.lax.stop_gradient(priority)
