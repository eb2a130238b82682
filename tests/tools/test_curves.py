"""Learning curves and their bands."""

import numpy as np
import pytest
import scipy.stats

from jdqn.config import ConfigError
from jdqn.tools import curves


def write(path, rows):
    text = "steps,seed,return,length\n" + "".join(f"{s},{k},{r},1\n" for s, k, r in rows)
    path.write_text(text)
    return path


def test_a_curve_is_the_mean_of_the_last_hundred_episodes(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    first = [(10 * i, 3, i) for i in range(1, 301)]
    second = [(10 * i + 1000, 4, 7) for i in range(1, 301)]
    write(run / "episodes.csv", [row for pair in zip(first, second, strict=True) for row in pair])
    steps, returns = curves.read_curves([run], points=300)
    assert steps[-1] == 3000  # as far as the shorter seed goes
    assert returns.shape == (2, 300)
    assert returns[0, 49] == np.mean(range(1, 51))  # fewer than 100 so far
    assert returns[0, 299] == np.mean(range(201, 301))
    assert np.isnan(returns[1, :100]).all()
    assert (returns[1, 101:] == 7).all()


def test_runs_and_tables_are_taken_together(tmp_path):
    a = write(tmp_path / "a.csv", [(100, 0, 1.0), (200, 0, 3.0)])
    b = write(tmp_path / "b.csv", [(50, 0, 5.0), (200, 0, 5.0)])
    steps, returns = curves.read_curves([a, b], points=4)
    np.testing.assert_array_equal(steps, [50, 100, 150, 200])
    np.testing.assert_array_equal(returns, [[np.nan, 1, 1, 2], [5, 5, 5, 5]])


def test_the_interval_is_students(rng):
    values = rng.normal(size=(5, 2))
    mean, half = curves.interval(values)
    for i in range(2):
        low, high = scipy.stats.t.interval(
            0.95, 4, loc=values[:, i].mean(), scale=scipy.stats.sem(values[:, i])
        )
        np.testing.assert_allclose([mean[i] - half[i], mean[i] + half[i]], [low, high])
    assert np.isnan(curves.interval(values[:1])[1]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read"),
        ("steps,seed,return,length\n", "no episode has ended"),
        ("a,b\n1,2\n", "no columns"),
        ("steps,seed,return,length\n1,0,x,1\n", "line 2: expected 4 columns, numbers"),
        ("steps,seed,return,length\n1,0,1,1\n1,0\n2,0,1,1\n", "line 3: expected 4 columns"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, words):
    if text is not None:
        (tmp_path / "run.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        curves.read_curves([tmp_path / "run.csv"])
