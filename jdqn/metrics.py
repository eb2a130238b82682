"""Episodes as they end, the files of a run directory, and progress on the terminal."""

import collections
import csv
import datetime
import importlib.metadata
import json
import math
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TextIO

import numpy as np
import rich.console
import rich.progress
import tensorboardX

from jdqn import config as config_lib
from jdqn.config import Config, ConfigError
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


# Random and human score, up to 30 no-ops at the start, as DQN Zoo has them (Wang et al. 2015).
REFERENCE_SCORES = {
    "Breakout": (1.7, 30.5),
    "MontezumaRevenge": (0.0, 4753.3),
    "MsPacman": (307.3, 6951.6),
    "Pong": (-20.7, 14.6),
    "Qbert": (163.9, 13455.0),
    "Seaquest": (68.4, 42054.7),
    "SpaceInvaders": (148.0, 1668.7),
}


def human_normalised(game: str, score: float) -> float | None:
    """0 for a random agent, 1 for the human tester; None where the game has no reference here."""
    if game not in REFERENCE_SCORES:
        return None
    random, human = REFERENCE_SCORES[game]
    return (score - random) / (human - random)


class EpisodeTracker:
    """Sums the raw reward of each environment to the true end of its episode."""

    def __init__(self, num_envs: int):
        self._return = np.zeros(num_envs, np.float64)
        self._length = np.zeros(num_envs, np.int64)
        self._recent: collections.deque[Episode] = collections.deque(maxlen=RECENT_EPISODES)
        self.num_episodes = 0

    def add(self, timestep: Timestep) -> list[Episode]:
        """Takes the next timestep and returns the episodes that it ended."""
        first = np.asarray(timestep.first)
        self._return = np.where(first, 0.0, self._return + timestep.reward)
        self._length = np.where(first, 0, self._length + 1)
        ended = [
            Episode(float(self._return[env]), int(self._length[env]), int(env))
            for env in np.flatnonzero(timestep.last)
        ]
        self._recent.extend(ended)
        self.num_episodes += len(ended)
        return ended

    def recent_mean(self, field: str) -> float | None:
        """Mean of a field over the last 100 episodes; None before the first has ended."""
        values = [getattr(episode, field) for episode in self._recent]
        return float(np.mean(values)) if values else None

    def reached(self, target: float | None) -> bool:
        """Whether 100 episodes have ended and the mean return of the last 100 is `target`."""
        mean, full = self.recent_mean("episode_return"), len(self._recent) == RECENT_EPISODES
        return target is not None and full and mean is not None and mean >= target


def check_run_dir(run_dir: str | pathlib.Path | None) -> None:
    """Raises ConfigError where a run directory is taken or cannot be made; makes nothing."""
    if run_dir is None:
        return
    path = pathlib.Path(run_dir)
    try:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run directory {path} is a file")
        if path.is_dir() and any(path.iterdir()):
            raise ConfigError(f"run directory {path} is already used; name another with --run-dir")
    except OSError as error:
        raise ConfigError(f"cannot use run directory {path}: {error.strerror}") from None


class RunDirectory:
    """Writes `config.toml`, `metrics.jsonl`, `episodes.csv`, `evaluations.csv` and TensorBoard."""

    def __init__(self, path: pathlib.Path, config: Config, command: str):
        check_run_dir(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            text = config_lib.to_toml(config, versions=_versions(command))
            (path / "config.toml").write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write run directory {path}: {error.strerror}") from None
        self.path, self._several = path, config.train.num_seeds > 1
        self._metrics = (path / "metrics.jsonl").open("w", encoding="utf-8")
        self._episodes = self._table("episodes.csv", ["steps", "seed", "return", "length"])
        self._evaluations = self._table(
            "evaluations.csv", ["steps", "seed", "policy", *Evaluation._fields]
        )
        self._tensorboard = tensorboardX.SummaryWriter(str(path))

    def _table(self, name: str, header: Iterable[str]) -> TextIO:
        file = (self.path / name).open("w", encoding="utf-8", newline="")
        csv.writer(file).writerow(header)
        return file

    def _suffix(self, seed: float | int | None) -> str:
        """What tells the curves of several seeds apart."""
        return f"/seed_{seed}" if self._several and seed is not None else ""

    def log(self, steps: int, values: Mapping[str, float | int | None]) -> None:
        """One line of metrics.jsonl, and the same on TensorBoard."""
        finite = {k: v if v is None or math.isfinite(v) else None for k, v in values.items()}
        self._metrics.write(json.dumps({"steps": steps, **finite}) + "\n")
        for name, value in values.items():
            if value is not None and name != "seed":
                self._tensorboard.add_scalar(
                    f"{name}{self._suffix(values.get('seed'))}", value, steps
                )
        for file in (self._metrics, self._episodes):
            file.flush()

    def episodes(self, steps: int, seed: int, episodes: Iterable[Episode]) -> None:
        """One row of episodes.csv for each finished episode."""
        rows = ([steps, seed, e.episode_return, e.length] for e in episodes)
        csv.writer(self._episodes).writerows(rows)

    def evaluation(self, steps: int, seed: int, policy: str, result: Evaluation) -> None:
        """One row of evaluations.csv."""
        csv.writer(self._evaluations).writerow([steps, seed, policy, *result])
        self._evaluations.flush()
        self._tensorboard.add_scalar(
            f"evaluation/{policy}{self._suffix(seed)}", result.return_mean, steps
        )

    def close(self) -> None:
        """Closes every file."""
        for file in (self._metrics, self._episodes, self._evaluations):
            file.close()
        self._tensorboard.close()


class Progress:
    """A live line on a terminal; plain lines elsewhere."""

    def __init__(self, title: str, total_steps: int):
        self._console = rich.console.Console()
        self._bar: rich.progress.Progress | None = None
        self._total_steps, self._started = total_steps, time.monotonic()
        self.say(title)
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.BarColumn(bar_width=20),
                rich.progress.TextColumn("{task.description}"),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("left"),
                rich.progress.TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task("compiling", total=total_steps)

    def update(self, steps: int, values: Mapping[str, float | int | None]) -> None:
        """Shows a log event."""

        def show(name: str, form: str) -> str:
            value = values.get(name)
            return "–" if value is None else format(value, form)

        text = (
            f"steps {steps:,}  episodes {show('episodes', ',.0f')}  return "
            f"{show('episode_return', '.2f')}  {show('steps_per_second', ',.0f')} steps/s  "
            f"epsilon {show('epsilon', '.3f')}  loss {show('loss', '.4g')}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, description=text)
            return
        rate = values.get("steps_per_second") or 0.0
        seconds = int(max(self._total_steps - steps, 0) / rate) if rate else 0
        self.say(f"{text}  left {datetime.timedelta(seconds=seconds) if rate else '?'}")

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()


def _versions(command: str) -> dict[str, str]:
    """What a run needs to be repeated: versions, the command, the git revision of the code."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "envpool")
    found = {"jdqn": importlib.metadata.version("jdqn"), "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    revision = "unknown"
    try:
        answer = subprocess.run(
            ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        revision = answer.stdout.strip() or revision
    except OSError:
        pass
    return {**found, "git": revision, "command": command or " ".join(sys.argv)}
