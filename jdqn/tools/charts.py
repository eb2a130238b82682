"""Charts as geometry: where things lie in a picture of so many units. The template draws them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

NICE = [1, 2, 2.5, 5, 10]
MOST_STRETCH = 2.0  # of an axis, by a line across


class Frame(NamedTuple):
    """A picture's size, and where its axes end."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


LARGE = Frame(440, 280, left=60, right=412, top=10, bottom=234)
SMALL = Frame(260, 150, left=54, right=228, top=8, bottom=126)
WIDE = Frame(440, 52, left=14, right=426, top=6, bottom=6)  # of a comparison without rows
ROW = 46


class Series(NamedTuple):
    """A line and its band over the same x."""

    name: str
    color: int
    x: np.ndarray  # [P]
    y: np.ndarray  # [P], NaN: not known
    half: np.ndarray | None = None  # [P] half the band; None or NaN: no band
    low: np.ndarray | None = None  # [P] in place of `half`, where a band is lopsided
    high: np.ndarray | None = None


class Tick(NamedTuple):
    """A place on an axis."""

    at: float
    text: str


class Line(NamedTuple):
    """A drawn line."""

    name: str
    color: int
    path: str
    band: str


class Dots(NamedTuple):
    """A row of a comparison: a mean, its interval and what it is of."""

    name: str
    color: int
    y: float
    mean: float
    low: float | None
    high: float | None
    runs: list[float]
    told: str


class Chart(NamedTuple):
    """A picture."""

    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_label: str
    y_label: str
    lines: list[Line]
    rows: list[Dots]
    reference: float | None  # y of a line across, in a comparison x


class _Scale:
    """From values to places."""

    def __init__(self, values: Sequence[float], start: float, end: float, ticks: int):
        low = min(values)
        high = max(values)
        if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
            margin = max(abs(low) * 0.1, 1e-3)
            low -= margin
            high += margin
        self._low = low
        self._slope = (end - start) / (high - low)
        self._start = start
        places = MaxNLocator(nbins=ticks, steps=NICE).tick_values(low, high)
        self.ticks = [
            Tick(round(self.at(value), 1), number(value))
            for value in places
            if low - 1e-9 * (high - low) <= value <= high + 1e-9 * (high - low)
        ]

    def at(self, value: float) -> float:
        return self._start + (value - self._low) * self._slope


def number(value: float) -> str:
    """For an axis: thousands separators, few digits, M for millions."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.4g} M"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    if 1e-12 < abs(value) < 1e-3:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{round(value, 6) + 0.0:.4g}"  # no -0


def lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    reference: float | None = None,
    small: bool = False,
) -> Chart | None:
    """Lines with bands over x; None where there is no known point."""
    series = [s for s in series if np.isfinite(s.y).any()]
    if not series:
        return None
    frame = SMALL if small else LARGE
    bands = [_band(s) for s in series]
    x_values = [float(np.min(s.x)) for s in series] + [float(np.max(s.x)) for s in series]
    y_values = [float(v) for s in series for v in (np.nanmin(s.y), np.nanmax(s.y))]
    for band in bands:
        y_values += [float(v) for row in band for v in row[1:]]
    if reference is not None:
        spread = max(y_values) - min(y_values)
        if max(*y_values, reference) - min(*y_values, reference) > MOST_STRETCH * spread:
            reference = None  # it would leave the curves no room
        else:
            y_values.append(reference)
    x_ends = [min(0.0, *x_values), max(x_values)]
    x = _Scale(x_ends, frame.left, frame.right, 2 if small else 5)
    y = _Scale(y_values, frame.bottom, frame.top, 3 if small else 5)
    drawn = [
        Line(s.name, s.color, _path(s, x, y), _area(band, x, y))
        for s, band in zip(series, bands, strict=True)
    ]
    place = None if reference is None else round(y.at(reference), 1)
    return Chart(frame, x.ticks, y.ticks, x_label, y_label, drawn, [], place)


def _band(series: Series) -> list[tuple[float, float, float]]:
    """Points of a band: x, lower, upper; only where it is known."""
    low = series.low if series.half is None else series.y - series.half
    high = series.high if series.half is None else series.y + series.half
    if low is None or high is None:
        return []
    rows = zip(series.x.tolist(), low.tolist(), high.tolist(), strict=True)
    return [row for row in rows if all(map(math.isfinite, row))]


def _path(series: Series, x: _Scale, y: _Scale) -> str:
    points = zip(series.x.tolist(), series.y.tolist(), strict=True)
    known = [(a, b) for a, b in points if math.isfinite(b)]
    if len(known) == 1:  # a dot, by round ends
        known *= 2
    return "M" + "L".join(f"{x.at(a):.1f} {y.at(b):.1f}" for a, b in known)


def _area(band: Sequence[tuple[float, float, float]], x: _Scale, y: _Scale) -> str:
    if len(band) < 2:
        return ""
    around = [(a, high) for a, _, high in band] + [(a, low) for a, low, _ in reversed(band)]
    return "M" + "L".join(f"{x.at(a):.1f} {y.at(b):.1f}" for a, b in around) + "Z"


class Compared(NamedTuple):
    """A row of `comparison`."""

    name: str
    color: int
    mean: float
    low: float  # NaN: no interval
    high: float
    runs: Sequence[float] = ()


def comparison(rows: Sequence[Compared], *, x_label: str, reference: float | None = None) -> Chart:
    """Means with intervals, one below the other, and the single runs as dots."""
    values = [v for row in rows for v in (row.mean, row.low, row.high, *row.runs)]
    values = [v for v in values if math.isfinite(v)]
    if reference is not None:
        values.append(reference)
    length = ROW * len(rows)
    frame = WIDE._replace(height=WIDE.height + length, bottom=WIDE.bottom + length)
    x = _Scale(values, frame.left + 10, frame.right - 14, 5)
    drawn = []
    for i, row in enumerate(rows):
        is_known = math.isfinite(row.low) and math.isfinite(row.high)
        ends = [round(x.at(v), 1) for v in (row.low, row.high)] if is_known else [None, None]
        drawn.append(
            Dots(
                name=row.name,
                color=row.color,
                y=frame.top + ROW * i + 30,
                mean=round(x.at(row.mean), 1),
                low=ends[0],
                high=ends[1],
                runs=[round(x.at(v), 1) for v in row.runs],
                told=told(row.mean, row.low, row.high),
            )
        )
    place = None if reference is None else round(x.at(reference), 1)
    return Chart(frame, x.ticks, [], x_label, "", [], drawn, place)


def told(mean: float, low: float, high: float) -> str:
    """A number and its interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return figure(mean)
    return f"{figure(mean)} [{figure(low)}, {figure(high)}]"


def figure(value: float) -> str:
    """A number for a table: three digits or more, thousands separators."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    digits = 0 if size >= 1_000 else 1 if size >= 10 else 2
    text = f"{value:,.{digits}f}"
    return (text.lstrip("-") if not float(text.replace(",", "")) else text).replace("-", "−")
