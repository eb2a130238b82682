"""The fused loop: environments inside JAX, so that one program acts, steps, stores and learns.

The same `act`, `add`, `learn` as the host loop, in the same order, inside one compiled loop. Two
programs are compiled, one for the warm-up and one for training. On an accelerator seeds are
mapped with `vmap`. On a CPU each seed keeps its own buffers and one program is called for each from
a pool of threads, one a core: exact, without copies.
"""

import concurrent.futures
import functools
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jdqn import clock, devices, envs, kernels, learning, networks
from jdqn.config import Config
from jdqn.envs.jax_native import JaxEnv, JaxEnvState
from jdqn.loops.shared import Begun, Carry, Turn, build, restore, shardings
from jdqn.records import Timestep
from jdqn.replay import Replay, ReplayState
from jdqn.runs import stopping
from jdqn.runs.checkpoint import Position
from jdqn.runs.resume import Resumed
from jdqn.runs.start_from import Start, with_parameters

# Of a carry what a tick changes, and the timesteps seen.
Played = tuple[learning.ActorState, ReplayState, JaxEnvState, Timestep, Timestep]


class Parts(NamedTuple):
    """What is static about the loop; the parts know nothing of it."""

    config: Config
    env: JaxEnv
    replay: Replay
    agent: learning.Agent
    max_ticks: int  # the most ticks of one call


