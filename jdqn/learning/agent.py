"""The agent as a record of pure functions: `make_agent` binds what is static to them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jdqn.config import Config
from jdqn.learning import actor, diagnostics, exploration, update, values
from jdqn.learning.actor import ActorState
from jdqn.learning.model import (
    NEVER,
    AgentState,
    Model,
    init_prior,
    init_variables,
    make_model,
)
from jdqn.learning.optimizer import make_optimizer
from jdqn.records import EnvSpec, QOutput, Timestep
from jdqn.replay import Replay, ReplayState

Act = Callable[[AgentState, ActorState, Timestep, chex.Numeric], tuple[chex.Array, ActorState]]
Learn = Callable[
    [AgentState, ReplayState, chex.Numeric], tuple[AgentState, ReplayState, update.Metrics]
]


class Agent(NamedTuple):
    """Pure functions; `tick` counts steps of all environments and is never part of a state."""

    init: Callable[[chex.PRNGKey], tuple[AgentState, ActorState]]
    init_actor: Callable[[chex.PRNGKey, int], ActorState]
    act: Act
    act_in_evaluation: Act  # the actor's `head` says who acts
    learn: Learn
    output: Callable[..., QOutput]  # of observations [B, S, ...], see `diagnostics.output`
    diagnose: Callable[[AgentState, chex.Array], dict[str, chex.Array]]


def make_agent(
    config: Config, spec: EnvSpec, replay: Replay, value_head: values.ValueHead | None = None
) -> Agent:
    """Builds the agent.

    Args:
      config: the algorithm.
      spec: what the environment looks like.
      replay: where `learn` draws from.
      value_head: default: the configuration's.

    Returns:
      The pure functions. `learn` makes every update that one call owes
      (`clock.updates_per_call`) in one scan and then copies the target if a multiple of its period
      was reached; donate both states to it.
    """
    model = make_model(config, spec, value_head or values.make_value_head(config))
    optimizer = make_optimizer(config)
    behaviour = exploration.make_behaviour(config.agent.behaviour)
    learner = update.Learner(config, model, optimizer, replay)
    return Agent(
        init=functools.partial(init, config, spec, model, optimizer),
        init_actor=functools.partial(actor.init_actor, spec),
        act=functools.partial(actor.act, model, config, behaviour),
        act_in_evaluation=functools.partial(actor.act_in_evaluation, model, config),
        learn=functools.partial(update.learn, learner),
        output=functools.partial(diagnostics.output, model),
        diagnose=functools.partial(diagnostics.diagnose, model),
    )


def init(
    config: Config,
    spec: EnvSpec,
    model: Model,
    optimizer: optax.GradientTransformation,
    key: chex.PRNGKey,
) -> tuple[AgentState, ActorState]:
    """The agent and the actor before the first tick."""
    params_key, learn_key, act_key, prior_key = jax.random.split(key, 4)
    obs = jnp.zeros((1, spec.frame_stack, *spec.frame_shape), spec.frame_dtype)
    params, network_state = init_variables(model, params_key, obs)
    state = AgentState(
        params=params,
        # Copies: two donated leaves may not share a buffer.
        target_params=jax.tree.map(jnp.copy, params),
        prior_params=init_prior(model, prior_key, obs),
        opt_state=optimizer.init(params),
        key=learn_key,
        network_state=network_state,
        target_network_state=jax.tree.map(jnp.copy, network_state),
        non_finite=jnp.full((2,), NEVER, jnp.int32),
    )
    return state, actor.init_actor(spec, act_key, config.env.num_envs)
