"""Episodes as they end: plain arrays, so that a checkpoint can hold those in progress."""

from typing import NamedTuple

import numpy as np

from jdqn.records import Timestep

RECENT_EPISODES = 100


class Episode(NamedTuple):
    """A finished full game, raw reward."""

    episode_return: float
    length: int  # agent steps, reset rows not counted
    env: int


class Evaluation(NamedTuple):
    """Full games, raw reward."""

    episodes: int
    return_mean: float
    return_median: float
    return_std_error: float
    length_mean: float  # agent steps


class Standing(NamedTuple):
    """How far an evaluation is."""

    finished: int  # games
    episodes: int  # games in all
    steps: int  # agent steps of all its games so far
    seconds_left: float | None  # None: not known yet
    is_bound: bool  # it takes at most so long: no game has shown how long such games are


class Episodes(NamedTuple):
    """Where the episodes of `E` environments stand, and the last ones that ended."""

    episode_return: np.ndarray  # [E] f64, raw reward so far
    length: np.ndarray  # [E] i64, agent steps so far
    recent_returns: np.ndarray  # [RECENT_EPISODES] f64, the newest last
    recent_lengths: np.ndarray  # [RECENT_EPISODES] i64
    num_episodes: int  # that have ended


def start(num_envs: int) -> Episodes:
    """Before the first timestep."""
    return Episodes(
        episode_return=np.zeros(num_envs, np.float64),
        length=np.zeros(num_envs, np.int64),
        recent_returns=np.zeros(RECENT_EPISODES, np.float64),
        recent_lengths=np.zeros(RECENT_EPISODES, np.int64),
        num_episodes=0,
    )


def track(episodes: Episodes, timestep: Timestep) -> tuple[Episodes, list[Episode]]:
    """Sums the raw reward to the true end of each episode; returns those that a timestep ended."""
    first = np.asarray(timestep.first)
    episode_return = np.where(first, 0.0, episodes.episode_return + np.asarray(timestep.reward))
    length = np.where(first, 0, episodes.length + 1)
    episodes = episodes._replace(episode_return=episode_return, length=length)
    ended = [
        Episode(float(episode_return[env]), int(length[env]), int(env))
        for env in np.flatnonzero(timestep.last)
    ]
    if not ended:
        return episodes, ended
    returns = [episode.episode_return for episode in ended]
    lengths = [episode.length for episode in ended]
    recent = slice(-RECENT_EPISODES, None)
    episodes = episodes._replace(
        recent_returns=np.append(episodes.recent_returns, returns)[recent],
        recent_lengths=np.append(episodes.recent_lengths, lengths)[recent],
        num_episodes=episodes.num_episodes + len(ended),
    )
    return episodes, ended


def mean_return(episodes: Episodes) -> float | None:
    """Mean return of the last 100 episodes; None before the first has ended."""
    return _recent_mean(episodes.recent_returns, episodes.num_episodes)


def mean_length(episodes: Episodes) -> float | None:
    """Mean length of the last 100 episodes, agent steps; None before the first has ended."""
    return _recent_mean(episodes.recent_lengths, episodes.num_episodes)


def _recent_mean(recent: np.ndarray, num_episodes: int) -> float | None:
    known = min(num_episodes, RECENT_EPISODES)
    return float(np.mean(recent[-known:])) if known else None


def has_reached(episodes: Episodes, target: float | None) -> bool:
    """Whether 100 episodes have ended and the mean return of the last 100 is `target`."""
    mean = mean_return(episodes)
    full = episodes.num_episodes >= RECENT_EPISODES
    return target is not None and full and mean is not None and mean >= target
