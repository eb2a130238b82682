"""The only place where the parts meet: `init`, `act`, `learn`."""

from collections.abc import Callable
from typing import NamedTuple, cast

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jdqn import exploration, losses, networks
from jdqn.config import Config
from jdqn.records import Batch, EnvSpec, QOutput, Timestep
from jdqn.replay import Replay, ReplayState, importance_exponent


class AgentState(flax.struct.PyTreeNode):
    """What learning changes."""

    params: chex.ArrayTree
    target_params: chex.ArrayTree
    opt_state: optax.OptState
    key: chex.PRNGKey  # constant; every use folds in the tick


class ActorState(flax.struct.PyTreeNode):
    """What acting remembers."""

    stack: chex.Array  # [E, S, *frame_shape]
    head: chex.Array  # [E] i32: the head that acts in this episode
    key: chex.PRNGKey  # constant; every use folds in the tick


class Agent(NamedTuple):
    """Pure functions; `tick` counts steps of all environments and is never part of a state."""

    init: Callable[[chex.PRNGKey], tuple[AgentState, ActorState]]
    act: Callable[
        [chex.ArrayTree, ActorState, Timestep, chex.Numeric], tuple[chex.Array, ActorState]
    ]
    act_in_evaluation: Callable[
        [chex.ArrayTree, ActorState, Timestep, chex.Numeric], tuple[chex.Array, ActorState]
    ]
    learn: Callable[
        [AgentState, ReplayState, chex.Numeric],
        tuple[AgentState, ReplayState, dict[str, chex.Array]],
    ]
    init_actor: Callable[[chex.PRNGKey, int], ActorState]
    q_heads: Callable[[chex.ArrayTree, chex.Array], chex.Array]


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam or centred RMSProp, with the gradient's global norm clipped first where asked."""
    fields = config.optimizer
    num_updates = max(
        (config.train.steps - config.train.learning_starts_steps)
        // config.train.update_period_steps,
        1,
    )
    rate: float | optax.Schedule = fields.learning_rate
    if fields.learning_rate_final is not None:
        rate = optax.linear_schedule(rate, fields.learning_rate_final, num_updates)
    if fields.name == "rmsprop":
        descent = optax.rmsprop(rate, decay=fields.decay, eps=fields.eps, centered=True)
    else:
        descent = optax.adam(rate, eps=fields.eps)
    if not fields.max_gradient_norm:
        return descent
    return optax.chain(optax.clip_by_global_norm(fields.max_gradient_norm), descent)


