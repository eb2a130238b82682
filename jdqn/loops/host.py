"""The host loop, for any environment behind the vector protocol."""

import contextlib
import functools
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import numpy as np

from jdqn import clock, devices, envs, kernels, learning, networks
from jdqn.config import Config, RunError
from jdqn.loops.shared import Begun, Carry, Turn, build, restore, shardings
from jdqn.records import Timestep
from jdqn.replay import Replay
from jdqn.runs import shared_env, stopping
from jdqn.runs.checkpoint import Position
from jdqn.runs.evaluation import MakeEnv
from jdqn.runs.parts import Arrays
from jdqn.runs.resume import Resumed
from jdqn.runs.start_from import Start, with_parameters


class Programs(NamedTuple):
    """What a tick calls, compiled."""

    act: Any
    add: Any
    learn: Any
    hold_out: Any
    refresh: Any


def begin(
    make_env: MakeEnv,
    stack: contextlib.ExitStack,
    config: Config,
    resumed: Resumed | None,
    started: Start | None,
    stop: stopping.Stop,
) -> Begun:
    """Makes or brings back what a run needs; `stack` closes the environment.

    Raises:
      ConfigError: parts that do not go together, or a checkpoint that does not fit.
      RunError: the environment cannot be started.
      Interrupted: a stop was asked for.
    """

    def made(**keywords: int) -> Any:
        env = shared_env.make(make_env, config, **keywords)
        return stack.enter_context(contextlib.closing(env))

    env = made()
    replay, agent = build(config, env.spec)
    # What a user's own `make_env` makes is not cut.
    limit = envs.says_no_limit(config) if make_env is envs.make_env else None
    torso = networks.says_torso(config.network, env.spec.frame_shape)
    said = [*([limit] if limit else []), *env.said, *torso]
    if resumed is None:
        carry = start(config, replay, agent, _first_timestep(env), stop)
        (carry,) = with_parameters(started, [carry], num_seeds=1)
        loop = functools.partial(turns, config, env, replay, agent, carry)
        return Begun(replay, agent, loop, said=said)
    empty = start(config, replay, agent, None, stop)
    like = jax.eval_shape(lambda carry: carry, empty._replace(timestep=_no_timestep(config, env)))
    restored = restore(resumed, replay, agent, [empty], like)
    (carry,) = restored.carries
    carry = carry._replace(timestep=jax.device_get(carry.timestep))
    how = "the environments go on exactly where they were"
    manifest = resumed.found.manifest
    # Without the replay the frames before are lost: a stack would reach beyond its first row.
    if not manifest["rows"] or not _is_back(env, restored.environment, carry.timestep):
        env.close()
        tick = manifest["tick"]
        env = made(seed=_seed_at(config, tick)) if tick else made()
        replay_state = carry.replay_state
        if tick:
            out = devices.out(shardings(config).replay_state)
            seal = jax.jit(replay.seal, donate_argnums=0, **out)
            replay_state = seal(replay_state, tick - 1)
        carry = carry._replace(replay_state=replay_state, timestep=_first_timestep(env))
        how = "the environments cannot be brought back: they start new episodes"
    learned = restored.learned[0] if restored.learned else {}
    loop = functools.partial(turns, config, env, replay, agent, carry, learned=learned)
    return Begun(replay, agent, loop, restored.held_out, [*said, how])


def _is_back(env: envs.VectorEnv, saved: Arrays | None, timestep: Timestep) -> bool:
    """Whether an environment could be brought back exactly to where it was."""
    try:
        return saved is not None and env.restore(saved, timestep)
    except envs.EnvError:
        return False


def start(
    config: Config,
    replay: Replay,
    agent: learning.Agent,
    timestep: Any,
    stop: stopping.Stop | None = None,
) -> Carry:
    """Before the first tick; `timestep` is what the environment shows."""
    agent_key, replay_key = jax.random.split(jax.random.key(config.train.seed))
    lie = shardings(config)
    init_agent = jax.jit(agent.init, **devices.out(lie.state, lie.actor))
    state, actor = stopping.Compiled(init_agent, stop)(agent_key)
    init_replay = jax.jit(replay.init, **devices.out(lie.replay_state))
    replay_state = stopping.Compiled(init_replay, stop)(replay_key)
    return Carry(state, actor, replay_state, None, timestep)


