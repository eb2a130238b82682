"""The fused loop: environments inside JAX, so that one program acts, steps, stores and learns.

The same `act`, `add`, `learn` as the host loop, in the same order, inside one compiled loop. Two
programs are compiled, one for the warm-up and one for training. On an accelerator seeds are
mapped with `vmap`. On a CPU each seed keeps its own buffers and one program is called for each from
a pool of threads, one a core: exact, without copies.
"""

import concurrent.futures
import functools
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jdqn import clock, envs, kernels, learning
from jdqn.config import Config
from jdqn.envs.jax_native import JaxEnv, JaxEnvState
from jdqn.loops.shared import Carry, Turn
from jdqn.records import Timestep
from jdqn.replay import Replay, ReplayState

# Of a carry what a tick changes, and the timesteps seen.
Played = tuple[learning.ActorState, ReplayState, JaxEnvState, Timestep, Timestep]


class Parts(NamedTuple):
    """What is static about the loop; the parts know nothing of it."""

    config: Config
    env: JaxEnv
    replay: Replay
    agent: learning.Agent
    max_ticks: int  # the most ticks of one call; a multiple of `clock.ticks_per_call`


def init(parts: Parts, seed: chex.Numeric) -> Carry:
    """Before the first tick."""
    agent_key, replay_key = jax.random.split(jax.random.key(seed))
    state, actor = parts.agent.init(agent_key)
    env_state, timestep = parts.env.init(envs.env_key(seed))
    return Carry(state, actor, parts.replay.init(replay_key), env_state, timestep)


def warm_up(
    parts: Parts, carry: Carry, first: chex.Numeric, num_ticks: chex.Numeric
) -> tuple[Carry, Timestep]:
    """Ticks `first` to `first + num_ticks` without learning, one program for every length.

    Returns the carry after them and their timesteps, frames left out, `[max_ticks, E]`.
    """
    return play(parts, carry, _nothing_seen(parts), first, 0, num_ticks)


