"""Acting: the stack of frames, whose turn it is, the action."""

import chex
import flax.struct
import jax
import jax.numpy as jnp

from jdqn import clock
from jdqn.config import Config
from jdqn.learning import exploration
from jdqn.learning.model import AgentState, Model, ask, online_variables
from jdqn.records import EnvSpec, Timestep

# Who acts in evaluation, in place of a head's number.
ALL_VOTE = -1
ALL_MEAN = -2


class ActorState(flax.struct.PyTreeNode):
    """What acting remembers."""

    stack: chex.Array  # [E, S, *frame_shape]
    head: chex.Array  # [E] i32: the head that acts in this episode; or ALL_VOTE, ALL_MEAN
    key: chex.PRNGKey  # constant; every use folds in the tick


def init_actor(spec: EnvSpec, key: chex.PRNGKey, num_envs: int) -> ActorState:
    """Before the first frame."""
    return ActorState(
        stack=jnp.zeros((num_envs, spec.frame_stack, *spec.frame_shape), spec.frame_dtype),
        head=jnp.zeros((num_envs,), jnp.int32),
        key=key,
    )


def act(
    model: Model,
    config: Config,
    behaviour: exploration.Behaviour,
    state: AgentState,
    actor: ActorState,
    timestep: Timestep,
    tick: chex.Numeric,
) -> tuple[chex.Array, ActorState]:
    """The actions `[E]` i32 of a tick in training, and the actor after it."""
    tick_key = jax.random.fold_in(actor.key, tick)
    head_key, action_key, noise_key, vote_key = jax.random.split(tick_key, 4)
    redrawn = timestep.first | behaviour.redraws_every_step
    head = exploration.redraw_heads(head_key, actor.head, redrawn, config.network.heads)
    stack = push_frame(actor.stack, timestep)
    answer, _ = ask(
        model,
        online_variables(state),
        state.prior_params,
        stack,
        key=tick_key,
        noise_key=noise_key,
    )
    score = behaviour.score(vote_key, answer.q, head)
    action = exploration.epsilon_greedy(action_key, score, clock.epsilon(config, tick))
    return action, actor.replace(stack=stack, head=head)


def act_in_evaluation(
    model: Model,
    config: Config,
    state: AgentState,
    actor: ActorState,
    timestep: Timestep,
    tick: chex.Numeric,
) -> tuple[chex.Array, ActorState]:
    """The same in evaluation: mean weights, `epsilon_eval`; the actor's `head` says who acts."""
    tick_key = jax.random.fold_in(actor.key, tick)
    vote_key, action_key = jax.random.split(tick_key)
    stack = push_frame(actor.stack, timestep)
    variables = online_variables(state)
    answer, _ = ask(model, variables, state.prior_params, stack, key=tick_key)
    q = answer.q
    head = actor.head[:, None]
    score = jnp.take_along_axis(q, jnp.maximum(head, 0)[..., None], axis=1)[:, 0]
    score = jnp.where(head == ALL_MEAN, jnp.mean(q, axis=1), score)
    score = jnp.where(head == ALL_VOTE, exploration.vote(vote_key, q), score)
    action = exploration.epsilon_greedy(action_key, score, config.agent.epsilon_eval)
    return action, actor.replace(stack=stack)


def push_frame(stack: chex.Array, timestep: Timestep) -> chex.Array:
    """The stack `[E, S, ...]` after the newest frame; an episode's first frame fills it."""
    newest = timestep.frame[:, None]
    # Concatenated: a shifted write into itself is miscompiled on some CPUs.
    rolled = jnp.concatenate([stack[:, 1:], newest], axis=1)
    first = timestep.first.reshape(-1, *[1] * (rolled.ndim - 1))
    return jnp.where(first, jnp.broadcast_to(newest, rolled.shape), rolled)