def make_agent(config: Config, spec: EnvSpec, replay: Replay) -> Agent:
    """Builds the agent.

    Args:
      config: the algorithm.
      spec: what the environment looks like.
      replay: where `learn` draws from.

    Returns:
      The pure functions. `learn` makes every update that one call owes (`updates_per_call`) in
      one scan and then copies the target if a multiple of its period was reached; donate both
      states to it.
    """
    network = networks.make_network(config, spec)
    optimizer = make_optimizer(config)
    loss_fn = losses.q_learning(losses.PENALTIES[config.agent.loss])
    fields, num_heads = config.agent, config.network.heads
    num_envs = config.env.num_envs
    num_updates = updates_per_call(config)

    def init(key: chex.PRNGKey) -> tuple[AgentState, ActorState]:
        params_key, learn_key, act_key = jax.random.split(key, 3)
        obs = jnp.zeros((1, spec.frame_stack, *spec.frame_shape), spec.frame_dtype)
        params = network.init(params_key, obs)
        state = AgentState(
            params=params,
            # A copy: two donated leaves may not share a buffer.
            target_params=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
            key=learn_key,
        )
        return state, init_actor(act_key, num_envs)

    def init_actor(key: chex.PRNGKey, num_envs: int) -> ActorState:
        return ActorState(
            stack=jnp.zeros((num_envs, spec.frame_stack, *spec.frame_shape), spec.frame_dtype),
            head=jnp.zeros((num_envs,), jnp.int32),
            key=key,
        )

    def forward(params: chex.ArrayTree, obs: chex.Array) -> QOutput:
        return cast(QOutput, network.apply(params, obs))

    def q_heads(params: chex.ArrayTree, obs: chex.Array) -> chex.Array:
        return forward(params, obs).q

    def see(actor: ActorState, timestep: Timestep) -> chex.Array:
        """The stack after the newest frame; an episode's first frame fills it."""
        newest = timestep.frame[:, None]
        # Concatenated: a shifted write into itself is miscompiled on some CPUs.
        rolled = jnp.concatenate([actor.stack[:, 1:], newest], axis=1)
        first = timestep.first.reshape(-1, *[1] * (rolled.ndim - 1))
        return jnp.where(first, jnp.broadcast_to(newest, rolled.shape), rolled)

    def act(
        params: chex.ArrayTree, actor: ActorState, timestep: Timestep, tick: chex.Numeric
    ) -> tuple[chex.Array, ActorState]:
        head_key, action_key = jax.random.split(jax.random.fold_in(actor.key, tick))
        head = exploration.redraw_heads(head_key, actor.head, timestep.first, num_heads)
        stack = see(actor, timestep)
        q = jnp.take_along_axis(q_heads(params, stack), head[:, None, None], axis=1)[:, 0]
        action = exploration.epsilon_greedy(action_key, q, training_epsilon(config, tick))
        return action, actor.replace(stack=stack, head=head)

    def act_in_evaluation(
        params: chex.ArrayTree, actor: ActorState, timestep: Timestep, tick: chex.Numeric
    ) -> tuple[chex.Array, ActorState]:
        vote_key, action_key = jax.random.split(jax.random.fold_in(actor.key, tick))
        stack = see(actor, timestep)
        votes = exploration.vote(vote_key, q_heads(params, stack))
        action = exploration.epsilon_greedy(action_key, votes, fields.epsilon_eval)
        return action, actor.replace(stack=stack)

    def loss(
        params: chex.ArrayTree, target_params: chex.ArrayTree, batch: Batch
    ) -> tuple[chex.Array, tuple[chex.Array, QOutput]]:
        online = forward(params, batch.obs)
        target = forward(target_params, batch.next_obs)
        selector = forward(params, batch.next_obs) if fields.double else target
        value, priority = losses.batch_loss(loss_fn, online, batch, target, selector)
        return value, (priority, online)

    def learn(
        state: AgentState, replay_state: ReplayState, tick: chex.Numeric
    ) -> tuple[AgentState, ReplayState, dict[str, chex.Array]]:
        # The frames stay out of the carry: closed over, so that the scan cannot copy them.
        def update(
            carry: tuple[chex.ArrayTree, optax.OptState, tuple], key: chex.PRNGKey
        ) -> tuple[tuple, dict[str, chex.Array]]:
            params, opt_state, (leaves, max_priority) = carry
            current = replay_state.replace(priorities=leaves, max_priority=max_priority)
            batch = replay.sample(current, key, tick)
            gradient_fn = jax.value_and_grad(loss, has_aux=True)
            (value, (priority, online)), gradients = gradient_fn(params, state.target_params, batch)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            params = optax.apply_updates(params, updates)
            current = replay.update(current, batch, priority)
            metrics = {
                "loss": value,
                "q_mean": jnp.mean(jnp.max(online.q, axis=-1)),
                "td_error": jnp.mean(priority),
                "gradient_norm": optax.tree.norm(gradients),
            }
            return (params, opt_state, (current.priorities, current.max_priority)), metrics

        keys = jax.random.split(jax.random.fold_in(state.key, tick), num_updates)
        carry = (
            state.params,
            state.opt_state,
            (replay_state.priorities, replay_state.max_priority),
        )
        (params, opt_state, (leaves, max_priority)), metrics = jax.lax.scan(update, carry, keys)
        target_params = jax.lax.cond(
            target_is_due(config, tick), lambda: params, lambda: state.target_params
        )
        state = state.replace(params=params, target_params=target_params, opt_state=opt_state)
        replay_state = replay_state.replace(priorities=leaves, max_priority=max_priority)
        metrics = {name: jnp.mean(values) for name, values in metrics.items()}
        metrics["epsilon"] = training_epsilon(config, tick)
        metrics["importance_exponent"] = importance_exponent(config, tick)
        return state, replay_state, metrics

    return Agent(init, act, act_in_evaluation, learn, init_actor, q_heads)


def updates_per_call(config: Config) -> int:
    """Updates that one call of `learn` makes: those owed by one step of all environments."""
    return max(config.env.num_envs // config.train.update_period_steps, 1)


def ticks_per_call(config: Config) -> int:
    """Ticks between calls of `learn`, 1 unless fewer environments than the update period."""
    return max(config.train.update_period_steps // config.env.num_envs, 1)


def steps_at(config: Config, tick: chex.Numeric) -> chex.Numeric:
    """Agent steps taken once the action of `tick` is chosen."""
    return (tick + 1) * config.env.num_envs


def learns_at(config: Config, tick: int) -> bool:
    """Whether `learn` is called at a tick: past the start of learning, every update period."""
    return steps_at(config, tick) >= config.train.learning_starts_steps and (
        (tick + 1) % ticks_per_call(config) == 0
    )


def target_is_due(config: Config, tick: chex.Numeric) -> chex.Array:
    """Whether this call of `learn` is the first at or after a multiple of the target period."""
    steps, period = steps_at(config, tick), config.agent.target_period_steps
    stride = ticks_per_call(config) * config.env.num_envs
    return jnp.asarray(steps // period > (steps - stride) // period)


def training_epsilon(config: Config, tick: chex.Numeric) -> chex.Array:
    """Epsilon of the action of a tick, `[]` f32."""
    fields = config.agent
    return exploration.epsilon(
        jnp.asarray(tick) * config.env.num_envs,
        start=fields.epsilon_start,
        end=fields.epsilon_end,
        decay_steps=fields.epsilon_decay_steps,
        delay_steps=config.train.learning_starts_steps,
    )
