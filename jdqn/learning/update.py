"""Learning: one update, and the updates that a call owes."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jdqn import clock, kernels, networks
from jdqn.config import Config
from jdqn.learning import losses
from jdqn.learning.model import NEVER, AgentState, Model, NetworkState, ask
from jdqn.learning.values import Calls, Purpose
from jdqn.records import QOutput
from jdqn.replay import Replay, ReplayState, priorities

Metrics = dict[str, chex.Array]
# Of one update, in the order of a vector, the value head's figures after them: one by one, each
# would be a kernel on a GPU.
METRICS = (
    "loss",
    "q_mean",
    "priority_mean",
    "priority_max",
    "importance_weight_mean",
    "gradient_norm",
)


class Learner(NamedTuple):
    """What is static about learning."""

    config: Config
    model: Model
    optimizer: optax.GradientTransformation
    replay: Replay


class Learnt(NamedTuple):
    """What an update changes: the carry of the scan over updates."""

    params: chex.ArrayTree
    network_state: NetworkState
    opt_state: optax.OptState
    priorities: priorities.Priorities

    @classmethod
    def of(cls, state: AgentState, replay_state: ReplayState) -> "Learnt":
        """Takes it out of both states."""
        return cls(state.params, state.network_state, state.opt_state, replay_state.priorities)

    def put_into(
        self, state: AgentState, replay_state: ReplayState
    ) -> tuple[AgentState, ReplayState]:
        """Both states with it."""
        state = state.replace(
            params=self.params, network_state=self.network_state, opt_state=self.opt_state
        )
        return state, replay_state.replace(priorities=self.priorities)


class Draws(NamedTuple):
    """What is random in one update, and is drawn before the first of a call."""

    uniform: chex.Array  # [B, priorities.LEVELS] f32
    rows: priorities.Drawn | None  # by `uniform`; None: updates say by what is drawn
    keys: chex.PRNGKey  # [3], of the online network, the target and the selector
    noise: list[networks.noise.Noise] | None  # of the three; None: large, so drawn where it is used
    is_last: chex.Array  # [] bool, of its call


def learn(
    learner: Learner, state: AgentState, replay_state: ReplayState, tick: chex.Numeric
) -> tuple[AgentState, ReplayState, Metrics]:
    """Makes every update that one call owes in one scan, then copies the target if it is due."""
    config = learner.config
    replay_state = _refresh_if_due(learner, replay_state, tick)
    draws = _draw_all(learner, state, replay_state, jax.random.fold_in(state.key, tick))
    names = (*METRICS, *learner.model.value_head.figures)

    # The rows stay out of the carry: closed over, so that the scan cannot copy them.
    def body(learnt: Learnt, draws: Draws) -> tuple[Learnt, chex.Array]:
        before = learnt.put_into(state, replay_state)
        after, replayed, metrics = update(learner, *before, draws, tick)
        return Learnt.of(after, replayed), jnp.stack([metrics[name] for name in names])

    learnt, seen = jax.lax.scan(body, Learnt.of(state, replay_state), draws)
    target_params, target_network_state = jax.lax.cond(
        clock.is_due(config, tick, config.agent.target_period_steps),
        lambda: (learnt.params, learnt.network_state),
        lambda: (state.target_params, state.target_network_state),
    )
    state, replay_state = learnt.put_into(state, replay_state)
    state = state.replace(
        target_params=target_params,
        target_network_state=target_network_state,
        non_finite=jnp.minimum(state.non_finite, _first_non_finite(config, seen, tick)),
    )
    metrics: Metrics = dict(zip(names, jnp.mean(seen, axis=0), strict=True))
    metrics["gradient_norm"] *= clock.updates_per_call(config)  # a sum: 0 but for the last update
    metrics["epsilon"] = clock.epsilon(config, tick)
    metrics["importance_exponent"] = clock.importance_exponent(config, tick)
    return state, replay_state, metrics


def _first_non_finite(config: Config, seen: chex.Array, tick: chex.Numeric) -> chex.Array:
    """First update of a call whose loss, whose gradient is not finite, `[2]` i32; or NEVER.

    Of the gradients only the last one's norm is known: a parameter that is lost before shows in the
    next loss. Remembered on the device, so that nothing is fetched to find out.
    """
    numbers = clock.last_update(config, tick) - jnp.arange(len(seen))[::-1]
    first = jnp.min(jnp.where(jnp.isfinite(seen), NEVER, numbers[:, None]), axis=0)
    return jnp.stack([first[METRICS.index(name)] for name in ("loss", "gradient_norm")])


def update(
    learner: Learner,
    state: AgentState,
    replay_state: ReplayState,
    draws: Draws,
    tick: chex.Numeric,
) -> tuple[AgentState, ReplayState, Metrics]:
    """Draws a batch, takes one step of the optimiser, writes the batch's priorities."""
    rows = draws.rows or learner.replay.draw(replay_state, draws.uniform)
    batch = learner.replay.gather(replay_state, rows, tick)
    noises = draws.noise or _draw_noises(learner, state, draws.keys)
    noise = noises[0]
    noisy = networks.perturbed(state.params, noise)

    def loss(noisy: chex.ArrayTree) -> tuple[chex.Array, tuple]:
        online, network_state = ask(
            learner.model,
            {**noisy, **state.network_state},
            state.prior_params,
            batch.obs,
            key=draws.keys[0],
            purpose="online",
            mutable=tuple(state.network_state),  # by this pass alone
        )
        calls = make_calls(learner, noisy, state, draws.keys, noises, known=(batch.obs, online))
        head = learner.model.value_head
        value, priority = losses.over_batch(head.loss(calls, batch), batch)
        figures = {name: jnp.mean(of(calls, batch)) for name, of in head.figures.items()}
        return value, (priority, online.q, network_state, figures)

    (value, aux), of_noisy = jax.value_and_grad(loss, has_aux=True)(noisy)
    priority, q, network_state, figures = aux

    def gradients() -> chex.ArrayTree:
        return jax.vjp(lambda p: networks.perturbed(p, noise), state.params)[1](of_noisy)[0]

    steps, opt_state = learner.optimizer.update(gradients(), state.opt_state, state.params)
    params = optax.apply_updates(state.params, steps)
    replay_state = learner.replay.update(replay_state, batch, priority)
    metrics = figures | {
        "loss": value,
        "q_mean": jnp.mean(jnp.max(q, axis=-1)),
        "priority_mean": jnp.mean(priority),
        "priority_max": jnp.max(priority),
        "importance_weight_mean": jnp.mean(batch.weight),
        "gradient_norm": kernels.norm_if(draws.is_last, gradients),
    }
    state = state.replace(params=params, network_state=network_state, opt_state=opt_state)
    return state, replay_state, metrics


