"""The files of a run directory."""

import csv
import datetime
import importlib.metadata
import json
import math
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import TextIO

import tensorboardX

from jdqn.config import Config, ConfigError, to_toml
from jdqn.runs.episodes import Episode, Evaluation


def default_run_dir(config: Config) -> pathlib.Path:
    """`runs/ENV-AGENT-SEED-TIME`."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = config.env.name.replace("/", "_")
    return pathlib.Path("runs") / f"{name}-{config.agent.name}-{config.train.seed}-{now}"


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
            text = to_toml(config, versions=_versions(command))
            (path / "config.toml").write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write run directory {path}: {error.strerror}") from None
        self.path = path
        self._several = config.train.num_seeds > 1
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
