"""The files of a run directory."""

import contextlib
import csv
import datetime
import importlib.metadata
import io
import itertools
import json
import math
import pathlib
import platform
import re
import secrets
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from jdqn import __version__
from jdqn.config import RECORDS, Config, ConfigError, to_toml
from jdqn.runs import board
from jdqn.runs.episodes import Episode, Evaluation
from jdqn.runs.files import LOCK, LogFile, make_folder, sync_folder, write_whole

HEADERS = {
    "metrics.jsonl": "",
    "episodes.csv": "steps,seed,return,length\r\n",
    "evaluations.csv": f"steps,seed,policy,{','.join(Evaluation._fields)}\r\n",
}


def default_run_dir(config: Config) -> pathlib.Path:
    """`runs/ENV-AGENT-SEED-TIME`."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = re.sub(r"[^\w.-]", "_", config.env.name)
    return pathlib.Path("runs") / f"{name}-{config.agent.name}-{config.train.seed}-{now}"


def check_run_dir(run_dir: str | pathlib.Path | None) -> None:
    """Raises ConfigError where a run directory is taken or cannot be made; makes nothing."""
    if run_dir is None:
        return
    path = pathlib.Path(run_dir)
    try:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run directory {path} is a file")
        if path.is_dir() and any(file.name != LOCK for file in path.iterdir()):
            raise ConfigError(f"run directory {path} is already used; name another with --run-dir")
    except OSError as error:
        raise ConfigError(f"cannot use run directory {path}: {error.strerror}") from None


def make_run_dir(run_dir: str | pathlib.Path | None, config: Config) -> pathlib.Path:
    """Makes a run directory, by default one that no other process has.

    Raises:
      ConfigError: it is taken, or cannot be made.
    """
    check_run_dir(run_dir)
    path = pathlib.Path(run_dir) if run_dir is not None else default_run_dir(config)
    try:
        if run_dir is not None:
            make_folder(path)
            return path
        make_folder(path.parent)
        for number in itertools.count(2):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                sync_folder(path.parent)
                return path
            path = path.with_name(f"{default_run_dir(config).name}-{number}")
    except OSError as error:
        raise ConfigError(f"cannot make run directory {path}: {error.strerror}") from None
    raise AssertionError


class RunDirectory:
    """Writes `config.toml`, `metrics.jsonl`, `episodes.csv`, `evaluations.csv` and TensorBoard."""

    def __init__(
        self,
        path: pathlib.Path,
        config: Config,
        command: str,
        *,
        resumed_steps: int | None = None,
        lengths: Mapping[str, int] | None = None,
        started_from: Mapping[str, Any] | None = None,
    ):
        """Opens the files of a run, new or gone on with.

        Args:
          path: a folder that is there.
          config: resolved.
          command: that started the run, or goes on with it.
          resumed_steps: agent steps from which it goes on; None: a new run.
          lengths: of the logs there, in bytes.
          started_from: the run that a new one has its first parameters from.

        Raises:
          ConfigError: it cannot be written.
        """
        self.path = path
        self._several = config.train.num_seeds > 1
        try:
            record = _record(path, command, resumed_steps, started_from)
            write_whole(path / "config.toml", to_toml(config, **record).encode("utf-8"))
            self._logs = {name: _open(path / name, name, lengths or {}) for name in HEADERS}
            sync_folder(path)
        except OSError as error:
            raise ConfigError(f"cannot write run directory {path}: {error.strerror}") from None
        self.run_id: str = record["versions"]["run"]
        # What was logged at that step stays.
        purge_steps = None if resumed_steps is None else resumed_steps + 1
        self._board = board.Board(path, purge_steps)

    def _suffix(self, seed: float | int | None) -> str:
        """What tells the curves of several seeds apart."""
        return f"/seed_{seed}" if self._several and seed is not None else ""

    def log(self, steps: int, *rows: Mapping[str, float | int | None]) -> None:
        """A line of metrics.jsonl for each seed, and the same on TensorBoard.

        Raises:
          OSError: it cannot be written now; the lines are kept, and tried again.
        """
        for row in rows:
            self._logs["metrics.jsonl"].append(json.dumps(log_row(steps, row)) + "\n")
        drawn = {
            board.grouped(k) + self._suffix(row.get("seed")): v
            for row in rows
            for k, v in row.items()
            if v is not None and k != "seed" and math.isfinite(v)
        }
        try:
            self.flush()
        finally:
            self._board.add(drawn, steps)

    def episodes(self, steps: int, seed: int, episodes: Iterable[Episode]) -> None:
        """One row of episodes.csv for each finished episode, written with the next log event."""
        rows = ([steps, seed, e.episode_return, e.length] for e in episodes)
        self._logs["episodes.csv"].append(_csv(rows))

    def evaluation(self, steps: int, seed: int, policy: str, result: Evaluation) -> None:
        """One row of evaluations.csv. Raises OSError as `log`."""
        row = evaluation_row(steps, seed, policy, result)
        self._logs["evaluations.csv"].append(_csv([row.values()]))
        drawn = {k: v for k, v in result._asdict().items() if k != "episodes"}
        try:
            self.flush()
        finally:
            named = {f"evaluation/{k}{self._suffix(seed)}": v for k, v in drawn.items()}
            self._board.add(named, steps)

    def flush(self) -> None:
        """Writes what is pending. Raises OSError."""
        for log in self._logs.values():
            log.flush()

    def sync(self) -> dict[str, int]:
        """Writes the logs to the disk itself; returns their lengths in bytes. Raises OSError."""
        return {name: log.sync() for name, log in self._logs.items()}

    def close(self) -> None:
        """Closes every file. Raises OSError where the last lines cannot be written."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._board.close)
            for log in self._logs.values():
                stack.callback(log.close)


