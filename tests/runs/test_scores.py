"""Human-normalised scores."""

import pytest

from jdqn.runs import scores


def test_human_normalised_score():
    assert scores.human_normalised("Breakout", 1.7) == 0
    assert scores.human_normalised("Pong", 14.6) == pytest.approx(1)
    assert scores.human_normalised("Breakout", 401.2) == pytest.approx(13.87, abs=0.01)
    assert scores.human_normalised("CartPole-v1", 500) is None
