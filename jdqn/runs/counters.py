"""The counters of a run: a plain pytree, all that a run knows beside its agents and replays."""

from collections.abc import Sequence
from typing import NamedTuple

from jdqn import clock
from jdqn.config import Config
from jdqn.records import Timestep
from jdqn.runs import episodes
from jdqn.runs.episodes import Episode, Episodes

NOT_REACHED = -1


class Counters(NamedTuple):
    """Steps are agent steps of one seed."""

    steps: int  # counted
    updates: int
    reported_steps: int  # up to here all that was due has been done
    logged_steps: int  # at the last log event
    evaluated_steps: int  # at the last evaluation
    episodes: tuple[Episodes, ...]  # by seed
    reached_steps: tuple[int, ...]  # by seed, where `stop_return` was reached; or NOT_REACHED


def start(config: Config) -> Counters:
    """Before the first tick."""
    num_seeds = config.train.num_seeds
    return Counters(
        steps=0,
        updates=0,
        reported_steps=0,
        logged_steps=0,
        evaluated_steps=0,
        episodes=tuple(episodes.start(config.env.num_envs) for _ in range(num_seeds)),
        reached_steps=(NOT_REACHED,) * num_seeds,
    )


def count(
    config: Config, counters: Counters, tick: int, timesteps: Sequence[Timestep]
) -> tuple[Counters, list[list[Episode]]]:
    """Counts one tick, a timestep for each seed; returns the episodes that ended, by seed."""
    steps = int(clock.steps_at(config, tick))
    target = config.train.stop_return
    updates = clock.updates_per_call(config) if clock.learns_at(config, tick) else 0
    tracked = [
        episodes.track(before, timestep)
        for before, timestep in zip(counters.episodes, timesteps, strict=True)
    ]
    reached_steps = tuple(
        steps if before == NOT_REACHED and ended and episodes.has_reached(after, target) else before
        for before, (after, ended) in zip(counters.reached_steps, tracked, strict=True)
    )
    counters = counters._replace(
        steps=steps,
        updates=counters.updates + updates,
        episodes=tuple(after for after, _ in tracked),
        reached_steps=reached_steps,
    )
    return counters, [ended for _, ended in tracked]
