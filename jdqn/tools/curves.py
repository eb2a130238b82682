"""Learning curves with 95% bands over seeds, from the `episodes.csv` of runs."""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from jdqn.config import ConfigError
from jdqn.runs import files
from jdqn.runs.episodes import RECENT_EPISODES
from jdqn.tools import logs

Paths = Sequence[str | pathlib.Path]
Curve = tuple[np.ndarray, np.ndarray]
FIGURE: dict[str, Any] = {"figsize": (7, 4.5), "layout": "constrained"}
ABOUT_EQUAL = 0.95  # of the longest seed: the last game of a run may be long


def read_curves(run_dirs: Paths, *, points: int = 200, label: str = "") -> Curve:
    """The mean return of the last 100 training episodes, for every seed of some runs.

    Args:
      run_dirs: run directories, of one seed or several each, or CSV files like their
        `episodes.csv`.
      points: P, places along the steps that all seeds have reached.
      label: what to call them in a word on stderr, where some seeds go further than others.

    Returns:
      Agent steps `[P]` and returns `[seeds, P]`, NaN before the first episode of a seed has ended.

    Raises:
      ConfigError: a run without finished episodes, a table that is damaged. A last line that was
        cut off is left out, with a word on stderr.
    """
    seeds = [seed for path in run_dirs for seed in read_episodes(pathlib.Path(path)).values()]
    ends = [seed[-1, 0] for seed in seeds]
    if min(ends) < ABOUT_EQUAL * max(ends):
        sys.stderr.write(
            f"note: {label or 'the curve'} ends at {min(ends):,.0f} steps, where the shortest of "
            f"{len(ends)} seeds does; the longest goes to {max(ends):,.0f}\n"
        )
    steps = np.linspace(0, min(ends), points + 1)[1:]
    return steps, np.stack([recent_mean(seed, steps) for seed in seeds])


def read_episodes(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Steps and returns `[episodes, 2]` of each seed of a run directory, or of such a CSV file.

    Raises:
      ConfigError: no episode has ended, the table is damaged, there is no run.
    """
    if path.is_dir() and not (path / "episodes.csv").is_file():
        files.check_is_run(path)
    path = path / "episodes.csv" if path.is_dir() else path
    found = logs.by_seed(logs.read_table(path, ["seed"], ["steps", "return"]))
    if not found:
        raise ConfigError(f"{path}: no episode has ended")
    return found


def recent_mean(episodes: np.ndarray, steps: np.ndarray) -> np.ndarray:
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

    read = {label: read_curves(dirs, points=points, label=label) for label, dirs in runs.items()}
    axes = plt.subplots(**FIGURE)[1] if axes is None else axes
    return draw_curves(read, axes)


def draw_curves(read: Mapping[str, Curve], axes: Any, title: str = "") -> Any:
    """Draws what `read_curves` has returned for each label; see `plot_curves`."""
    from matplotlib.ticker import FuncFormatter

    for label, (steps, returns) in read.items():
        mean, half = interval(returns)
        (line,) = axes.plot(steps, mean, label=f"{label}, {seeds_of(len(returns))}")
        axes.fill_between(steps, mean - half, mean + half, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_xlabel("agent steps")
    axes.set_ylabel(f"training return, last {RECENT_EPISODES} episodes")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(alpha=0.3)
    texts = axes.legend().get_texts()
    if title:
        texts.append(axes.set_title(title))
    for text in texts:
        text.set_parse_math(False)  # a name is no formula
    return axes


def seeds_of(count: int) -> str:
    """How many seeds there are, and what a band says of them."""
    return "1 seed" if count == 1 else f"{count} seeds, 95% interval"
