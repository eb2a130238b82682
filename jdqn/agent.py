"""The only place where the parts meet: `init`, `act`, `learn`."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jdqn import exploration, losses, networks, priorities
from jdqn.config import Config
from jdqn.records import EnvSpec, QOutput, Timestep
from jdqn.replay import Replay, ReplayState, importance_exponent


class AgentState(flax.struct.PyTreeNode):
    """What learning changes, and the networks of the prior, which it does not."""

    params: chex.ArrayTree
    target_params: chex.ArrayTree
    prior_params: chex.ArrayTree  # never trained, shared by online and target; None: no priors
    opt_state: optax.OptState
    key: chex.PRNGKey  # constant; every use folds in the tick


class ActorState(flax.struct.PyTreeNode):
    """What acting remembers."""

    stack: chex.Array  # [E, S, *frame_shape]
    head: chex.Array  # [E] i32: the head that acts in this episode; or ALL_VOTE, ALL_MEAN
    key: chex.PRNGKey  # constant; every use folds in the tick


Act = Callable[[AgentState, ActorState, Timestep, chex.Numeric], tuple[chex.Array, ActorState]]
# Who acts in evaluation, in place of a head's number.
ALL_VOTE, ALL_MEAN = -1, -2


class Agent(NamedTuple):
    """Pure functions; `tick` counts steps of all environments and is never part of a state."""

    init: Callable[[chex.PRNGKey], tuple[AgentState, ActorState]]
    act: Act
    act_in_evaluation: Act  # the actor's `head` says who acts
    learn: Callable[
        [AgentState, ReplayState, chex.Numeric],
        tuple[AgentState, ReplayState, dict[str, chex.Array]],
    ]
    init_actor: Callable[[chex.PRNGKey, int], ActorState]
    q_heads: Callable[[AgentState, chex.Array], chex.Array]  # obs [E, S, ...] -> [E, K, A]
    distribution: Callable[[AgentState, chex.Array], chex.Array]  # obs -> [E, K, A, Z], of C51
    diagnose: Callable[[AgentState, chex.Array], dict[str, chex.Array]]


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
        descent = optax.chain(scale_by_adam(fields.eps), optax.scale_by_learning_rate(rate))
    if not fields.max_gradient_norm:
        return descent
    return optax.chain(optax.clip_by_global_norm(fields.max_gradient_norm), descent)


def scale_by_adam(eps: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with one division for each weight in place of three.

    The bias corrections (Kingma & Ba 2015, algorithm 1) are the same for all weights: multiplying
    by their inverses saves a tenth of a small network's update on a CPU.
    """
    b1, b2 = 0.9, 0.999

    def update(
        gradients: chex.ArrayTree, state: optax.ScaleByAdamState, _: Any = None
    ) -> tuple[chex.ArrayTree, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
        nu = optax.tree.update_moment(gradients, state.nu, b2, 2)
        unbias_mu, unbias_nu = 1.0 / (1.0 - b1**count), 1.0 / (1.0 - b2**count)
        updates = jax.tree.map(lambda m, v: m * unbias_mu / (jnp.sqrt(v * unbias_nu) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)


def norm_if(wanted: chex.Array, gradients: Callable[[], chex.ArrayTree]) -> chex.Array:
    """The global norm, or 0: a log event wants one in thousands, and it costs 5% of an update."""
    if jax.default_backend() != "cpu":  # a branch would wait for the device
        return wanted * optax.tree.norm(gradients())
    return jax.lax.cond(wanted, lambda: optax.tree.norm(gradients()), lambda: jnp.zeros(()))


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
    mean_network = network.clone(noisy="none")
    prior_network = mean_network.clone(dueling="none")
    optimizer = make_optimizer(config)
    fields, num_heads = config.agent, config.network.heads
    atoms = jnp.linspace(config.network.v_min, config.network.v_max, config.network.atoms)
    q_learning = losses.q_learning(losses.PENALTIES[fields.loss])
    loss_fn = q_learning if atoms.size == 1 else losses.categorical(atoms)
    num_updates, independent = updates_per_call(config), network.noisy == "independent"

    def init(key: chex.PRNGKey) -> tuple[AgentState, ActorState]:
        params_key, learn_key, act_key, prior_key = jax.random.split(key, 4)
        obs = jnp.zeros((1, spec.frame_stack, *spec.frame_shape), spec.frame_dtype)
        params = network.init(params_key, obs)
        prior = None
        if config.network.prior_scale > 0:
            prior = prior_network.init(prior_key, obs)
            # Biases at 0: they add a constant that drowns what tells one-hot states apart.
            prior = jax.tree.map_with_path(lambda path, x: x * (path[-1].key != "bias"), prior)
        state = AgentState(
            params=params,
            # A copy: two donated leaves may not share a buffer.
            target_params=jax.tree.map(jnp.copy, params),
            prior_params=prior,
            opt_state=optimizer.init(params),
            key=learn_key,
        )
        return state, init_actor(act_key, config.env.num_envs)

    def init_actor(key: chex.PRNGKey, num_envs: int) -> ActorState:
        return ActorState(
            stack=jnp.zeros((num_envs, spec.frame_stack, *spec.frame_shape), spec.frame_dtype),
            head=jnp.zeros((num_envs,), jnp.int32),
            key=key,
        )

    def forward(
        params: chex.ArrayTree,
        prior: chex.ArrayTree,
        obs: chex.Array,
        network: networks.QNetwork = mean_network,
        **rngs: chex.PRNGKey,
    ) -> QOutput:
        """Q-values `[B, K, A]`."""
        raw = cast(jax.Array, network.apply(params, obs, rngs=rngs))
        if prior is not None:
            # Osband et al. 2018: a function that never learns stands beside every head.
            fixed = cast(jax.Array, jax.lax.stop_gradient(prior_network.apply(prior, obs)))
            raw = raw + config.network.prior_scale * fixed
        return networks.q_output(raw, atoms)

    def q_heads(state: AgentState, obs: chex.Array) -> chex.Array:
        return forward(state.params, state.prior_params, obs).q

    def distribution(state: AgentState, obs: chex.Array) -> chex.Array:
        return jax.nn.softmax(
            cast(jax.Array, forward(state.params, state.prior_params, obs).logits)
        )

    def diagnose(state: AgentState, obs: chex.Array) -> dict[str, chex.Array]:
        """Figures over fixed observations `[B, S, ...]`, with mean weights."""
        parts = len(obs) // 50 if len(obs) % 50 == 0 else 1  # a thousand stacks at once are 400 MB
        several = obs.reshape(parts, -1, *obs.shape[1:])
        q = jax.lax.map(functools.partial(q_heads, state), several)
        q = q.reshape(-1, *q.shape[2:])
        found = {"q_heldout": jnp.mean(jnp.max(q, axis=-1))}
        for name, ratio in networks.signal_to_noise(state.params).items():
            found[f"signal_to_noise/{name}"] = ratio
        if network.dueling != "none":
            # What the aggregation makes of the streams, whose own offsets are arbitrary.
            value = jnp.max(q, axis=-1) if network.dueling == "max" else jnp.mean(q, axis=-1)
            found["value"] = jnp.mean(value)
            found["advantage"] = jnp.mean(jnp.abs(q - value[..., None]))
        if num_heads > 1:
            votes = jax.nn.one_hot(jnp.argmax(q, axis=-1), spec.num_actions).sum(axis=1)
            found["q_spread"] = jnp.mean(jnp.std(q, axis=1))
            found["disagreement"] = 1.0 - jnp.mean(jnp.max(votes, axis=-1)) / num_heads
        return found

    def see(actor: ActorState, timestep: Timestep) -> chex.Array:
        """The stack after the newest frame; an episode's first frame fills it."""
        newest = timestep.frame[:, None]
        # Concatenated: a shifted write into itself is miscompiled on some CPUs.
        rolled = jnp.concatenate([actor.stack[:, 1:], newest], axis=1)
        first = timestep.first.reshape(-1, *[1] * (rolled.ndim - 1))
        return jnp.where(first, jnp.broadcast_to(newest, rolled.shape), rolled)

    def act(
        state: AgentState, actor: ActorState, timestep: Timestep, tick: chex.Numeric
    ) -> tuple[chex.Array, ActorState]:
        keys = jax.random.split(jax.random.fold_in(actor.key, tick), 4)
        head_key, action_key, noise_key, vote_key = keys
        redrawn = timestep.first | (fields.behaviour == "head_per_step")
        head = exploration.redraw_heads(head_key, actor.head, redrawn, num_heads)
        stack = see(actor, timestep)
        q = forward(state.params, state.prior_params, stack, network, noise_per_env=noise_key).q
        if fields.behaviour == "vote":
            score = exploration.vote(vote_key, q)
        else:
            score = jnp.take_along_axis(q, head[:, None, None], axis=1)[:, 0]
        action = exploration.epsilon_greedy(action_key, score, training_epsilon(config, tick))
        return action, actor.replace(stack=stack, head=head)

    def act_in_evaluation(
        state: AgentState, actor: ActorState, timestep: Timestep, tick: chex.Numeric
    ) -> tuple[chex.Array, ActorState]:
        vote_key, action_key = jax.random.split(jax.random.fold_in(actor.key, tick))
        stack, head = see(actor, timestep), actor.head[:, None]
        q = q_heads(state, stack)
        score = jnp.take_along_axis(q, jnp.maximum(head, 0)[..., None], axis=1)[:, 0]
        score = jnp.where(head == ALL_MEAN, jnp.mean(q, axis=1), score)
        score = jnp.where(head == ALL_VOTE, exploration.vote(vote_key, q), score)
        action = exploration.epsilon_greedy(action_key, score, fields.epsilon_eval)
        return action, actor.replace(stack=stack)

    def learn(
        state: AgentState, replay_state: ReplayState, tick: chex.Numeric
    ) -> tuple[AgentState, ReplayState, dict[str, chex.Array]]:
        prior = state.prior_params

        # The frames stay out of the carry: closed over, so that the scan cannot copy them.
        def update(carry: tuple, call: tuple) -> tuple[tuple, dict[str, chex.Array]]:
            uniform, noise_keys, is_last = call
            params, opt_state, (leaves, max_priority) = carry
            current = replay_state.replace(priorities=leaves, max_priority=max_priority)
            batch = replay.sample(current, uniform, tick)
            # Independent noise for the online network, the target and, with Double, the selection.
            drawn_for = (params, state.target_params, params)[: 2 + fields.double]
            noise = [networks.draw_noise(params, key, independent) for key in noise_keys]
            noisy, *others = map(networks.perturbed, drawn_for, noise)

            def loss(noisy: chex.ArrayTree) -> tuple[chex.Array, tuple[chex.Array, QOutput]]:
                online = forward(noisy, prior, batch.obs)
                following = [forward(other, prior, batch.next_obs) for other in others]
                target, selector = following[0], following[-1]
                value, priority = losses.batch_loss(loss_fn, online, batch, target, selector)
                return value, (priority, online)

            (value, (priority, online)), of_noisy = jax.value_and_grad(loss, has_aux=True)(noisy)

            def gradients() -> chex.ArrayTree:
                return jax.vjp(lambda p: networks.perturbed(p, noise[0]), params)[1](of_noisy)[0]

            updates, opt_state = optimizer.update(gradients(), opt_state, params)
            params = optax.apply_updates(params, updates)
            current = replay.update(current, batch, priority)
            metrics = {
                "loss": value,
                "q_mean": jnp.mean(jnp.max(online.q, axis=-1)),
                "priority_mean": jnp.mean(priority),
                "priority_max": jnp.max(priority),
                "importance_weight_mean": jnp.mean(batch.weight),
                "gradient_norm": norm_if(is_last, gradients),
            }
            return (params, opt_state, (current.priorities, current.max_priority)), metrics

        if config.replay.prioritization == "rank":
            period_steps = config.replay.rank_refresh_updates * config.train.update_period_steps
            refreshed = jax.lax.cond(
                is_due(config, tick, min(period_steps, 2**31 - 1)) | ~learned_before(config, tick),
                lambda: replay.refresh(replay_state, tick).priorities,
                lambda: replay_state.priorities,
            )
            replay_state = replay_state.replace(priorities=refreshed)
        keys = jax.random.split(jax.random.fold_in(state.key, tick), num_updates)
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(keys)
        # Drawn at once: on a CPU XLA makes random numbers in a loop of many small steps.
        draw = functools.partial(priorities.uniforms, batch_size=config.replay.batch_size)
        uniform = jax.vmap(draw)(keys[:, 0])
        drawn_by = replay_state.priorities, replay_state.max_priority
        carry = state.params, state.opt_state, drawn_by
        (params, opt_state, (leaves, max_priority)), metrics = jax.lax.scan(
            update, carry, (uniform, keys[:, 1:], jnp.arange(num_updates) == num_updates - 1)
        )
        target_params = jax.lax.cond(
            is_due(config, tick, fields.target_period_steps),
            lambda: params,
            lambda: state.target_params,
        )
        state = state.replace(params=params, target_params=target_params, opt_state=opt_state)
        replay_state = replay_state.replace(priorities=leaves, max_priority=max_priority)
        metrics = {name: jnp.mean(values) for name, values in metrics.items()}
        metrics["gradient_norm"] *= num_updates  # a sum: 0 but for the last update
        metrics["epsilon"] = training_epsilon(config, tick)
        metrics["importance_exponent"] = importance_exponent(config, tick)
        return state, replay_state, metrics

    return Agent(init, act, act_in_evaluation, learn, init_actor, q_heads, distribution, diagnose)


def jit_learning(function: Callable[..., Any], donate_argnums: int | tuple[int, ...]) -> Any:
    """`jax.jit` of a program with `learn` in it.

    Without this analysis XLA's CPU backend copies all parameters at every update of the scan.
    """
    options = {"xla_cpu_copy_insertion_use_region_analysis": True}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # an XLA that does not know it
        options = {}
    return jax.jit(function, donate_argnums=donate_argnums, compiler_options=options)


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


def first_learning_tick(config: Config) -> int:
    """First of the ticks that the first call of `learn` ends."""
    stride = ticks_per_call(config)
    starts = math.ceil(config.train.learning_starts_steps / config.env.num_envs)
    return max(math.ceil(starts / stride) - 1, 0) * stride


def learned_before(config: Config, tick: chex.Numeric) -> chex.Array:
    """Whether the call of `learn` at a tick is not the first."""
    stride = ticks_per_call(config) * config.env.num_envs
    return jnp.asarray(steps_at(config, tick) - stride >= config.train.learning_starts_steps)


def is_due(config: Config, tick: chex.Numeric, period_steps: int) -> chex.Array:
    """Whether this call of `learn` is the first at or after a multiple of a period."""
    steps, stride = steps_at(config, tick), ticks_per_call(config) * config.env.num_envs
    return jnp.asarray(steps // period_steps > (steps - stride) // period_steps)


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
