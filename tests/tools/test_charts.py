"""Where things lie in a chart."""

import math

import numpy as np
import pytest

from jdqn.tools import charts
from jdqn.tools.charts import Compared, Series

NAN = math.nan


def points(path):
    """The points of a path, `[n, 2]`."""
    return np.array([p.split() for p in path.strip("MZ").split("L")], float)


def test_a_line_goes_from_corner_to_corner_and_leaves_out_what_is_not_known():
    series = Series("a", 0, np.array([0, 5, 10.0]), np.array([NAN, 1.0, 3.0]))
    chart = charts.lines([series], x_label="x", y_label="y")
    (line,) = chart.lines
    assert line.band == ""
    middle = (chart.frame.left + chart.frame.right) / 2
    np.testing.assert_allclose(
        points(line.path),
        [[middle, chart.frame.bottom], [chart.frame.right, chart.frame.top]],
        atol=0.06,
    )


def test_a_band_is_as_wide_as_its_interval_and_only_where_that_is_known():
    x = np.array([0, 1, 2.0])
    series = Series("a", 0, x, np.array([1.0, 1, 1]), half=np.array([NAN, 1, 1]))
    (line,) = (chart := charts.lines([series], x_label="", y_label="")).lines
    around = points(line.band)
    assert around[:, 0].min() == pytest.approx((chart.frame.left + chart.frame.right) / 2, abs=0.06)
    assert {around[0, 1], around[-1, 1]} == {chart.frame.top, chart.frame.bottom}


def test_a_band_may_be_lopsided():
    x = np.array([0, 1.0])
    series = Series("a", 0, x, x + 1, low=x + 1, high=x + 3)
    (line,) = (chart := charts.lines([series], x_label="", y_label="")).lines
    assert points(line.band)[:, 1].min() == chart.frame.top


def test_there_is_no_chart_without_a_point_and_one_point_is_a_dot():
    nothing = Series("a", 0, np.array([1.0]), np.array([NAN]))
    assert charts.lines([nothing], x_label="", y_label="") is None
    one = Series("a", 0, np.array([1.0]), np.array([2.0]))
    (line,) = charts.lines([one], x_label="", y_label="").lines
    assert len(points(line.path)) == 2


@pytest.mark.parametrize(("reference", "is_drawn"), [(4.0, True), (100.0, False)])
def test_a_line_across_must_leave_the_curves_their_room(reference, is_drawn):
    series = Series("a", 0, np.array([0, 1.0]), np.array([0, 3.0]))
    chart = charts.lines([series], x_label="", y_label="", reference=reference)
    assert (chart.reference is not None) == is_drawn


def test_a_comparison_has_a_row_for_each_and_no_interval_where_there_is_none():
    rows = [
        Compared("a", 0, 5.0, 0.0, 10.0, [2.0, 8.0]),
        Compared("b", 1, 5.0, NAN, NAN, [5.0]),
    ]
    chart = charts.comparison(rows, x_label="score", reference=10.0)
    first, second = chart.rows
    assert first.low < first.runs[0] < first.mean == second.mean < first.runs[1] < first.high
    assert chart.reference == first.high
    assert (first.told, second.told) == ("5.00 [0.00, 10.0]", "5.00")
    assert (second.low, second.high) == (None, None)
    assert first.y < second.y < chart.frame.bottom < chart.frame.height


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.25, "0.25"),
        (2_500, "2,500"),
        (-110.0, "-110"),
        (2_500_000, "2.5 M"),
        (1.75e-4, "1.75e-4"),
        (-1e-17, "0"),
    ],
)
def test_numbers_of_an_axis(value, text):
    assert charts.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12_345.6, "12,346"), (-27.61, "−27.6"), (0.456, "0.46"), (-0.001, "0.00"), (NAN, "–")],
)
def test_numbers_of_a_table(value, text):
    assert charts.figure(value) == text
