"""The fused loop: environments inside JAX, so that one program acts, steps, stores and learns.

The same `act`, `add`, `learn` as the host loop, in the same order, inside one compiled loop. Two
programs are compiled, one for the warm-up and one for training. On an accelerator seeds are
mapped with `vmap`. On a CPU each seed keeps its own buffers and one program is called for each from
a pool of threads, one a core: exact, without copies.
"""

import concurrent.futures
import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jdqn import agent as agent_lib
from jdqn import envs, evaluate, metrics, replay
from jdqn.config import Config
from jdqn.envs.jax_native import JaxEnv, JaxEnvState
from jdqn.records import Timestep
from jdqn.run import Result, Run, check_memory, held_out, stop_signals


class Carry(NamedTuple):
    """Everything that one seed carries from tick to tick; the tick itself is common to all."""

    state: agent_lib.AgentState
    actor: agent_lib.ActorState
    replay_state: replay.ReplayState
    env_state: JaxEnvState
    timestep: Timestep


# Of a carry what a tick changes, and the timesteps seen.
Played = tuple[agent_lib.ActorState, replay.ReplayState, JaxEnvState, Timestep, Timestep]


class Loop(NamedTuple):
    """Pure functions of one seed. `num_ticks` is dynamic: one program serves every length."""

    init: Callable[[chex.Numeric], Carry]
    # (carry, first tick, number of ticks up to max_ticks) -> carry, timesteps without their frames
    # [max_ticks, E]
    warm_up: Callable[[Carry, chex.Numeric, chex.Numeric], tuple[Carry, Timestep]]
    # the same, and the metrics of the last learn call
    train: Callable[[Carry, chex.Numeric, chex.Numeric], tuple[Carry, Timestep, dict]]


def make_loop(
    cfg: Config, env: JaxEnv, agent: agent_lib.Agent, memory: replay.Replay, *, max_ticks: int
) -> Loop:
    """Builds the loop of one seed from parts that know nothing of it.

    Args:
      cfg: environments, update period.
      env: the environment.
      agent: the agent.
      memory: the replay.
      max_ticks: the most ticks of one call; a multiple of `agent.ticks_per_call`.
    """
    stride, num_envs = agent_lib.ticks_per_call(cfg), cfg.env.num_envs

    def init(seed: chex.Numeric) -> Carry:
        agent_key, replay_key = jax.random.split(jax.random.key(seed))
        state, actor = agent.init(agent_key)
        env_state, timestep = env.init(envs.env_key(seed))
        return Carry(state, actor, memory.init(replay_key), env_state, timestep)

    def nothing_seen() -> Timestep:
        no = jnp.zeros((max_ticks, num_envs), bool)
        return Timestep(None, jnp.zeros((max_ticks, num_envs), jnp.float32), no, no, no)

    def act_add_step(
        state: agent_lib.AgentState, tick: chex.Numeric, i: chex.Numeric, played: Played
    ) -> Played:
        actor, replay_state, env_state, timestep, seen = played
        action, actor = agent.act(state, actor, timestep, tick)
        replay_state = memory.add(replay_state, timestep, action, tick)
        env_state, following = env.step(env_state, action, tick)
        now = timestep._replace(frame=None)
        seen = jax.tree.map(lambda all_ticks, one: all_ticks.at[i].set(one), seen, now)
        return actor, replay_state, env_state, following, seen

    def play(
        carry: Carry, seen: Timestep, first: chex.Numeric, start: chex.Numeric, stop: chex.Numeric
    ) -> tuple[Carry, Timestep]:
        """Ticks `start` to `stop`, counted from `first`."""
        state, *rest = carry

        def body(i: chex.Numeric, played: Played) -> Played:
            return act_add_step(state, first + i, i, played)

        *rest, seen = jax.lax.fori_loop(start, stop, body, (*rest, seen))
        return Carry(state, *rest), seen

    def warm_up(
        carry: Carry, first: chex.Numeric, num_ticks: chex.Numeric
    ) -> tuple[Carry, Timestep]:
        return play(carry, nothing_seen(), first, 0, num_ticks)

    def train(
        carry: Carry, first: chex.Numeric, num_ticks: chex.Numeric
    ) -> tuple[Carry, Timestep, dict]:
        def body(
            call: chex.Numeric, loop: tuple[Carry, Timestep, Any]
        ) -> tuple[Carry, Timestep, Any]:
            carry, seen, _ = loop
            # A loop of a length that XLA does not know: after an `add` that it can see, it would
            # write rows once more where they are read, and copy whole arrays for that.
            start = call * stride
            carry, seen = play(carry, seen, first, start, jnp.minimum(start + stride, num_ticks))
            tick = first + start + stride - 1
            state, replay_state, learned = agent.learn(carry.state, carry.replay_state, tick)
            return carry._replace(state=state, replay_state=replay_state), seen, learned

        shapes = jax.eval_shape(agent.learn, carry.state, carry.replay_state, first)[2]
        learned = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, num_ticks // stride, body, (carry, nothing_seen(), learned))

    return Loop(init, warm_up, train)


