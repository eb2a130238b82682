"""Aggregates over games and seeds, against the numbers of rliable."""

import numpy as np
import pytest

from jdqn.tools import statistics

# Scores of 5 seeds on 6 games, drawn once, and what rliable 1.2.0 (NumPy 2.4.6, arch 7.2.0) says:
#   f = lambda x: np.array([metrics.aggregate_iqm(x), metrics.aggregate_median(x),
#                           metrics.aggregate_mean(x), metrics.aggregate_optimality_gap(x)])
#   library.get_interval_estimates({"a": SCORES}, f, reps=50_000, random_state=RandomState(0))
#   library.create_performance_profile({"a": SCORES}, THRESHOLDS, reps=20_000)
SCORES = np.array(
    [
        [0.04, 0.12, 1.28, 0.69, 2.35, 18.86],
        [0.47, 0.19, 0.23, 1.06, 2.96, 2.9],
        [0.59, 0.19, 2.14, 2.05, 1.41, 3.18],
        [0.22, 0.22, 1.33, 3.35, 3.08, 7.45],
        [0.24, 0.1, 0.26, 1.21, 0.78, 3.52],
    ]
)
RLIABLE = {
    "iqm": (1.186875, 0.8412, 1.5825),
    "median": (1.36, 0.857, 1.803),
    "mean": (2.082333333333333, 1.346, 3.116),
    "optimality_gap": (0.322, 0.2597, 0.3903),
}
THRESHOLDS = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 5.0])
PROFILE = [1.0, 0.7, 0.6333333333333333, 0.5333333333333333, 0.36666666666666664, 0.06666666666667]
PROFILE_LOW = [1.0, 0.6, 0.5333, 0.4333, 0.2667, 0.0]
PROFILE_HIGH = [1.0, 0.8, 0.7333, 0.6333, 0.4667, 0.1333]


@pytest.mark.parametrize("name", RLIABLE)
def test_an_aggregate_is_rliables_and_so_is_its_interval(name):
    """Ends within 2% of the width: rliable's own differ by up to 1.2% between its seeds."""
    value, low, high = RLIABLE[name]
    statistic = getattr(statistics, name)
    assert statistic(SCORES) == pytest.approx(value, abs=1e-12)
    found = statistics.bootstrap(statistic, SCORES, replicates=20_000)
    np.testing.assert_allclose(found, [low, high], atol=0.02 * (high - low))


def test_a_performance_profile_is_rliables():
    found = statistics.performance_profile(SCORES, THRESHOLDS)
    np.testing.assert_allclose(found, PROFILE, atol=1e-12)
    low, high = statistics.bootstrap(
        lambda scores: statistics.performance_profile(scores, THRESHOLDS), SCORES, replicates=20_000
    )
    np.testing.assert_allclose(low, PROFILE_LOW, atol=0.034)  # one run of thirty
    np.testing.assert_allclose(high, PROFILE_HIGH, atol=0.034)


def test_seeds_are_drawn_within_their_game():
    """Games whose seeds agree have no spread, however far the games are apart."""
    low, high = statistics.bootstrap(statistics.mean, np.array([[1.0, 100.0]] * 4))
    assert low == high == 50.5


def test_of_one_game_the_median_is_that_of_its_seeds():
    assert statistics.median(np.array([[1.0], [2.0], [9.0]])) == 2


def test_the_same_seed_gives_the_same_interval():
    first, again = (statistics.bootstrap(statistics.iqm, SCORES, seed=3) for _ in range(2))
    assert first == again
    assert first != statistics.bootstrap(statistics.iqm, SCORES, seed=4)
