"""Temporal-difference losses of ONE transition and ONE head: for a batch use `jax.vmap`.

`for_each` does so over batch and heads. Inside a loss `_tm1` is the time of the action and `_t` the
time of the bootstrap, as in RLax. Which networks are asked, and about what, is a value head's
business (`values`).
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jdqn import kernels
from jdqn.config import modules
from jdqn.records import Batch, QOutput


class Loss(NamedTuple):
    """Loss of one transition and one head, or `[B, K]` of them."""

    loss: chex.Array  # [] f32
    priority: chex.Array  # [] f32: what prioritised replay ranks by: |TD error|, cross-entropy


TransitionLoss = Callable[[QOutput, chex.Array, chex.Array, chex.Array, QOutput, QOutput], Loss]


def huber(td_error: chex.Array) -> chex.Array:
    """Huber loss with δ = 1: Nature DQN's clipped error, any shape."""
    absolute = jnp.abs(td_error)
    return jnp.where(absolute <= 1.0, 0.5 * td_error**2, absolute - 0.5)


def squared(td_error: chex.Array) -> chex.Array:
    """Half the squared error, any shape."""
    return 0.5 * td_error**2


PENALTIES = {"huber": huber, "squared": squared}


def make_penalty(name: str) -> Callable[[chex.Array], chex.Array]:
    """What `agent.loss` names, of a module of the user's too."""
    return PENALTIES.get(name) or modules.load_object(name, f'agent.loss = "{name}"')


