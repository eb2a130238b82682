"""Runs as commands are told them: `RUN`, `LABEL=RUN,RUN`, a folder of runs."""

import os
import pathlib
import tomllib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jdqn.config import ConfigError


class Given(NamedTuple):
    """One argument."""

    label: str | None  # None: it has none
    paths: tuple[str, ...]


def read(texts: Sequence[str]) -> list[Given]:
    """What each `LABEL=RUN,...` says.

    Raises:
      ConfigError: a run without a name, a label given twice.
    """
    found: list[Given] = []
    for text in texts:
        label, _, joined = text.rpartition("=")
        given = Given(label or None, tuple(joined.split(",")))
        if not all(given.paths):
            raise ConfigError(f"{text}: a run has no name, expected LABEL=RUN,...")
        if given in found or (label and label in [before.label for before in found]):
            raise ConfigError(f"{text}: label given twice, expected LABEL=RUN,RUN once")
        found.append(given)
    return found


def environment_of(path: pathlib.Path) -> str | None:
    """The environment that a run directory records; None: of a table, or what cannot be read."""
    try:
        text = (path / "config.toml").read_text(encoding="utf-8")
        name = tomllib.loads(text).get("env", {}).get("name")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def runs_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The run directories in a folder, however deep: they have `config.toml` and `episodes.csv`."""
    return sorted(_walk(folder))


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for path, inner, files in os.walk(folder):
        if "config.toml" in files:
            inner.clear()  # nothing of a run is another
            if "episodes.csv" in files:
                yield pathlib.Path(path)
