"""Value heads: what a network says of an action's return, how Q is read from it, what it costs.

A new value distribution is one more record like `expectation` and `categorical`; nothing else
changes.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jdqn.config import Config, is_own, modules
from jdqn.learning import losses
from jdqn.learning.losses import Loss
from jdqn.networks import QuantileEmbedding
from jdqn.records import Batch, QOutput

# For what samples are drawn: to act (evaluation and diagnostics too, and the selector of a loss,
# which picks an action: K of Dabney et al. 2018, section 3), or for the values of a loss.
Purpose = Literal["acting", "online", "target"]


class Calls(NamedTuple):
    """What a loss may ask of `batch.obs` and `batch.next_obs`; computed when first asked.

    Each takes such observations `[B, S, *frame_shape]`. Gradients flow through `online` alone.
    """

    online: Callable[[chex.Array], QOutput]
    target: Callable[[chex.Array], QOutput]
    # Who picks the action whose target value is learned: with Double the online network, with noise
    # of its own, else the target; with samples of its own, where the head draws any.
    selector: Callable[[chex.Array], QOutput]


class ValueHead(NamedTuple):
    """A value distribution."""

    num_outputs: int  # Z numbers of the network for each head and action (and sample)
    # (raw [B, K, A, Z] or [B, K, A, n·Z], samples) -> Q [B, K, A]
    read: Callable[[chex.Array, Any], chex.Array]
    # (calls, batch) -> leaves [B, K]
    loss: Callable[[Calls, Batch], Loss]
    # Samples of a batch, leaves [B, ...]: (key, purpose, B) -> samples
    draw: Callable[[chex.PRNGKey, Purpose, int], Any] | None = None
    # A Flax module between torso and heads, shared by them:
    # (features [B, F], samples) -> [B, n, F']
    layer: Callable[..., nn.Module] | None = None
    # The returns [Z] that softmax(raw) weighs; (): raw is weighed evenly; None: `read` alone knows.
    support: chex.Array | tuple[()] | None = None
    # What else of a batch is logged, a mean: (calls, batch) -> [B, K]
    figures: Mapping[str, Callable[[Calls, Batch], chex.Array]] = MappingProxyType({})
    # Samples for who looks on, the same of every observation: B -> samples; None: they are drawn
    fixed: Callable[[int], Any] | None = None

    @property
    def is_mean(self) -> bool:
        """Whether Q is the mean of raw, all of whose Z entries weigh the same."""
        return isinstance(self.support, tuple)


def make_value_head(config: Config) -> ValueHead:
    """The value head of a configuration."""
    head = _make_greedy(config)
    fields = config.agent
    if not fields.munchausen_scale:
        return head
    settings = (fields.munchausen_scale, fields.munchausen_temperature, fields.munchausen_clip)
    return munchausen(head, *settings)


def _make_greedy(config: Config) -> ValueHead:
    """The value head whose target is that of the best action."""
    fields = config.network
    if is_own(fields.value_head):
        field = f'network.value_head = "{fields.value_head}"'
        return modules.make(fields.value_head, field, ValueHead, config)
    if fields.value_head == "auto" and fields.atoms > 1:
        return categorical(jnp.linspace(fields.v_min, fields.v_max, fields.atoms))
    penalty = losses.make_penalty(config.agent.loss)
    if fields.value_head == "quantile":
        return quantile(fields.atoms, penalty)
    if fields.value_head == "implicit_quantile":
        numbers: dict[Purpose, int] = {
            "acting": fields.quantile_samples_acting,
            "online": fields.quantile_samples,
            "target": fields.quantile_samples_target,
        }
        embedding = (fields.quantile_cosines, fields.compute_dtype)
        return implicit_quantile(numbers, functools.partial(QuantileEmbedding, *embedding), penalty)
    return expectation(penalty)


def expectation(penalty: Callable[[chex.Array], chex.Array]) -> ValueHead:
    """Q-values, one number for each action (Mnih et al. 2015).

    Args:
      penalty: what the TD error costs, `losses.huber` or `losses.squared`.
    """

    def read(raw: chex.Array, _: Any) -> chex.Array:
        return raw[..., 0]

    return ValueHead(1, read, bootstrapped(losses.q_learning(penalty)), support=())


def categorical(atoms: chex.Array) -> ValueHead:
    """Logits of a distribution over fixed returns (Bellemare et al. 2017).

    Args:
      atoms: `[Z]` f32, evenly spaced returns.
    """

    def read(raw: chex.Array, _: Any) -> chex.Array:
        return jnp.sum(jax.nn.softmax(raw, axis=-1) * atoms[None, None, None], axis=-1)

    return ValueHead(atoms.size, read, bootstrapped(losses.categorical(atoms)), support=atoms)


def quantile(num_quantiles: int, penalty: Callable[[chex.Array], chex.Array]) -> ValueHead:
    """Quantiles of the return at evenly spaced fractions (Dabney et al. 2017).

    Args:
      num_quantiles: Z.
      penalty: what each TD error costs before it is weighed by its fraction.
    """
    fractions = midpoints(num_quantiles)
    loss = bootstrapped(losses.quantile(penalty, fractions))
    return ValueHead(num_quantiles, mean, loss, support=())


def implicit_quantile(
    numbers: Mapping[Purpose, int],
    layer: Callable[..., nn.Module],
    penalty: Callable[[chex.Array], chex.Array],
) -> ValueHead:
    """Quantiles of the return at fractions that are drawn anew (Dabney et al. 2018).

    Args:
      numbers: how many are drawn: K for acting, N of the online network, N' of the target.
      layer: makes a module of features `[B, F]` and fractions `[B, n]`, to `[B, n, F']`.
      penalty: what each TD error costs before it is weighed by its fraction.
    """

    def draw(key: chex.PRNGKey, purpose: Purpose, batch_size: int) -> chex.Array:
        return jax.random.uniform(key, (batch_size, numbers[purpose]))

    def fixed(batch_size: int) -> chex.Array:
        return jnp.tile(midpoints(numbers["acting"]), (batch_size, 1))

    loss = bootstrapped(losses.quantile(penalty))
    return ValueHead(1, mean, loss, draw, layer, support=(), fixed=fixed)


def midpoints(number: int) -> chex.Array:
    """The middles `[number]` f32 of so many equal parts of 0 to 1."""
    return (jnp.arange(number) + 0.5) / number


def mean(raw: chex.Array, _: Any) -> chex.Array:
    """Q `[B, K, A]` of quantiles `[B, K, A, Z]`."""
    return jnp.mean(raw, axis=-1)


def bootstrapped(loss_fn: losses.TransitionLoss) -> Callable[[Calls, Batch], Loss]:
    """A loss of one transition and one head that bootstraps from the target at `next_obs`."""

    def loss(calls: Calls, batch: Batch) -> Loss:
        online = calls.online(batch.obs)
        target = calls.target(batch.next_obs)
        selector = calls.selector(batch.next_obs)
        return losses.for_each(loss_fn, batch, online, target, selector)

    return loss


def munchausen(head: ValueHead, scale: float, temperature: float, clip: float) -> ValueHead:
    """A head with the target of Munchausen DQN (Vieillard et al. 2020, eq. 2), of M-IQN.

    The reward gets `scale · max(τ log π(action | obs), clip)`, once, whatever n of n-step returns
    is; the bootstrap is the soft value of `next_obs`, the mean over π of `output - τ log π`. π is
    the target network's softmax policy.

    Args:
      head: bootstraps, from outputs whose mean is Q. The loss sees a target of ONE action.
      scale: α.
      temperature: τ.
      clip: at most 0.
    """

    def scaled_log_policy(calls: Calls, obs: chex.Array) -> chex.Array:  # [B, K, A]
        return losses.scaled_log_softmax(calls.selector(obs).q, temperature)

    def of_action(calls: Calls, batch: Batch) -> chex.Array:  # [B, K]
        action = batch.action[:, None, None]
        log_policy = scaled_log_policy(calls, batch.obs)
        return jnp.take_along_axis(log_policy, action, axis=2)[:, :, 0]

    def bonus(calls: Calls, batch: Batch) -> chex.Array:
        return scale * jnp.maximum(of_action(calls, batch), clip)

    def clipped(calls: Calls, batch: Batch) -> chex.Array:
        return of_action(calls, batch) < clip

    def loss(calls: Calls, batch: Batch) -> Loss:
        def soft(obs: chex.Array) -> QOutput:
            log_policy = scaled_log_policy(calls, obs)[..., None]
            raw = calls.target(obs).raw - log_policy
            raw = jnp.sum(jnp.exp(log_policy / temperature) * raw, axis=2, keepdims=True)
            return QOutput(jnp.mean(raw, axis=-1), raw)

        reward = batch.reward[:, None] + bonus(calls, batch)
        soft_calls = calls._replace(target=soft, selector=soft)
        return head.loss(soft_calls, batch._replace(reward=reward))

    figures = {"munchausen_bonus": bonus, "munchausen_clipped": clipped}
    return head._replace(loss=loss, figures=figures)