def q_learning(penalty: Callable[[chex.Array], chex.Array]) -> TransitionLoss:
    """Q-learning (Mnih et al. 2015) and, by the selector, Double Q-learning.

    Args:
      penalty: what the TD error costs, `huber` or `squared`.

    Returns:
      A loss of `(online_tm1, action_tm1, reward_t, discount_t, target_t, selector_t)`, with
      `online_tm1.q`, `target_t.q`, `selector_t.q` of shape `[A]` and scalars else. The selector
      picks the action that the target evaluates: pass the target itself for Q-learning, the
      online network at time t for Double Q-learning (van Hasselt et al. 2015, eq. 4).
      The loss is of one transition; for a batch: `jax.vmap(loss)`.
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


def categorical(atoms: chex.Array) -> TransitionLoss:
    """C51 (Bellemare et al. 2017) and, by the selector, Double C51.

    Args:
      atoms: `[Z]` f32, evenly spaced values of the distribution.

    Returns:
      A loss with the arguments of `q_learning`; `raw` are logits `[A, Z]`. The selector's mean
      picks the action whose target distribution is projected; loss and priority are the
      cross-entropy.
    """

    def loss(
        online_tm1: QOutput,
        action_tm1: chex.Array,
        reward_t: chex.Array,
        discount_t: chex.Array,
        target_t: QOutput,
        selector_t: QOutput,
    ) -> Loss:
        assert online_tm1.raw is not None
        assert target_t.raw is not None
        chex.assert_rank([online_tm1.raw, target_t.raw, selector_t.q], [2, 2, 1])
        chex.assert_rank([action_tm1, reward_t, discount_t], 0)
        probabilities = jax.nn.softmax(target_t.raw[jnp.argmax(selector_t.q)])
        target = project(reward_t + discount_t * atoms, probabilities, atoms)
        log_probabilities = jax.nn.log_softmax(online_tm1.raw[action_tm1])
        cross_entropy = -jnp.sum(jax.lax.stop_gradient(target) * log_probabilities)
        return Loss(cross_entropy, cross_entropy)

    return loss


def quantile(
    penalty: Callable[[chex.Array], chex.Array], fractions: chex.Array | None = None
) -> TransitionLoss:
    """QR-DQN (Dabney et al. 2017), IQN (2018) and, by the selector, Double of both.

    Args:
      penalty: of each TD error: with `huber` these are the papers', with κ = 1.
      fractions: `[Z]` f32, of which returns the outputs are quantiles; None: those that the online
        network was asked with, its `samples` `[Z]`.

    Returns:
      A loss with the arguments of `q_learning`; `raw` are quantiles `[A, Z]`, of the target as many
      as there are. The selector's mean picks the action. The loss is a sum over the online
      network's quantiles and a mean over the target's; the priority is the mean |TD error|.
    """

    def loss(
        online_tm1: QOutput,
        action_tm1: chex.Array,
        reward_t: chex.Array,
        discount_t: chex.Array,
        target_t: QOutput,
        selector_t: QOutput,
    ) -> Loss:
        assert online_tm1.raw is not None
        assert target_t.raw is not None
        chex.assert_rank([online_tm1.raw, target_t.raw, selector_t.q], [2, 2, 1])
        chex.assert_rank([action_tm1, reward_t, discount_t], 0)
        bootstrap = target_t.raw[jnp.argmax(selector_t.q)]
        target = jax.lax.stop_gradient(reward_t + discount_t * bootstrap)
        fraction = online_tm1.samples if fractions is None else fractions
        return quantile_regression(penalty, online_tm1.raw[action_tm1], fraction, target)

    return loss


def quantile_regression(
    penalty: Callable[[chex.Array], chex.Array],
    quantiles: chex.Array,
    fractions: chex.Array,
    target: chex.Array,
) -> Loss:
    """The loss of quantiles `[Z]` at fractions `[Z]` for each of the targets `[Z']`.

    Value and gradient come from one pass over the pairs: XLA's own way back makes them again.
    """
    fixed = jax.lax.stop_gradient(quantiles)
    td_error = target[None, :] - fixed[:, None]
    slope = jnp.abs(fractions[:, None] - (td_error < 0.0))
    cost, derivative = jax.vmap(jax.vmap(jax.value_and_grad(penalty)))(td_error)
    value = kernels.mean(slope * cost)
    gradient = -kernels.mean(slope * derivative)
    # What is added is 0; its gradient is that of the loss.
    loss = jnp.sum(value + gradient * (quantiles - fixed))
    return Loss(loss, jnp.mean(kernels.mean(jnp.abs(td_error))))


def project(values: chex.Array, probabilities: chex.Array, atoms: chex.Array) -> chex.Array:
    """Moves mass at any values onto evenly spaced atoms (Bellemare et al. 2017, eq. 7).

    Args:
      values: `[Z']` f32, clipped to the atoms' range first.
      probabilities: `[Z']` f32, mass at each value.
      atoms: `[Z]` f32.

    Returns:
      `[Z]` f32 of the same total mass: each value shares its mass between its two neighbours, and
      gives all of it to an atom that it hits. For a batch: `jax.vmap`.
    """
    chex.assert_rank([values, probabilities, atoms], 1)
    step = (atoms[-1] - atoms[0]) / (atoms.size - 1)
    position = (jnp.clip(values, atoms[0], atoms[-1]) - atoms[0]) / step
    distance = jnp.abs(position[:, None] - jnp.arange(atoms.size)[None, :])
    return jnp.sum(jnp.clip(1.0 - distance, 0.0, 1.0) * probabilities[:, None], axis=0)


def for_each(
    loss_fn: TransitionLoss, batch: Batch, online: QOutput, target: QOutput, selector: QOutput
) -> Loss:
    """A loss of one transition and one head, for all of them.

    Args:
      loss_fn: the loss.
      batch: the transitions; `reward` is `[B]`, or `[B, K]` of each head.
      online: of `batch.obs`, leaves `[B, K, ...]`.
      target: of `batch.next_obs`, leaves `[B, K, ...]`: each head bootstraps from its own target.
      selector: of `batch.next_obs`, leaves `[B, K, ...]`.

    Returns:
      Leaves `[B, K]`.
    """
    chex.assert_rank(online.q, 3)
    chex.assert_equal_shape([target.q, selector.q])
    of_head = QOutput(q=0, raw=0, samples=None)  # heads share what was drawn
    reward = 0 if batch.reward.ndim == 2 else None
    over_heads = jax.vmap(loss_fn, in_axes=(of_head, None, reward, None, of_head, of_head))
    over_batch = jax.vmap(over_heads)
    return over_batch(online, batch.action, batch.reward, batch.discount, target, selector)


def scaled_log_softmax(q: chex.Array, temperature: float) -> chex.Array:
    """τ log π, `[..., A]`, of the softmax policy π of `q` `[..., A]` at a temperature τ.

    From differences to the largest: `q / τ` would lose digits, and be infinite sooner.
    """
    below = q - jnp.max(q, axis=-1, keepdims=True)
    return below - temperature * jax.nn.logsumexp(below / temperature, axis=-1, keepdims=True)


def over_batch(each: Loss, batch: Batch) -> tuple[chex.Array, chex.Array]:
    """Masked, importance-weighted loss: summed over heads, averaged over the batch.

    Args:
      each: of each transition and head, leaves `[B, K]`.
      batch: `mask` is `[B, K]`, `weight` is `[B]`.

    Returns:
      The loss `[]` and the priority of each transition `[B]`: the unweighted |TD error|
      (cross-entropy for C51), a mask-weighted mean over heads.
    """
    chex.assert_rank([batch.mask, batch.weight, each.loss], [2, 1, 2])
    mask = batch.mask.astype(jnp.float32)
    loss = jnp.mean(batch.weight * jnp.sum(mask * each.loss, axis=1))
    priority = jnp.sum(mask * each.priority, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)
    return loss, jax.lax.stop_gradient(priority)
