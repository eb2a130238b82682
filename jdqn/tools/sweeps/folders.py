"""The folder of a trial: its attempts by number, its run, its result. Files alone say what was.

TRIAL/attempts/2.json   an attempt, and how it ended; the highest number owns the trial
TRIAL/run               the run directory, common to all attempts
TRIAL/log.txt           what jdqn.train has printed
TRIAL/result.json       how the trial ended; written once
"""

import collections
import contextlib
import datetime
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from jdqn.config import ConfigError
from jdqn.runs import files
from jdqn.runs.store import Store

# How a trial can end, in its result.
DONE = "done"
PRUNED = "pruned"
REFUSED = "refused"  # a configuration error
FAILED = "failed"  # crashed too often
# How an attempt can end, beside these.
CRASHED = "crashed"
LOST = "lost"  # with the worker that ran it
STOPPED = "stopped"
PAUSED = "paused"  # until others have come as far
SUPERSEDED = "superseded"  # a later attempt has begun
TAIL_BYTES = 65_536
Record = dict[str, Any]


def make(directory: pathlib.Path) -> None:
    """Makes the folder of a sweep, if need be. Raises ConfigError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sentence = f"cannot make sweep directory {directory}: {error.strerror}"
        raise ConfigError(sentence) from None


class Standing(NamedTuple):
    """How far a run is."""

    steps: int  # agent steps
    training: float | None  # mean return of the last 100 training games, mean over seeds
    evaluations: dict[int, float]  # mean return by steps, mean over seeds


class Folder:
    """Of one trial."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.run = path / "run"
        self.log = path / "log.txt"
        self._attempts = path / "attempts"
        self._result = path / "result.json"

    # --- Attempts -------------------------------------------------------------------------------

    def claim(self) -> int:
        """Begins an attempt: the number that it has, higher than any before. Raises OSError."""
        self._attempts.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {
                "began": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                "host": socket.gethostname(),
                "process": os.getpid(),
            }
        )
        while True:
            number = self.newest() + 1
            with contextlib.suppress(FileExistsError), self._attempt(number).open("x") as file:
                file.write(text)
                return number

    def newest(self) -> int:
        """The highest number of an attempt; 0: none has begun."""
        names = [path.stem for path in self._attempts.glob("*.json")]
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def end(self, number: int, how: str, sentence: str = "") -> None:
        """Records how an attempt ended, and what its process said last. Raises OSError."""
        record = _read(self._attempt(number)) or {}
        record |= {"ended": how, "steps": self.saved_steps(), "sentence": sentence}
        files.write_whole(self._attempt(number), json.dumps(record).encode())

    def sentence(self, number: int) -> str:
        """What the process of an attempt said last, where it crashed."""
        return str((_read(self._attempt(number)) or {}).get("sentence", ""))

    def has_ended(self, number: int) -> bool:
        """Whether an attempt has said how it ended; also of one that never was."""
        return "ended" in (_read(self._attempt(number)) or {"ended": ""})

    def crashes(self) -> int:
        """How often in a row an attempt crashed without having come further than the one before."""
        ends = [_read(self._attempt(number)) or {} for number in range(self.newest(), 0, -1)]
        known = [end for end in ends if "ended" in end]  # else nobody was there to see it
        count = 0
        for end in known:
            if end["ended"] not in (CRASHED, LOST) or end["steps"] != known[0]["steps"]:
                break
            count += 1
        return count

    def _attempt(self, number: int) -> pathlib.Path:
        return self._attempts / f"{number}.json"

    # --- The run --------------------------------------------------------------------------------

    def saved_steps(self) -> int | None:
        """Agent steps of the newest checkpoint; None: there is none."""
        names = Store(self.run / "checkpoints").names()
        return int(names[-1]) if names else None

    def is_in_use(self) -> bool:
        """Whether a process holds the run. Raises ConfigError where that cannot be said."""
        if not self.run.is_dir():
            return False
        try:
            with files.lock(self.run):
                return False
        except files.InUseError:
            return True

    def clear(self) -> None:
        """Deletes a run that has no checkpoint: it begins anew. Raises OSError."""
        if self.run.is_dir():
            shutil.rmtree(self.run)

    def standing(self) -> Standing:
        """How far the run is, by its logs."""
        rows = _last_rows(self.run / "metrics.jsonl")
        returns = [row["episode_return"] for row in rows if row.get("episode_return") is not None]
        return Standing(
            steps=max((int(row["steps"]) for row in rows), default=0),
            training=sum(returns) / len(returns) if returns else None,
            evaluations=_evaluations(self.run / "evaluations.csv"),
        )

    # --- The result -----------------------------------------------------------------------------

    def result(self) -> Record | None:
        """How the trial ended; None: it has not."""
        return _read(self._result)

    def final_result(self) -> Record | None:
        """How the trial ended; None too: pruned, which another sweep may want whole."""
        result = self.result()
        return None if result and result["status"] == PRUNED else result

    def reopen(self) -> None:
        """Takes a result away. Raises OSError."""
        self._result.unlink(missing_ok=True)

    def write_result(self, number: int, result: Record) -> bool:
        """Ends the trial, if the attempt is the newest and no other has. Raises OSError.

        Returns:
          Whether this attempt has written it.
        """
        temporary = self.path / f"result.{number}{files.TEMPORARY}"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"attempt": number, **result}))
            file.flush()
            os.fsync(file.fileno())
        try:
            if self.newest() != number or self._result.exists():
                return False
            try:
                os.link(temporary, self._result)  # fails where there is one
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                temporary.replace(self._result)
            files.sync_folder(self.path)
            return True
        finally:
            temporary.unlink(missing_ok=True)

    def last_line(self) -> str:
        """The last line that jdqn.train has printed."""
        lines = [line for line in _tail(self.log).splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


def notes(paths: Iterable[str]) -> list[str]:
    """Of each path that is a sweep's directory how its trials have ended, a sentence."""
    found = []
    for path in paths:
        trials = [p.parent for p in sorted(pathlib.Path(path).glob("trials/*/attempts"))]
        statuses = [(Folder(trial).result() or {}).get("status", "not ended") for trial in trials]
        if trials:
            counts = collections.Counter(statuses)
            told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
            found.append(f"The sweep {path} has begun {len(trials)} trials: {told}.")
    return found


def _read(path: pathlib.Path) -> Record | None:
    """A record; None: there is none, or it is being written."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _tail(path: pathlib.Path) -> str:
    """The end of a file; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _last_rows(path: pathlib.Path) -> list[Record]:
    """The rows of the last log event: one for each seed."""
    rows: list[Record] = []
    for line in reversed(_tail(path).splitlines()):
        try:
            row = json.loads(line)
            steps = row["steps"]
        except (ValueError, KeyError, TypeError):
            continue  # half written, or cut off
        if rows and steps != rows[0]["steps"]:
            break
        rows.append(row)
    return rows


def _evaluations(path: pathlib.Path) -> dict[int, float]:
    """Mean return by steps; a row that is being written is left out."""
    found: dict[int, list[float]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return {}
    header = lines[0].strip().split(",") if lines else []
    if not {"steps", "return_mean"} <= {*header}:
        return {}
    for line in lines[1:]:
        cells = line.strip().split(",")
        if line.endswith("\n") and len(cells) == len(header):
            row = dict(zip(header, cells, strict=True))
            found.setdefault(int(row["steps"]), []).append(float(row["return_mean"]))
    return {steps: sum(means) / len(means) for steps, means in found.items()}