def train(cfg: Config, *, run_dir: str | pathlib.Path | None = None, command: str = "") -> Result:
    """Trains `train.num_seeds` seeds in a JAX-native environment and writes a run directory.

    Args:
      cfg: everything the run depends on.
      run_dir: where to write; default `runs/ENV-AGENT-SEED-TIME`. Must be new or empty.
      command: recorded in `config.toml`.

    Returns:
      Where the run lies and how it ended.

    Raises:
      ConfigError: before anything is written.
    """
    metrics.check_run_dir(run_dir)
    num_seeds = cfg.train.num_seeds
    env = envs.make_native_env(cfg, num_envs=cfg.env.num_envs)
    memory = replay.make_replay(cfg, env.spec)
    check_memory(cfg, memory)
    agent = agent_lib.make_agent(cfg, env.spec, memory)
    loop = make_loop(cfg, env, agent, memory, max_ticks=chunk_ticks(cfg))
    seeds = np.arange(cfg.train.seed, cfg.train.seed + num_seeds)
    stacked = jax.default_backend() != "cpu" and num_seeds > 1
    init = jax.jit(loop.init)
    groups = [jax.vmap(init)(seeds)] if stacked else [init(seed) for seed in seeds]
    warm_up, learn = _compile(loop.warm_up, stacked), _compile(loop.train, stacked)

    hold_out = jax.vmap(held_out(memory)) if stacked else held_out(memory)

    def each(trees: list[Any]) -> list[Any]:
        """One tree for each seed."""
        if not stacked:
            return trees
        return [jax.tree.map(lambda x, i=i: x[i], trees[0]) for i in range(num_seeds)]

    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(stop_signals())
        evaluator = evaluate.make_evaluator(cfg, agent)
        run = stack.enter_context(
            contextlib.closing(Run(cfg, run_dir, evaluator, agent, memory, command))
        )
        # XLA leaves small matrices to one core: seeds share the cores from threads of their own.
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(envs.usable_cores()))
        learned: list[Any] = [{}] * num_seeds
        for tick, num_ticks, learns in chunks(cfg):
            if tick == agent_lib.first_learning_tick(cfg):
                run.held_out = each([hold_out(carry.replay_state) for carry in groups])
            call = functools.partial(_call, learn if learns else warm_up, tick, num_ticks)
            results = list(pool.map(call, groups))
            groups = [result[0] for result in results]
            if learns:
                learned = each([result[2] for result in results])
            seen = each(jax.device_get([result[1] for result in results]))
            for i in range(num_ticks):
                run.book(tick + i, [jax.tree.map(lambda x, i=i: x[i], one) for one in seen])
            states = each([carry.state for carry in groups])
            if run.look(states, learned) or stopped:
                break
        return run.finish(states, learned, stopped_by=stopped[0] if stopped else 0)


def _call(program: Any, tick: int, num_ticks: int, carry: Carry) -> Any:
    """Waits for the result: dispatched without waiting, programs would queue for one thread."""
    return jax.block_until_ready(program(carry, tick, num_ticks))


def _compile(function: Any, stacked: bool) -> Any:
    """Jits a part of the loop over a donated carry, vmapped over seeds where they are stacked."""
    if stacked:
        function = jax.vmap(function, in_axes=(0, None, None))
    return agent_lib.jit_learning(function, 0)


def chunk_ticks(cfg: Config) -> int:
    """Ticks of one call: a log period, in whole learn calls."""
    stride = agent_lib.ticks_per_call(cfg)
    return max(cfg.train.log_period_steps // cfg.env.num_envs // stride, 1) * stride


def chunks(cfg: Config) -> Iterator[tuple[int, int, bool]]:
    """The calls of a run: first tick, number of ticks, whether they learn.

    They end at multiples of `chunk_ticks`, and where learning starts.
    """
    stride, length = agent_lib.ticks_per_call(cfg), chunk_ticks(cfg)
    total, first = math.ceil(cfg.train.steps / cfg.env.num_envs), agent_lib.first_learning_tick(cfg)
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
