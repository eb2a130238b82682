"""Learning curves with 95% bands over seeds, from the `episodes.csv` of runs."""

import csv
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from jdqn.config import ConfigError
from jdqn.runs import files
from jdqn.runs.episodes import RECENT_EPISODES

Paths = Sequence[str | pathlib.Path]
FIGURE: dict[str, Any] = {"figsize": (7, 4.5), "layout": "constrained"}


def read_curves(run_dirs: Paths, *, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """The mean return of the last 100 training episodes, for every seed of some runs.

    Args:
      run_dirs: run directories, of one seed or several each, or CSV files like their
        `episodes.csv`.
      points: P, places along the steps that all seeds have reached.

    Returns:
      Agent steps `[P]` and returns `[seeds, P]`, NaN before the first episode of a seed has ended.

    Raises:
      ConfigError: a run without finished episodes, a table that is damaged. A last line that was
        cut off is left out, with a word on stderr.
    """
    seeds = [seed for path in run_dirs for seed in _read(pathlib.Path(path))]
    steps = np.linspace(0, min(seed[-1, 0] for seed in seeds), points + 1)[1:]
    return steps, np.stack([_recent_mean(seed, steps) for seed in seeds])


def _read(path: pathlib.Path) -> list[np.ndarray]:
    """Steps and returns `[episodes, 2]` of each seed of a run."""
    if path.is_dir() and not (path / "episodes.csv").is_file():
        files.check_is_run(path)
    path = path / "episodes.csv" if path.is_dir() else path
    rows = list(_rows(path))
    if not rows:
        raise ConfigError(f"{path}: no episode has ended")
    names = dict.fromkeys(row[0] for row in rows)
    return [np.array([row[1:] for row in rows if row[0] == name]) for name in names]


def _rows(path: pathlib.Path) -> Iterator[tuple[str, float, float]]:
    """Seed, steps and return of each episode; warns of a last line that was cut off."""
    text = _text(path)
    lines = text.splitlines(keepends=True)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
    except csv.Error:
        header = []
    if missing := {"seed", "steps", "return"} - set(header):
        raise ConfigError(f"{path} has no columns {', '.join(sorted(missing))}")
    places = [header.index(name) for name in ("seed", "steps", "return")]
    found = 0
    try:
        for row in reader:
            if row:
                yield _numbers(row, len(header), places)
                found += 1
    except (csv.Error, ValueError):
        if reader.line_num < len(lines) or text.endswith("\n"):
            raise ConfigError(
                f"{path}, line {reader.line_num}: expected {len(header)} columns, numbers under "
                "steps and return"
            ) from None
        if found:
            sys.stderr.write(f"warning: {path}: its last line is cut off and left out\n")


def _text(path: pathlib.Path) -> str:
    """A table's text. Only of a regular file: reading a pipe may wait for ever."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"cannot read {path}: not a regular file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read {path}: it is not UTF-8") from None


def _numbers(row: list[str], columns: int, places: list[int]) -> tuple[str, float, float]:
    """Seed, steps and return of a row; ValueError where they are no finite numbers."""
    if len(row) != columns:
        raise ValueError
    seed, steps, episode_return = (row[place] for place in places)
    values = (float(steps), float(episode_return))
    if not all(map(math.isfinite, values)):
        raise ValueError
    return seed, *values


def _recent_mean(episodes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Mean return `[P]` of the last 100 of `episodes` `[n, 2]` ended by each of `steps` `[P]`."""
    total = np.concatenate([[0.0], np.cumsum(episodes[:, 1])])
    end = np.searchsorted(episodes[:, 0], steps, side="right")
    start = np.maximum(end - RECENT_EPISODES, 0)
    return np.where(end > 0, (total[end] - total[start]) / np.maximum(end - start, 1), np.nan)


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half the width of Student's 95% interval over seeds, `[seeds, ...]` to `[...]`.

    The half width is NaN for one seed.
    """
    count = values.shape[0]
    if count == 1:
        return values[0], np.full(values.shape[1:], np.nan)
    error = values.std(axis=0, ddof=1) / np.sqrt(count)
    return values.mean(axis=0), scipy.stats.t.ppf(0.975, count - 1) * error


def plot_curves(runs: Mapping[str, Paths], axes: Any = None, *, points: int = 200) -> Any:
    """Draws a curve with its 95% band for each label.

    Args:
      runs: run directories (or CSV files) by label; the band is over all their seeds.
      axes: matplotlib axes; default: new ones.
      points: places along the steps.

    Returns:
      The axes.
    """
    import matplotlib.pyplot as plt

    read = {label: read_curves(dirs, points=points) for label, dirs in runs.items()}
    axes = plt.subplots(**FIGURE)[1] if axes is None else axes
    return draw_curves(read, axes)


def draw_curves(read: Mapping[str, tuple[np.ndarray, np.ndarray]], axes: Any) -> Any:
    """Draws what `read_curves` has returned for each label; see `plot_curves`."""
    for label, (steps, returns) in read.items():
        mean, half = interval(returns)
        seeds = "1 seed" if len(returns) == 1 else f"{len(returns)} seeds"
        (line,) = axes.plot(steps, mean, label=f"{label} ({seeds})")
        axes.fill_between(steps, mean - half, mean + half, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_xlabel("agent steps")
    axes.set_ylabel(f"training return, last {RECENT_EPISODES} episodes")
    axes.grid(alpha=0.3)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)  # a label is no formula
    return axes
