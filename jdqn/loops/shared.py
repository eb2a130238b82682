"""What both loops share: what they carry, how a run is driven, and how it ends."""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import psutil

from jdqn import kernels, learning
from jdqn.config import Config, ConfigError
from jdqn.records import EnvSpec, Timestep
from jdqn.replay import Replay, ReplayState, make_replay
from jdqn.runs.run import Learned, Result, Run, States


class Carry(NamedTuple):
    """All that one seed carries from tick to tick; the tick itself is common to all seeds."""

    state: learning.AgentState
    actor: learning.ActorState
    replay_state: ReplayState
    env_state: Any  # of an environment in JAX; None on the host, where it is the environment's own
    timestep: Timestep  # to act on next


class Turn(NamedTuple):
    """What a loop has done since its last turn: a tick, or several."""

    first_tick: int
    timesteps: Sequence[Sequence[Timestep]]  # [ticks][seeds], what was acted on
    carries: Sequence[Carry]  # after the last of these ticks: from here a loop can go on
    states: States  # of each seed, in `carries`
    learned: Learned  # of each seed, metrics of its last call of `learn`
    held_out: Sequence[jax.Array]  # of each seed, in the turn in which learning starts; else ()


def build(config: Config, spec: EnvSpec) -> tuple[Replay, learning.Agent]:
    """The replay and the agent of a run.

    Raises:
      ConfigError: parts that do not go together, or a replay that does not fit.
    """
    replay = make_replay(config, spec)
    check_memory(config, replay)
    return replay, learning.make_agent(config, spec, replay)


def drive(run: Run, turns: Iterator[Turn], stopped: list[int]) -> Result:
    """Takes turns of a loop until it ends, a signal came, or every seed has reached its goal.

    `turns` has at least one; `stopped` are the signals received so far, see `stop_signals`.
    """
    for turn in turns:
        for i, timesteps in enumerate(turn.timesteps):
            run.count(turn.first_tick + i, timesteps)
        if turn.held_out:
            run.held_out = turn.held_out
        if run.report(turn.states, turn.learned) or stopped:
            break
    return run.finish(turn.states, turn.learned, stopped_by=stopped[0] if stopped else 0)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yields a list that SIGINT and SIGTERM append to, so that the loop ends between ticks."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received:  # the second time, at once
            raise KeyboardInterrupt
        received.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, for instance in a notebook's executor
        old = {}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def check_memory(config: Config, replay: Replay) -> None:
    """Raises ConfigError where the replay cannot fit on the device."""
    device = jax.devices()[0]
    stats = device.memory_stats() if not kernels.on_cpu() else None
    if stats and "bytes_limit" in stats:
        available = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    else:
        available = psutil.virtual_memory().available
    num_bytes = replay.num_bytes * config.train.num_seeds
    if num_bytes > available:
        seeds = f" for {config.train.num_seeds} seeds" if config.train.num_seeds > 1 else ""
        raise ConfigError(
            f"replay.capacity = {config.replay.capacity}: needs {num_bytes:,} bytes{seeds}, "
            f"{available:,} are available on {device.device_kind}"
        )
