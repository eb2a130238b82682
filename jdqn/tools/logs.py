"""The logs of runs: tables and lines of JSON. A last line that was cut off is left out."""

import csv
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jdqn.config import ConfigError

Row = tuple[str | float, ...]
LARGEST = 1e100  # no run has such numbers, and sums of larger ones overflow


def read_table(path: pathlib.Path, words: Sequence[str], numbers: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file; warns of a last line that was cut off. An empty file has none.

    Args:
      path: the file.
      words: columns to return as they are.
      numbers: columns of finite numbers, returned after the words.

    Raises:
      ConfigError: not such a table.
    """
    text = _text(path)
    if not text:  # a run that was cut off before it wrote the names of the columns
        return
    lines = text.splitlines(keepends=True)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
    except csv.Error:
        header = []
    if missing := {*words, *numbers} - set(header):
        raise ConfigError(f"{path} has no columns {', '.join(sorted(missing))}")
    places = [header.index(name) for name in (*words, *numbers)]
    found = 0
    try:
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise ValueError
                cells = [row[place] for place in places]
                yield (*cells[: len(words)], *map(_finite, cells[len(words) :]))
                found += 1
    except (csv.Error, ValueError):
        if reader.line_num < len(lines) or text.endswith("\n"):
            raise ConfigError(
                f"{path}, line {reader.line_num}: expected {len(header)} columns, numbers under "
                f"{' and '.join(numbers)}"
            ) from None
        if found:
            _warn_of_cut(path)


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; warns of a last line that was cut off.

    Raises:
      ConfigError: it is damaged, or there is no line.
    """
    text = _text(path)
    lines = text.splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError
            rows.append(row | {"steps": _finite(row["steps"])})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            if number < len(lines) or text.endswith("\n"):
                raise ConfigError(
                    f"{path}, line {number}: expected a JSON object with steps"
                ) from None
            if rows:
                _warn_of_cut(path)
    if not rows:
        raise ConfigError(f"{path}: nothing has been logged")
    return rows


def by_seed(rows: Iterator[Row]) -> dict[str, np.ndarray]:
    """Rows whose first cell is the seed, in order of appearance: the other cells, `[n, ...]`."""
    found: dict[str, list[Any]] = {}
    for seed, *cells in rows:
        found.setdefault(str(seed), []).append(cells)
    return {seed: np.array(cells) for seed, cells in found.items()}


def is_number(value: Any) -> bool:
    """Whether a value of a log can be drawn: no NaN, nothing near what overflows."""
    return type(value) in (int, float) and abs(value) < LARGEST


def _finite(cell: Any) -> float:
    value = float(cell)
    if not is_number(value):
        raise ValueError
    return value


def _warn_of_cut(path: pathlib.Path) -> None:
    sys.stderr.write(f"warning: {path}: its last line is cut off and left out\n")


def _text(path: pathlib.Path) -> str:
    """A log's text. Only of a regular file: reading a pipe may wait for ever."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"cannot read {path}: not a regular file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read {path}: it is not UTF-8") from None
