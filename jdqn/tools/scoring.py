"""What came of runs: scores at the end, who solved what, aggregates over games and seeds."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jdqn.config import ConfigError, parse_value
from jdqn.config.naming import is_atari
from jdqn.envs import gym
from jdqn.runs.scores import human_normalised
from jdqn.tools import curves, logs, statistics
from jdqn.tools.groups import PROTOCOL, Environment, Group

PROFILE_POINTS = 101


class Final(NamedTuple):
    """The scores at the end on one environment."""

    source: str  # evaluation, training
    scores: dict[str, np.ndarray]  # [seeds] by label
    threshold: float | None  # from which a seed counts as having solved it
    human: dict[str, np.ndarray] | None  # human-normalised, of Atari's full games
    ranked: list[str]  # labels by their means, the best first; those with a flaw after the others


class Estimate(NamedTuple):
    """A number and its 95% interval, NaN where there is none."""

    value: float
    low: float
    high: float


class Aggregates(NamedTuple):
    """Over games and seeds."""

    scale: str  # what the scores are, in words
    games: list[str]
    seeds: dict[str, int]  # that were used of each game, by label
    rows: dict[str, dict[str, Estimate]]  # by label and statistic
    thresholds: np.ndarray  # [T]
    profiles: dict[str, np.ndarray]  # [3, T]: value, low, high, by label
    notes: list[str]


def read_solved(text: str | None, environments: Sequence[Environment]) -> dict[str, float]:
    """Thresholds by title: those of Gymnasium's registry, and what `--solved` says.

    There an environment is called by its name: by whatever rules it is played.

    Raises:
      ConfigError: no number, or of no environment of the report.
    """
    by_name: dict[str, list[str]] = {}
    for environment in environments:
        by_name.setdefault(environment.config.env.name, []).append(environment.title)
    found: dict[str, float] = {}
    for name, titles in by_name.items():
        threshold = gym.reward_threshold(name)
        if threshold is not None:
            found |= dict.fromkeys(titles, threshold)
    names = " and ".join(by_name)
    for part in text.split(",") if text is not None else ():
        name, _, number = part.rpartition("=")
        value = parse_value(number)
        if not logs.is_number(value):
            raise ConfigError(f"--solved {text}: must be a number, or ENV=NUMBER,ENV=NUMBER")
        if name and name not in by_name:
            raise ConfigError(f"--solved {text}: no run is on {name}, only {names}")
        if not name and len(by_name) > 1:
            raise ConfigError(f"--solved {text}: the runs are on {names}; expected ENV=NUMBER")
        found |= dict.fromkeys(by_name[name or next(iter(by_name))], float(value))
    return found


def final(environment: Environment, threshold: float | None) -> Final:
    """The last evaluation of every seed; where one has none, the last 100 games of training.

    The last until `Group.steps`, so that what is compared was trained for as long.
    """
    evaluated = {group.label: _evaluated(group) for group in environment.groups}
    trained = {group.label: _trained(group) for group in environment.groups}
    complete = {label: scores for label, scores in evaluated.items() if scores is not None}
    is_evaluated = len(complete) == len(trained)
    scores = complete if is_evaluated else trained
    human: dict[str, np.ndarray] | None = None
    if human_normalised(environment.config, 0.0) is not None:
        human = {
            label: np.array([human_normalised(environment.config, float(s)) for s in values], float)
            for label, values in scores.items()
        }
    source = "evaluation" if is_evaluated else "training"
    return Final(source, scores, threshold, human, _ranked(environment, scores))


def _ranked(environment: Environment, scores: Mapping[str, np.ndarray]) -> list[str]:
    """Labels, the best first: after the others what failed with a seed, or was given up early."""
    means = {label: float(np.mean(values)) for label, values in scores.items()}

    def key(group: Group) -> tuple[bool, float]:
        mean = means[group.label]
        return bool(group.flaw), -mean if math.isfinite(mean) else math.inf

    return [group.label for group in sorted(environment.groups, key=key)]


def _evaluated(group: Group) -> np.ndarray | None:
    scores = []
    for run in group.runs:
        for seed in run.seeds:
            table = seed.evaluations.get(run.config.agent.eval_policy, np.zeros((0, 2)))
            until = table[table[:, 0] <= group.steps]
            if not len(until):
                return None
            scores.append(until[-1, 1])
    return np.array(scores)


def _trained(group: Group) -> np.ndarray:
    end = np.array([group.steps])
    return np.array([curves.recent_mean(seed.episodes, end)[0] for seed in group.seeds])


def interval(scores: np.ndarray) -> Estimate:
    """Mean and Student's 95% interval over seeds, of scores `[seeds]`."""
    mean, half = curves.interval(scores)
    return Estimate(float(mean), float(mean - half), float(mean + half))


