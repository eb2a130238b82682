"""The counters of a run: a plain pytree, all that a run knows beside its agents and replays."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jdqn import clock
from jdqn.config import Config
from jdqn.records import Timestep
from jdqn.runs import episodes
from jdqn.runs.episodes import Episode, Episodes, Evaluation

NOT_REACHED = -1
NO_EVALUATION = Evaluation(0, -math.inf, -math.inf, 0.0, 0.0)


class Counters(NamedTuple):
    """Steps are agent steps of one seed."""

    steps: int  # counted
    updates: int
    seconds: float  # that the run has taken
    empty_replay_steps: int  # at which the replay was last empty: 0, but for a resume without it
    reported_steps: int  # up to here all that was due has been done
    logged_steps: int  # at the last log event
    evaluated_steps: int  # at the last evaluation
    evaluation_owed: int  # 1: a stop broke off the evaluation that was due
    evaluations: tuple[Evaluation, ...]  # the last one by seed; or NO_EVALUATION
    best_return: float  # the best mean of an evaluation, over seeds; -inf before the first
    episodes: tuple[Episodes, ...]  # by seed
    reached_steps: tuple[int, ...]  # by seed, where `stop_return` was reached; or NOT_REACHED


def start(config: Config) -> Counters:
    """Before the first tick."""
    num_seeds = config.train.num_seeds
    return Counters(
        steps=0,
        updates=0,
        seconds=0.0,
        empty_replay_steps=0,
        reported_steps=0,
        logged_steps=0,
        evaluated_steps=0,
        evaluation_owed=0,
        evaluations=(NO_EVALUATION,) * num_seeds,
        best_return=-math.inf,
        episodes=tuple(episodes.start(config.env.num_envs) for _ in range(num_seeds)),
        reached_steps=(NOT_REACHED,) * num_seeds,
    )


def count(
    config: Config, counters: Counters, tick: int, timesteps: Sequence[Timestep]
) -> tuple[Counters, list[list[Episode]]]:
    """Counts one tick, a timestep for each seed; returns the episodes that ended, by seed."""
    steps = int(clock.steps_at(config, tick))
    target = config.train.stop_return
    learns = clock.learns_at(config, tick, counters.empty_replay_steps)
    updates = clock.updates_per_call(config) if learns else 0
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
