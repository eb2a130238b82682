"""Value heads: what a network says of an action's return, how Q is read from it, what it costs.

A new value distribution is one more record like `expectation` and `categorical`; nothing else
changes.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jdqn.config import Config, is_own, modules
from jdqn.learning import losses
from jdqn.learning.losses import Loss
from jdqn.records import Batch, QOutput

# For what samples are drawn: to act (evaluation and diagnostics too, and the selector of a loss,
# which picks an action: Dabney et al. 2018, algorithm 1), or for the values of a loss.
Purpose = Literal["acting", "online", "target"]


class Calls(NamedTuple):
    """What a loss may ask of `batch.obs` and `batch.next_obs`; computed when first asked.

    Gradients flow through `online` alone.
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
    # How Q is read, for who writes it down elsewhere: the returns [Z] that softmax(raw) weighs, or
    # (): raw is Q; None: `read` alone knows.
    support: chex.Array | tuple[()] | None = None


def make_value_head(config: Config) -> ValueHead:
    """The value head of a configuration."""
    fields = config.network
    if is_own(fields.value_head):
        field = f'network.value_head = "{fields.value_head}"'
        return modules.make(fields.value_head, field, ValueHead, config)
    if fields.atoms == 1:
        return expectation(losses.make_penalty(config.agent.loss))
    return categorical(jnp.linspace(fields.v_min, fields.v_max, fields.atoms))


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


def bootstrapped(loss_fn: losses.TransitionLoss) -> Callable[[Calls, Batch], Loss]:
    """A loss of one transition and one head that bootstraps from the target at `next_obs`."""

    def loss(calls: Calls, batch: Batch) -> Loss:
        online = calls.online(batch.obs)
        target = calls.target(batch.next_obs)
        selector = calls.selector(batch.next_obs)
        return losses.for_each(loss_fn, batch, online, target, selector)

    return loss
