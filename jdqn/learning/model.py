"""The networks of an agent with its value head and its priors: from observations to Q."""

from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdqn import networks
from jdqn.config import Config
from jdqn.learning.values import Purpose, ValueHead
from jdqn.records import EnvSpec, QOutput

# Flax variables of the collections that no gradient trains, by collection; {}: none.
NetworkState = dict[str, Any]
# Beyond every number of an update.
NEVER = 2**31 - 1


class AgentState(flax.struct.PyTreeNode):
    """What learning changes, and the networks of the prior, which it does not.

    `network_state` is for statistics, power iterations and the like. It changes in learning, by the
    online network's pass over `obs` (its collections are mutable there and nowhere else); acting
    and evaluation read it; the target gets it whenever it gets the parameters; a checkpoint holds
    both, like parameters.
    """

    params: chex.ArrayTree
    target_params: chex.ArrayTree
    prior_params: chex.ArrayTree  # never trained, shared by online and target; None: no priors
    opt_state: optax.OptState
    key: chex.PRNGKey  # constant; every use folds in the tick
    network_state: NetworkState
    target_network_state: NetworkState
    non_finite: chex.Array  # [2] i32: first update of a loss, a gradient norm not finite


class Model(NamedTuple):
    """All static."""

    network: networks.QNetwork  # acts with noise where the configuration has any
    mean_network: networks.QNetwork  # the same with its mean weights
    prior_network: networks.QNetwork
    prior_scale: float  # 0: no priors
    value_head: ValueHead


def make_model(config: Config, spec: EnvSpec, value_head: ValueHead) -> Model:
    """The networks of a configuration."""
    network = networks.make_network(
        config, spec, num_outputs=value_head.num_outputs, layer=value_head.layer
    )
    mean_network = network.clone(noisy="none")
    # Outputs of an action whose mean is Q move together: in a mean of 200 functions that know
    # nothing of each other a fourteenth of each is left.
    outputs = 1 if value_head.is_mean else value_head.num_outputs
    return Model(
        network=network,
        mean_network=mean_network,
        prior_network=mean_network.clone(dueling="none", num_outputs=outputs),
        prior_scale=config.network.prior_scale,
        value_head=value_head,
    )


def init_variables(
    model: Model, key: chex.PRNGKey, obs: chex.Array
) -> tuple[chex.ArrayTree, NetworkState]:
    """Parameters and network state for observations like `obs`."""
    variables = model.network.init(key, obs, draw_samples(model, key, "online", len(obs)))
    state = {name: values for name, values in variables.items() if name != "params"}
    return {"params": variables["params"]}, state


def init_prior(model: Model, key: chex.PRNGKey, obs: chex.Array) -> chex.ArrayTree:
    """Variables of the prior networks (Osband et al. 2018), or None."""
    if not model.prior_scale:
        return None
    prior = model.prior_network.init(key, obs, draw_samples(model, key, "online", len(obs)))
    # Biases at 0: they add a constant that drowns what tells one-hot states apart.
    params = jax.tree.map_with_path(lambda path, x: x * (path[-1].key != "bias"), prior["params"])
    return {**prior, "params": params}


def ask(
    model: Model,
    variables: chex.ArrayTree,
    prior: chex.ArrayTree,
    obs: chex.Array,
    *,
    key: chex.PRNGKey | None,
    purpose: Purpose = "acting",
    noise_key: chex.PRNGKey | None = None,
    mutable: tuple[str, ...] = (),
) -> tuple[QOutput, NetworkState]:
    """Asks the networks about a batch of observations.

    Args:
      model: the networks.
      variables: parameters and network state.
      prior: of the prior networks, or None.
      obs: `[B, S, *frame_shape]`.
      key: of the value head's samples; None: they are the same in every call.
      purpose: for what they are drawn.
      noise_key: noise for each row of `obs`; None: the weights of `variables` as they are.
      mutable: collections of network state that this pass changes.

    Returns:
      What the networks say, and the changed collections.
    """
    samples = draw_samples(model, key, purpose, len(obs))
    network = model.mean_network if noise_key is None else model.network
    rngs = {} if noise_key is None else {"noise_per_env": noise_key}
    raw, changed = network.apply(variables, obs, samples, rngs=rngs, mutable=mutable)
    if prior is not None:
        # Osband et al. 2018: a function that never learns stands beside every head.
        fixed = jax.lax.stop_gradient(model.prior_network.apply(prior, obs, samples))
        raw = raw + model.prior_scale * jnp.asarray(fixed)
    return QOutput(model.value_head.read(raw, samples), raw, samples), dict(changed)


def draw_samples(model: Model, key: chex.PRNGKey | None, purpose: Purpose, batch_size: int) -> Any:
    """The value head's samples, with a key apart from every split of `key`; None: it draws none."""
    head = model.value_head
    if head.draw is None:
        return None
    if key is None and head.fixed is not None:
        return head.fixed(batch_size)
    own_key = jax.random.fold_in(jax.random.key(0) if key is None else key, np.uint32(2**31))
    return head.draw(own_key, purpose, batch_size)


def online_variables(state: AgentState) -> chex.ArrayTree:
    """What the online network is applied with."""
    return {**state.params, **state.network_state}
