"""What can be said of few seeds on several games, with intervals: Agarwal et al. 2021.

"Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264. Scores are
`[..., N, M]`, N seeds of each of M games; leading axes are kept.
"""

from collections.abc import Callable

import numpy as np
import scipy.stats

REPLICATES = 2_000
Statistic = Callable[[np.ndarray], np.ndarray]


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean `[...]`: of all runs of all games, the mean of the middle half."""
    runs = scores.reshape(*scores.shape[:-2], -1)
    return scipy.stats.trim_mean(runs, 0.25, axis=-1)


def median(scores: np.ndarray) -> np.ndarray:
    """Median over games `[...]` of the mean over seeds; of one game, the median of its seeds."""
    if scores.shape[-1] == 1:
        return np.median(scores[..., 0], axis=-1)
    return np.median(scores.mean(axis=-2), axis=-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over games and seeds, `[...]`."""
    return scores.mean(axis=(-2, -1))


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> np.ndarray:
    """How far runs fall short of `target` on average, `[...]`; more than it counts as it."""
    return target - np.minimum(scores, target).mean(axis=(-2, -1))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Fraction of runs above each of `thresholds` `[T]`, the mean over games: `[..., T]`."""
    above = [(scores > threshold).mean(axis=(-2, -1)) for threshold in thresholds]
    return np.stack(above, axis=-1)


def bootstrap(
    statistic: Statistic, scores: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A 95% interval of a statistic by stratified bootstrap: seeds are drawn anew in each game.

    Args:
      statistic: from `[..., N, M]` to `[...]` or `[..., T]`.
      scores: `[N, M]`.
      replicates: how often seeds are drawn.
      seed: of the drawing.

    Returns:
      Lower and upper end, percentiles of the replicates; the same number twice for one seed.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(scores), size=(replicates, *scores.shape))
    resampled = np.take_along_axis(scores[np.newaxis], drawn, axis=1)
    low, high = np.quantile(statistic(resampled), [0.025, 0.975], axis=0)
    return low, high
