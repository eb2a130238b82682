"""Figures beside return and loss, over fixed observations; nothing here changes what is learned."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jdqn import networks
from jdqn.learning.model import AgentState, Model, ask, online_variables
from jdqn.records import QOutput
from jdqn.replay import Replay, ReplayState, priorities

HELD_OUT_STATES = 1_000


def output(
    model: Model, state: AgentState, obs: chex.Array, key: chex.PRNGKey | None = None
) -> QOutput:
    """What every head says of observations `[B, S, *frame_shape]`, with mean weights.

    `key` is of the value head's samples; None: they are the same in every call.
    """
    return ask(model, online_variables(state), state.prior_params, obs, key=key)[0]


def diagnose(model: Model, state: AgentState, obs: chex.Array) -> dict[str, chex.Array]:
    """Figures over observations `[B, S, *frame_shape]`, with mean weights."""
    q, spread = _in_parts(model, state, obs)
    found = {"q_heldout": jnp.mean(jnp.max(q, axis=-1))}
    if spread is not None:
        best = jnp.argmax(q, axis=-1, keepdims=True)
        found["quantile_spread"] = jnp.mean(jnp.take_along_axis(spread, best, axis=-1))
    for name, ratio in networks.signal_to_noise(state.params).items():
        found[f"signal_to_noise/{name}"] = ratio
    if norms := networks.largest_singular_values(state.network_state):
        found["spectral_norm"] = jnp.max(jnp.stack(norms))
    if model.network.dueling != "none":
        # What the aggregation makes of the streams, whose own offsets are arbitrary.
        by_max = model.network.dueling == "max"
        value = jnp.max(q, axis=-1) if by_max else jnp.mean(q, axis=-1)
        found["value"] = jnp.mean(value)
        found["advantage"] = jnp.mean(jnp.abs(q - value[..., None]))
    num_heads = q.shape[1]
    if num_heads > 1:
        votes = jax.nn.one_hot(jnp.argmax(q, axis=-1), q.shape[-1]).sum(axis=1)
        found["q_spread"] = jnp.mean(jnp.std(q, axis=1))
        found["disagreement"] = 1.0 - jnp.mean(jnp.max(votes, axis=-1)) / num_heads
    return found


def _in_parts(
    model: Model, state: AgentState, obs: chex.Array
) -> tuple[chex.Array, chex.Array | None]:
    """Q, and the standard deviation of quantiles where there are any, `[B, K, A]` both.

    50 observations at a time: a thousand stacks at once are 400 MB.
    """
    has_quantiles = model.value_head.is_mean

    def of_part(part: chex.Array) -> tuple[chex.Array, chex.Array | None]:
        answer = output(model, state, part)
        raw = answer.raw
        if not has_quantiles or raw is None or raw.shape[-1] == 1:
            return answer.q, None
        return answer.q, jnp.std(raw, axis=-1)

    parts = len(obs) // 50 if len(obs) % 50 == 0 else 1
    found = jax.lax.map(of_part, obs.reshape(parts, -1, *obs.shape[1:]))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def held_out(replay: Replay) -> Callable[[ReplayState], chex.Array]:
    """A function of the replay's state: up to 1,000 observations in it, `[B, S, ...]`.

    The mean of max Q over fixed states is the picture of van Hasselt et al. 2015. The draw has a
    key of its own and is uniform, whatever the agent draws by.
    """
    uniform = priorities.uniforms(jax.random.key(0), min(HELD_OUT_STATES, replay.capacity))

    def draw(state: ReplayState) -> chex.Array:
        leaves = jnp.sign(state.priorities.leaves)
        sums = priorities.block_sums(leaves, priorities.num_devices_of(state.priorities))
        evenly = state.priorities.replace(leaves=leaves, sums=sums)
        return replay.sample(state.replace(priorities=evenly), uniform, 0).obs

    return jax.jit(draw)
