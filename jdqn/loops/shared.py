"""What both loops share: what they carry, how a run is driven, and how it ends."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from jdqn import devices, envs, learning
from jdqn.config import Config, ConfigError, RunError
from jdqn.devices import SPLIT, WHOLE
from jdqn.envs.jax_native import JaxEnvState
from jdqn.records import EnvSpec, Timestep
from jdqn.replay import Replay, ReplayState, make_replay, shards
from jdqn.runs import checks, memory, processes, restoring, stopping
from jdqn.runs.checkpoint import Position
from jdqn.runs.restoring import Restored
from jdqn.runs.resume import Resumed
from jdqn.runs.run import Learned, Result, Run, States
from jdqn.runs.store import DamagedError


class Carry(NamedTuple):
    """All that one seed carries from tick to tick; the tick itself is common to all seeds."""

    state: learning.AgentState
    actor: learning.ActorState
    replay_state: ReplayState
    env_state: Any  # of an environment in JAX; None on the host, where it is the environment's own
    timestep: Timestep | None  # to act on next; None: the environment failed


def shardings(config: Config) -> Any:
    """A carry that says where each part of another lies; on one device None for each."""
    mesh = devices.make_mesh(config)
    specs: dict[str, Any] = dict.fromkeys(Carry._fields)
    if mesh is not None:
        split: Any = SPLIT
        specs = {
            "state": WHOLE,
            "actor": learning.ActorState(stack=split, head=split, key=WHOLE),
            "replay_state": shards.specs(config),
            "env_state": JaxEnvState(SPLIT, ended=split, length=split, key=WHOLE, drawn=WHOLE),
            "timestep": SPLIT,
        }
        specs = devices.placed(mesh, specs)
    return Carry(**specs)


class Turn(NamedTuple):
    """What a loop has done since its last turn: nothing at first, then a tick, or several."""

    first_tick: int
    timesteps: Sequence[Sequence[Timestep]]  # [ticks][seeds], what was acted on
    position: Position  # after the last of these ticks
    states: States  # of each seed
    learned: Learned  # of each seed, metrics of its last call of `learn`
    held_out: Sequence[jax.Array]  # of each seed, in the turn in which learning starts; else ()
    failure: str = ""  # of the environment, a sentence: there is no next turn


def build(config: Config, spec: EnvSpec) -> tuple[Replay, learning.Agent]:
    """The replay and the agent of a run.

    Raises:
      ConfigError: parts that do not go together, or a run that does not fit into memory.
    """
    mesh = devices.make_mesh(config)
    replay = shards.make_replay(config, spec, mesh) if mesh else make_replay(config, spec)
    checks.check(config, spec, replay)
    agent = learning.make_agent(config, spec, replay)
    memory.check_memory(config, spec, replay, agent)
    return replay, agent


class Begun(NamedTuple):
    """A loop before its first turn."""

    replay: Replay
    agent: learning.Agent
    turns: Callable[..., Generator[Turn]]  # of `stop`, `first_tick` and `empty_steps`
    held_out: Sequence[jax.Array] = ()  # of each seed, where a run goes on
    said: Sequence[str] = ()  # what is to be known of how it goes on


def restore(
    resumed: Resumed, replay: Replay, agent: learning.Agent, empty: list[Carry], like: Carry
) -> Restored:
    """What a run goes on with; `empty` are carries before the first tick, `like` one seed's.

    Raises:
      ConfigError: the checkpoint does not fit the configuration.
    """
    held_out = jax.eval_shape(learning.held_out(replay), like.replay_state)
    learned = jax.eval_shape(agent.learn, like.state, like.replay_state, 0)[2]
    try:
        number = int(resumed.config.train.num_devices)
        return restoring.restore(resumed.found, empty, like, held_out, learned, number)
    except DamagedError as error:
        raise ConfigError(f"the checkpoint does not fit the run: {error}") from None


def drive(run: Run, turns: Iterator[Turn], stop: stopping.Stop) -> Result:
    """Takes turns of a loop until it ends, a stop is asked for, or all seeds reach their goal.

    Raises:
      RunError: the run cannot go on; what could be saved has been.
    """
    try:
        for turn in turns:
            for i, timesteps in enumerate(turn.timesteps):
                run.count(turn.first_tick + i, timesteps)
            run.hold_out(turn.held_out)
            if turn.failure:
                run.fail(turn.failure, turn.states, turn.position)
            reached = run.report(turn.states, turn.learned, turn.position)
            if reached or stop.agree(turn.first_tick):
                break
        result = run.finish(turn.states, turn.learned, turn.position)
        if stop:  # one may have to leave at once, where it still compiles
            processes.leave_apart()
        return result
    except envs.EnvError as error:  # what it returned is in the replay: nothing is saved
        raise RunError(f"{error}; {run.what_is_kept()}") from error
    except stopping.Interrupted:
        raise interrupted(stop, run.what_is_kept()) from None


def interrupted(stop: stopping.Stop, kept: str) -> RunError:
    """What a run says that was stopped while it compiled; `kept` is what it leaves."""
    name = stopping.name_of(stop.reason)
    return RunError(f"stopped by {name} while compiling; {kept}", 128 + stop.reason)