def aggregate(environments: Sequence[Environment], finals: Sequence[Final]) -> Aggregates | str:
    """IQM, median, mean, optimality gap and performance profiles; or why there are none."""
    if why := _not_together(environments):
        return why
    labels = list(dict.fromkeys(g.label for e in environments for g in e.groups))
    shared = [i for i, f in enumerate(finals) if all(label in f.scores for label in labels)]
    if not shared:
        return "No environment has runs of every agent, so there is nothing to average over."
    if len(shared) == 1 and max(len(s) for s in finals[shared[0]].scores.values()) == 1:
        return "One seed on one environment: there is nothing to average over."
    scale, target, normalised = _normalised([finals[i] for i in shared])
    notes = []
    if len(shared) < len(environments):
        missing = [e.title for i, e in enumerate(environments) if i not in shared]
        notes.append(f"Not every agent was trained on {', '.join(missing)}, which is left out.")
    matrices = {}
    for label in labels:
        of_games = [scores[label] for scores in normalised]
        count = min(map(len, of_games))
        if any(len(scores) > count for scores in of_games):
            notes.append(f"Of {label} the first {count} seeds of each game are used.")
        matrices[label] = np.stack([scores[:count] for scores in of_games], axis=1)
    values = np.concatenate([m.ravel() for m in matrices.values()])
    thresholds = np.linspace(min(values.min(), 0.0), values.max(), PROFILE_POINTS)
    return Aggregates(
        scale=scale,
        games=[environments[i].title for i in shared],
        seeds={label: len(matrix) for label, matrix in matrices.items()},
        rows={label: _statistics(matrix, target) for label, matrix in matrices.items()},
        thresholds=thresholds,
        profiles={label: _profile(matrix, thresholds) for label, matrix in matrices.items()},
        notes=notes,
    )


def _not_together(environments: Sequence[Environment]) -> str:
    """Why scores of these environments are not to be averaged; nothing where they are."""
    names = [environment.config.env.name for environment in environments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        return f"No average over games: {', '.join(twice)} is there under different rules."
    games = [e.config.env for e in environments if is_atari(e.config.env.name)]
    other = [rule for rule in PROTOCOL if len({getattr(env, rule) for env in games}) > 1]
    if other:
        return f"No average over games: Atari games are played by different {', '.join(other)}."
    return ""


def _normalised(
    finals: Sequence[Final],
) -> tuple[str, float | None, list[Mapping[str, np.ndarray]]]:
    """What scores are made to be: words, what counts as reached, and scores by game and label."""
    human = [f.human for f in finals if f.human is not None]
    if len(human) == len(finals):
        return "human-normalised score (0 a random agent, 1 a human tester)", 1.0, [*human]
    if len(finals) == 1:
        return "score", finals[0].threshold, [finals[0].scores]
    scaled: list[Mapping[str, np.ndarray]] = []
    for final_ in finals:
        values = np.concatenate(list(final_.scores.values()))
        low = values.min()
        span = values.max() - low
        scaled.append(
            {
                label: (scores - low) / span if span else np.ones_like(scores)
                for label, scores in final_.scores.items()
            }
        )
    words = "score on the scale of this report (0 the worst run of a game, 1 the best)"
    return words, 1.0, scaled


def _statistics(scores: np.ndarray, target: float | None) -> dict[str, Estimate]:
    found = {
        "IQM": statistics.iqm,
        "median": statistics.median,
        "mean": statistics.mean,
    }
    if target is not None:
        found["optimality gap"] = functools.partial(statistics.optimality_gap, target=target)
    return {name: _estimate(statistic, scores) for name, statistic in found.items()}


def _estimate(statistic: statistics.Statistic, scores: np.ndarray) -> Estimate:
    if len(scores) == 1:  # one seed says nothing of others
        return Estimate(float(statistic(scores)), math.nan, math.nan)
    low, high = statistics.bootstrap(statistic, scores)
    return Estimate(float(statistic(scores)), float(low), float(high))


def _profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    def statistic(drawn: np.ndarray) -> np.ndarray:
        return statistics.performance_profile(drawn, thresholds)

    if len(scores) == 1:
        nothing = np.full_like(thresholds, np.nan)
        return np.stack([statistic(scores), nothing, nothing])
    return np.stack([statistic(scores), *statistics.bootstrap(statistic, scores)])
