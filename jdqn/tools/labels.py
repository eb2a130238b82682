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
    """What each `RUN` or `LABEL=RUN,...` says.

    A name that is there is taken whole, whatever `=` and `,` are in it. Else a label ends at the
    first `=` behind which all runs are there; where there is none such, at the first.

    Raises:
      ConfigError: a run without a name, a label given twice.
    """
    found: list[Given] = []
    for text in texts:
        given = _read(text)
        if not all(given.paths):
            raise ConfigError(f"{text}: a run has no name, expected LABEL=RUN,...")
        if given in found or (given.label and given.label in [before.label for before in found]):
            raise ConfigError(f"{text}: label given twice, expected LABEL=RUN,RUN once")
        found.append(given)
    return found


def _read(text: str) -> Given:
    """What one argument says; a path is empty where a run has no name."""
    if os.path.exists(text) or "=" not in text:
        return Given(None, _paths(text))
    cuts = [i for i, character in enumerate(text) if character == "="]
    ways = [Given(text[:cut] or None, _paths(text[cut + 1 :])) for cut in cuts]
    ways.insert(0, Given(None, _paths(text)))
    return next((way for way in ways if all(map(os.path.exists, way.paths))), ways[1])


def _paths(joined: str) -> tuple[str, ...]:
    """The paths between commas; at each the longest that is there, for it may have commas too."""
    parts = joined.split(",")
    paths: list[str] = []
    while parts:
        lengths = range(len(parts), 1, -1)
        length = next((n for n in lengths if os.path.exists(",".join(parts[:n]))), 1)
        paths.append(",".join(parts[:length]))
        del parts[:length]
    return tuple(paths)


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