def _no_timestep(config: Config, env: envs.VectorEnv) -> Timestep:
    """A timestep in form."""
    num_envs = config.env.num_envs
    no = np.zeros(num_envs, bool)
    frame = np.zeros((num_envs, *env.spec.frame_shape), env.spec.frame_dtype)
    return Timestep(frame, no.astype(np.float32), no, no, no)


def _first_timestep(env: envs.VectorEnv) -> Timestep:
    """Starts the environments. Raises RunError."""
    try:
        return env.reset()
    except envs.EnvError as error:
        raise RunError(f"{error}, before the first step") from error


def _seed_at(config: Config, tick: int) -> int:
    """Of environments that start anew at a tick: not the games of the start once more."""
    return int(np.random.SeedSequence([config.train.seed, tick]).generate_state(1)[0] >> 2)


def compile_all(
    config: Config, replay: Replay, agent: learning.Agent, carry: Carry, stop: stopping.Stop
) -> Programs:
    """Compiles everything before the first tick, while there is nothing to lose.

    Raises:
      Interrupted: a stop was asked for.
    """
    state, actor, replay_state, _, timestep = carry
    lie = shardings(config)

    def abstract(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lie.timestep), tree
        )

    timestep = abstract(timestep)
    action = abstract(jax.eval_shape(agent.act, state, actor, timestep, 0)[0])
    act = jax.jit(agent.act, donate_argnums=1, **devices.out(lie.timestep, lie.actor))
    learned = devices.out(lie.state, lie.replay_state, lie.state)
    learn = kernels.jit_learning(agent.learn, (0, 1), **learned)

    def compiled(function: Any, *arguments: Any) -> Any:
        return stopping.compiled(stop, function, *arguments)

    return Programs(
        act=compiled(act, state, actor, timestep, 0),
        add=compiled(jax.jit(replay.add, donate_argnums=0), replay_state, timestep, action, 0),
        learn=compiled(learn, state, replay_state, 0),
        hold_out=compiled(learning.held_out(replay), replay_state),
        refresh=jax.jit(replay.refresh, donate_argnums=0),
    )


def turns(
    config: Config,
    env: envs.VectorEnv,
    replay: Replay,
    agent: learning.Agent,
    carry: Carry,
    *,
    stop: stopping.Stop,
    learned: Any = (),
    first_tick: int = 0,
    empty_steps: int = 0,
) -> Generator[Turn]:
    """One turn a tick, after one of none; `empty_steps` as for `clock.learns_at`.

    `learned` are the metrics of the last call of `learn`.

    Raises:
      Interrupted: a stop was asked for while the programs were compiled.
    """
    programs = compile_all(config, replay, agent, carry, stop)
    state, actor, replay_state, _, timestep = carry
    put = functools.partial(devices.put, sharding=shardings(config).timestep)
    learned = dict(learned)
    first_learning_tick = clock.first_learning_tick(config, empty_steps)

    def turn(tick: int, seen: list, held_out: list, failure: str = "") -> Turn:
        after = Carry(state, actor, replay_state, None, None if failure else timestep)
        saved = _nothing if failure else functools.partial(_saved, env)
        position = Position(tick + len(seen), [after], saved, [learned])
        states, metrics, held_out = devices.local(([state], [learned], held_out))
        return Turn(tick, seen, position, states, metrics, held_out, failure)

    yield turn(first_tick, [], [])
    for tick in range(first_tick, clock.num_ticks(config)):
        held_out = []
        if tick == first_learning_tick:
            held_out = [programs.hold_out(replay_state)]
            if empty_steps:  # `learn` sorts before the first update of all, not before this one
                replay_state = programs.refresh(replay_state, tick - 1)
        on_device = put(timestep)
        action, actor = programs.act(state, actor, on_device, tick)
        try:
            env.send(devices.own(action))  # the emulators now run on host threads ...
        except envs.EnvError as error:
            yield turn(tick, [], held_out, str(error))
            return
        replay_state = programs.add(replay_state, on_device, action, tick)
        if clock.learns_at(config, tick, empty_steps):  # ... while the device works beside them
            state, replay_state, learned = programs.learn(state, replay_state, tick)
        seen = timestep
        failure = ""
        try:
            timestep = env.recv()
        except envs.EnvError as error:
            failure = str(error)
        yield turn(tick, [[seen]], held_out, failure)
        if failure:
            return


def _saved(env: envs.VectorEnv) -> Arrays | None:
    """What brings an environment back; None: nothing does."""
    try:
        return env.save()
    except envs.EnvError:
        return None


def _nothing() -> None:
    """An environment that failed cannot be brought back."""