def init(parts: Parts, seed: chex.Numeric) -> Carry:
    """Before the first tick."""
    agent_key, replay_key = jax.random.split(jax.random.key(seed))
    state, actor = parts.agent.init(agent_key)
    env_state, timestep = parts.env.init(envs.env_key(seed), envs.world_key(seed))
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
    """Ticks with a call of `learn` after each `clock.ticks_per_call`, and its last metrics.

    They end where a call is due; they may begin between two of them.
    """
    stride = clock.ticks_per_call(parts.config)
    before = first % stride

    def body(call: chex.Numeric, loop: tuple[Carry, Timestep, Any]) -> tuple[Carry, Timestep, Any]:
        carry, seen, _ = loop
        # A loop of a length that XLA does not know: after an `add` that it can see, it would write
        # rows once more where they are read, and copy whole arrays for that.
        start = jnp.maximum(call * stride - before, 0)
        stop = jnp.minimum((call + 1) * stride - before, num_ticks)
        carry, seen = play(parts, carry, seen, first, start, stop)
        tick = first + (call + 1) * stride - before - 1
        state, replay_state, learned = parts.agent.learn(carry.state, carry.replay_state, tick)
        return carry._replace(state=state, replay_state=replay_state), seen, learned

    shapes = jax.eval_shape(parts.agent.learn, carry.state, carry.replay_state, first)[2]
    learned = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    loop = (carry, _nothing_seen(parts), learned)
    return jax.lax.fori_loop(0, (before + num_ticks) // stride, body, loop)


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
        replay_state = _in_row_order(replay_state)
        env_state, following = parts.env.step(env_state, action, tick)
        now = timestep._replace(frame=_is_finite(timestep.frame))
        seen = jax.tree.map(lambda all_ticks, one: all_ticks.at[i].set(one), seen, now)
        return actor, replay_state, env_state, following, seen

    *rest, seen = jax.lax.fori_loop(start, stop, body, (*rest, seen))
    return Carry(state, *rest), seen


def _in_row_order(state: ReplayState) -> ReplayState:
    """The same, its frames laid out as they are drawn."""
    rows = state.rows
    return state.replace(rows=rows.replace(frame=kernels.in_row_order(rows.frame)))


def _is_finite(frame: chex.Array) -> chex.Array | None:
    """Of each environment, `[E]`; None: frames are bytes."""
    if not jnp.issubdtype(frame.dtype, jnp.floating):
        return None
    return jnp.all(jnp.isfinite(frame), axis=tuple(range(1, frame.ndim)))


def _nothing_seen(parts: Parts) -> Timestep:
    """Room for the timesteps of one call, in place of frames whether they are finite, `[n, E]`."""
    shape = (parts.max_ticks, parts.config.env.num_envs)
    no = jnp.zeros(shape, bool)
    of_floats = np.issubdtype(parts.env.spec.frame_dtype, np.floating)
    return Timestep(no if of_floats else None, jnp.zeros(shape, jnp.float32), no, no, no)


def begin(
    config: Config, resumed: Resumed | None, started: Start | None, stop: stopping.Stop
) -> Begun:
    """Makes or brings back what a run needs.

    Raises:
      ConfigError: parts that do not go together, or a checkpoint that does not fit.
      Interrupted: a stop was asked for.
    """
    env = envs.make_native_env(config, num_envs=config.env.num_envs)
    replay, agent = build(config, env.spec)
    parts = Parts(config, env, replay, agent, chunk_ticks(config))
    torso = networks.says_torso(config.network, env.spec.frame_shape)
    carries = start(parts, stop)
    if resumed is None:
        carries = with_parameters(started, carries, config.train.num_seeds)
        return Begun(replay, agent, functools.partial(turns, parts, carries), said=torso)
    like = jax.eval_shape(functools.partial(init, parts), np.int64(0))
    restored = restore(resumed, replay, agent, carries, like)
    carries = restored.carries
    said = ["the environments go on exactly where they were"]
    if not resumed.found.manifest["rows"]:
        carries = _in_new_episodes(parts, carries, resumed.found.manifest["tick"])
        said = ["the environments start new episodes"]
    loop = functools.partial(turns, parts, carries, learned=restored.learned)
    return Begun(replay, agent, loop, restored.held_out, [*torso, *said])


def start(parts: Parts, stop: stopping.Stop | None = None) -> list[Carry]:
    """Before the first tick: a carry for each seed, or one for all where they are stacked."""
    fields = parts.config.train
    out = devices.out(shardings(parts.config))
    first = jax.jit(functools.partial(init, parts), **out)
    seeds = np.arange(fields.seed, fields.seed + fields.num_seeds)
    if _stacked(parts.config):
        return [stopping.Compiled(jax.jit(jax.vmap(first)), stop)(seeds)]
    begun = stopping.Compiled(first, stop)
    return [begun(seed) for seed in seeds]


def _in_new_episodes(parts: Parts, carries: list[Carry], tick: int) -> list[Carry]:
    """Environments start anew: without the replay a stack would reach beyond its first row."""

    def begin(seed: chex.Numeric) -> tuple[JaxEnvState, Timestep]:
        key = jax.random.fold_in(envs.env_key(seed), tick)
        return parts.env.init(key, envs.world_key(seed))

    fields = parts.config.train
    seeds = np.arange(fields.seed, fields.seed + fields.num_seeds)
    if _stacked(parts.config):
        begun = [jax.jit(jax.vmap(begin))(seeds)]
    else:
        lie = shardings(parts.config)
        out = devices.out(lie.env_state, lie.timestep)
        begun = [jax.jit(begin, **out)(seed) for seed in seeds]
    return [
        carry._replace(env_state=env_state, timestep=timestep)
        for carry, (env_state, timestep) in zip(carries, begun, strict=True)
    ]


def _stacked(config: Config) -> bool:
    """Whether all seeds are one carry: on an accelerator."""
    return not kernels.on_cpu() and config.train.num_seeds > 1


class Programs(NamedTuple):
    """What a call runs, compiled."""

    play_only: Any
    play_and_learn: Any
    hold_out: Any
    refresh: Any


def compile_all(parts: Parts, carry: Carry, stop: stopping.Stop) -> Programs:
    """Compiles everything before the first tick, while there is nothing to lose.

    Raises:
      Interrupted: a stop was asked for.
    """
    stacked = _stacked(parts.config)
    hold_out = learning.held_out(parts.replay)
    hold_out = jax.jit(jax.vmap(hold_out)) if stacked else hold_out
    refresh = parts.replay.refresh
    refresh = jax.vmap(refresh, in_axes=(0, None)) if stacked else refresh

    def compiled(function: Any, *arguments: Any) -> Any:
        return stopping.compiled(stop, function, *arguments)

    return Programs(
        play_only=compiled(_jit(warm_up, parts, stacked, 1), carry, 0, 0),
        play_and_learn=compiled(_jit(act_and_learn, parts, stacked, 2), carry, 0, 0),
        hold_out=compiled(hold_out, carry.replay_state),
        refresh=jax.jit(refresh, donate_argnums=0),
    )


def turns(
    parts: Parts,
    carries: list[Carry],
    *,
    stop: stopping.Stop,
    learned: Sequence[Any] = (),
    first_tick: int = 0,
    empty_steps: int = 0,
) -> Generator[Turn]:
    """One turn a call of the compiled loop, of all seeds, after one of none.

    `empty_steps` as for `clock.learns_at`; `learned` are each seed's metrics of its last call of
    `learn`.

    Raises:
      EnvError: a reward or an observation is not finite.
      Interrupted: a stop was asked for while the programs were compiled.
    """
    config = parts.config
    programs = compile_all(parts, carries[0], stop)
    learned = list(learned) or [{}] * config.train.num_seeds
    each = functools.partial(_each, config)

    def turn(tick: int, timesteps: list, held_out: list) -> Turn:
        position = Position(tick + len(timesteps), carries, _nothing, learned)
        states = devices.local(each([carry.state for carry in carries]))
        return Turn(tick, timesteps, position, states, *devices.local((learned, held_out)))

    yield turn(first_tick, [], [])
    # XLA leaves small matrices to one core: seeds share the cores from threads of their own.
    with concurrent.futures.ThreadPoolExecutor(envs.usable_cores()) as pool:
        for tick, num_ticks, learns in chunks(config, first_tick, empty_steps):
            held_out = []
            if tick == clock.first_learning_tick(config, empty_steps):
                held_out = each([programs.hold_out(c.replay_state) for c in carries])
                if empty_steps:  # as in the host loop
                    carries = [_refreshed(programs, carry, tick - 1) for carry in carries]
            program = programs.play_and_learn if learns else programs.play_only
            call = functools.partial(_call, program, tick, num_ticks)
            results = list(pool.map(call, carries))
            carries = [result[0] for result in results]
            if learns:
                learned = each([result[2] for result in results])
            seen = each(jax.device_get([result[1] for result in results]))
            _check_finite(config, tick, num_ticks, seen)
            _check_finite(config, tick + num_ticks, 1, _following(carries))
            timesteps = [
                [jax.tree.map(lambda x, i=i: x[i], one) for one in seen] for i in range(num_ticks)
            ]
            yield turn(tick, timesteps, held_out)


def _each(config: Config, trees: list[Any]) -> list[Any]:
    """One tree for each seed."""
    if not _stacked(config):
        return trees
    return [jax.tree.map(lambda x, i=i: x[i], trees[0]) for i in range(config.train.num_seeds)]


def _refreshed(programs: Programs, carry: Carry, tick: int) -> Carry:
    """A carry whose rank-based priorities are sorted."""
    return carry._replace(replay_state=programs.refresh(carry.replay_state, tick))


def _following(carries: list[Carry]) -> list[Timestep]:
    """What is acted on next, in the form of what has been seen: it will be saved."""
    timesteps = []
    for carry in carries:
        timestep: Any = carry.timestep
        finite = _is_finite(timestep.frame)
        some = timestep._replace(frame=None if finite is None else finite[None])
        some = some._replace(reward=some.reward[None])
        timesteps.append(jax.device_get(devices.gathered(some)))
    return timesteps


def _check_finite(config: Config, tick: int, num_ticks: int, seen: list[Timestep]) -> None:
    """Raises EnvError where a reward or an observation of some ticks is not finite."""
    for timestep in seen:
        for what, values in (("reward", timestep.reward), ("observation", timestep.frame)):
            if values is None:
                continue
            finite = np.isfinite(values) if what == "reward" else values
            bad = np.argwhere(~finite[:num_ticks])
            if len(bad):
                steps = clock.steps_at(config, tick + int(bad[0, 0]))
                raise envs.EnvError(
                    f'environment "{config.env.name}": its {what} is not finite at step {steps:,}'
                )


def _nothing() -> None:
    """The environment is in the carry."""


def _call(program: Any, tick: int, num_ticks: int, carry: Carry) -> Any:
    """Waits for the result: dispatched without waiting, programs would queue for one thread."""
    return jax.block_until_ready(program(carry, tick, num_ticks))


def _jit(function: Any, parts: Parts, stacked: bool, num_results: int) -> Any:
    """Jits a function over a donated carry, vmapped over seeds where they are stacked.

    It returns a carry and so many results, which are the same on all devices.
    """
    function = functools.partial(function, parts)
    if stacked:
        function = jax.vmap(function, in_axes=(0, None, None))
    lie = shardings(parts.config)
    return kernels.jit_learning(function, 0, **devices.out(lie, *[lie.state] * num_results))


def chunk_ticks(config: Config) -> int:
    """The most ticks of one call: those of the shortest period, or of the whole run."""
    return min(clock.next_due_tick(config, 0), clock.num_ticks(config))


def chunks(
    config: Config, first_tick: int = 0, empty_steps: int = 0
) -> Iterator[tuple[int, int, bool]]:
    """The calls of a run from a tick on: first tick, number of ticks, whether they learn.

    They end where something is due, where learning starts, and where `learn` is called.
    """
    stride = clock.ticks_per_call(config)
    total = clock.num_ticks(config)
    first = clock.first_learning_tick(config, empty_steps)
    tick = first_tick
    while tick < total:
        until = min(clock.next_due_tick(config, tick), total)
        learns = False
        if tick < first:
            until = min(until, first)
        elif until // stride * stride > tick:
            until = until // stride * stride
            learns = True
        yield tick, until - tick, learns
        tick = until