def act_and_learn(
    parts: Parts, carry: Carry, first: chex.Numeric, num_ticks: chex.Numeric
) -> tuple[Carry, Timestep, dict]:
    """Ticks with a call of `learn` after each `clock.ticks_per_call`, and its last metrics."""
    stride = clock.ticks_per_call(parts.config)

    def body(call: chex.Numeric, loop: tuple[Carry, Timestep, Any]) -> tuple[Carry, Timestep, Any]:
        carry, seen, _ = loop
        # A loop of a length that XLA does not know: after an `add` that it can see, it would write
        # rows once more where they are read, and copy whole arrays for that.
        start = call * stride
        stop = jnp.minimum(start + stride, num_ticks)
        carry, seen = play(parts, carry, seen, first, start, stop)
        tick = first + start + stride - 1
        state, replay_state, learned = parts.agent.learn(carry.state, carry.replay_state, tick)
        return carry._replace(state=state, replay_state=replay_state), seen, learned

    shapes = jax.eval_shape(parts.agent.learn, carry.state, carry.replay_state, first)[2]
    learned = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    before = (carry, _nothing_seen(parts), learned)
    return jax.lax.fori_loop(0, num_ticks // stride, body, before)


def play(
    parts: Parts,
    carry: Carry,
    seen: Timestep,
    first: chex.Numeric,
    start: chex.Numeric,
    stop: chex.Numeric,
) -> tuple[Carry, Timestep]:
    """Ticks `start` to `stop`, counted from `first`: act, add, step."""
    state, *rest = carry

    def body(i: chex.Numeric, played: Played) -> Played:
        actor, replay_state, env_state, timestep, seen = played
        tick = first + i
        action, actor = parts.agent.act(state, actor, timestep, tick)
        replay_state = parts.replay.add(replay_state, timestep, action, tick)
        env_state, following = parts.env.step(env_state, action, tick)
        now = timestep._replace(frame=None)
        seen = jax.tree.map(lambda all_ticks, one: all_ticks.at[i].set(one), seen, now)
        return actor, replay_state, env_state, following, seen

    *rest, seen = jax.lax.fori_loop(start, stop, body, (*rest, seen))
    return Carry(state, *rest), seen


def _nothing_seen(parts: Parts) -> Timestep:
    """Room for the timesteps of one call, frames left out, `[max_ticks, E]`."""
    shape = (parts.max_ticks, parts.config.env.num_envs)
    no = jnp.zeros(shape, bool)
    return Timestep(None, jnp.zeros(shape, jnp.float32), no, no, no)


def start(parts: Parts) -> list[Carry]:
    """Before the first tick: a carry for each seed, or one for all where they are stacked."""
    fields = parts.config.train
    first = jax.jit(functools.partial(init, parts))
    seeds = np.arange(fields.seed, fields.seed + fields.num_seeds)
    if _stacked(parts.config):
        return [jax.vmap(first)(seeds)]
    return [first(seed) for seed in seeds]


def _stacked(config: Config) -> bool:
    """Whether all seeds are one carry: on an accelerator."""
    return not kernels.on_cpu() and config.train.num_seeds > 1


def turns(parts: Parts, carries: list[Carry]) -> Generator[Turn]:
    """One turn a call of the compiled loop, of all seeds."""
    config = parts.config
    stacked = _stacked(config)
    play_only = _compile(functools.partial(warm_up, parts), stacked)
    play_and_learn = _compile(functools.partial(act_and_learn, parts), stacked)
    hold_out = learning.held_out(parts.replay)
    hold_out = jax.vmap(hold_out) if stacked else hold_out

    def each(trees: list[Any]) -> list[Any]:
        """One tree for each seed."""
        if not stacked:
            return trees
        return [jax.tree.map(lambda x, i=i: x[i], trees[0]) for i in range(config.train.num_seeds)]

    learned: list[Any] = [{}] * config.train.num_seeds
    # XLA leaves small matrices to one core: seeds share the cores from threads of their own.
    with concurrent.futures.ThreadPoolExecutor(envs.usable_cores()) as pool:
        for tick, num_ticks, learns in chunks(config):
            starts = tick == clock.first_learning_tick(config)
            held_out = each([hold_out(c.replay_state) for c in carries]) if starts else []
            program = play_and_learn if learns else play_only
            call = functools.partial(_call, program, tick, num_ticks)
            results = list(pool.map(call, carries))
            carries = [result[0] for result in results]
            if learns:
                learned = each([result[2] for result in results])
            seen = each(jax.device_get([result[1] for result in results]))
            timesteps = [
                [jax.tree.map(lambda x, i=i: x[i], one) for one in seen] for i in range(num_ticks)
            ]
            states = each([carry.state for carry in carries])
            yield Turn(tick, timesteps, carries, states, learned, held_out)


def _call(program: Any, tick: int, num_ticks: int, carry: Carry) -> Any:
    """Waits for the result: dispatched without waiting, programs would queue for one thread."""
    return jax.block_until_ready(program(carry, tick, num_ticks))


def _compile(function: Any, stacked: bool) -> Any:
    """Jits a part of the loop over a donated carry, vmapped over seeds where they are stacked."""
    if stacked:
        function = jax.vmap(function, in_axes=(0, None, None))
    return kernels.jit_learning(function, 0)


def chunk_ticks(config: Config) -> int:
    """Ticks of one call: a log period, in whole learn calls."""
    stride = clock.ticks_per_call(config)
    return max(config.train.log_period_steps // config.env.num_envs // stride, 1) * stride


def chunks(config: Config) -> Iterator[tuple[int, int, bool]]:
    """The calls of a run: first tick, number of ticks, whether they learn.

    They end at multiples of `chunk_ticks`, and where learning starts.
    """
    stride = clock.ticks_per_call(config)
    length = chunk_ticks(config)
    total = clock.num_ticks(config)
    first = clock.first_learning_tick(config)
    tick = 0
    while tick < total:
        learns = tick >= first and total - tick >= stride
        until = min(tick // length * length + length, total)
        if learns:
            until = tick + (until - tick) // stride * stride
        elif tick < first:
            until = min(until, first)
        yield tick, until - tick, learns
        tick = until