def make_calls(
    learner: Learner,
    noisy: chex.ArrayTree,
    state: AgentState,
    keys: chex.PRNGKey,
    noises: list[networks.noise.Noise],
    *,
    known: tuple[chex.Array, QOutput],
) -> Calls:
    """What a loss may ask, each network with noise and samples of its own.

    `noisy` are the online network's parameters with their noise, `known` observations and what it
    says of them; `keys` `[3]` and `noises` are those of `Draws`.
    """
    model = learner.model

    def network(
        params: chex.ArrayTree, network_state: NetworkState, key: chex.PRNGKey, purpose: Purpose
    ) -> Callable[[chex.Array, int], QOutput]:
        variables = {**params, **network_state}

        def answer(obs: chex.Array, number: int) -> QOutput:
            own_key = jax.random.fold_in(key, number)
            prior = state.prior_params
            return ask(model, variables, prior, obs, key=own_key, purpose=purpose)[0]

        return answer

    online = once(network(noisy, state.network_state, keys[0], "online"), known)
    target_params = networks.perturbed(state.target_params, noises[1])
    target = once(network(target_params, state.target_network_state, keys[1], "target"))
    selector = target
    if learner.config.agent.double:
        selector_params = networks.perturbed(state.params, noises[2])
        selector = once(network(selector_params, state.network_state, keys[2], "acting"))
    elif model.value_head.draw is not None:
        selector = once(network(target_params, state.target_network_state, keys[2], "acting"))
    return Calls(online, target, selector)


def once(
    answer: Callable[[chex.Array, int], QOutput], *known: tuple[chex.Array, QOutput]
) -> Callable[[chex.Array], QOutput]:
    """Answers once for each array that is asked about; `answer` also gets how many there were."""
    answered = list(known)

    def call(obs: chex.Array) -> QOutput:
        for seen, given in answered:
            if seen is obs:
                return given
        answered.append((obs, answer(obs, len(answered))))
        return answered[-1][1]

    return call


def _draw_all(
    learner: Learner, state: AgentState, replay_state: ReplayState, key: chex.PRNGKey
) -> Draws:
    """What is random in all updates of a call, with a leading axis of them.

    Drawn at once: on a CPU XLA makes random numbers in a loop of many small steps, and on a GPU
    every step is a kernel.
    """
    config = learner.config
    num_updates = clock.updates_per_call(config)
    keys = jax.random.split(key, num_updates)
    keys = jax.vmap(lambda key: jax.random.split(key, 4))(keys)
    draw = functools.partial(priorities.uniforms, batch_size=config.replay.batch_size)
    uniform = jax.vmap(draw)(keys[:, 0])
    rows = None
    if not learner.replay.changes_draws:
        rows = jax.vmap(learner.replay.draw, in_axes=(None, 0))(replay_state, uniform)
    noise = None
    if config.network.noisy == "factorised":
        noise = jax.vmap(functools.partial(_draw_noises, learner, state))(keys[:, 1:])
    is_last = jnp.arange(num_updates) == num_updates - 1
    return Draws(uniform, rows, keys[:, 1:], noise, is_last)


def _draw_noises(
    learner: Learner, state: AgentState, keys: chex.PRNGKey
) -> list[networks.noise.Noise]:
    """Noise for every noisy layer of each of some networks, by their keys; a batch shares it."""
    independent = learner.model.network.noisy == "independent"
    return [networks.draw_noise(state.params, key, independent) for key in keys]


def _refresh_if_due(learner: Learner, replay_state: ReplayState, tick: chex.Numeric) -> ReplayState:
    """Sorts rank-based priorities at the first call, then once in their period."""
    config = learner.config
    period_steps = learner.replay.refresh_period_steps
    if not period_steps:
        return replay_state
    refreshed = jax.lax.cond(
        clock.is_due(config, tick, period_steps) | ~clock.learned_before(config, tick),
        lambda: learner.replay.refresh(replay_state, tick).priorities,
        lambda: replay_state.priorities,
    )
    return replay_state.replace(priorities=refreshed)