def log_row(steps: int, row: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    """A line of metrics.jsonl: JSON has no NaN."""
    finite = {k: v if v is None or math.isfinite(v) else None for k, v in row.items()}
    return {"steps": steps, **finite}


def evaluation_row(steps: int, seed: int, policy: str, result: Evaluation) -> dict[str, Any]:
    """A row of evaluations.csv."""
    return {"steps": steps, "seed": seed, "policy": policy, **result._asdict()}


def _open(path: pathlib.Path, name: str, lengths: Mapping[str, int]) -> LogFile:
    there = lengths.get(name, 0) if path.is_file() else 0
    log = LogFile(path, there)
    if not there:
        log.append(HEADERS[name])
        log.flush()
    return log


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """What `config.toml` records beside the configuration, see `config.layers.RECORDS`."""
    try:
        layer = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    found = {name: layer[name] for name in RECORDS if name in layer}
    versions = found.get("versions")
    is_ours = isinstance(versions, dict) and "run" in versions
    return found if is_ours and isinstance(found.get("resumed", []), list) else {}


def run_id_of(path: pathlib.Path) -> str | None:
    """The name that a run's checkpoints bear; None: it has none."""
    return read_record(path).get("versions", {}).get("run")


def _record(
    path: pathlib.Path,
    command: str,
    resumed_steps: int | None,
    started_from: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the run needs to be repeated, of its start and of each time it was gone on with."""
    command = command or " ".join(sys.argv)
    now = {**_versions(), "command": command}
    before = read_record(path) if resumed_steps is not None else {}
    if not before:
        record = {"versions": {"run": secrets.token_hex(8), **now}}
        return {**record, "started_from": dict(started_from)} if started_from else record
    again = {"steps": resumed_steps, **now}
    return {**before, "resumed": [*before.get("resumed", []), again]}


def _versions() -> dict[str, str]:
    """Versions, and the git revision of the code."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "envpool")
    found = {"jdqn": __version__, "python": platform.python_version()}
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
    return {**found, "git": revision}
