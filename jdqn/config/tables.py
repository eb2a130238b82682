"""Tables of free keys in a configuration: checked, and frozen as all else."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from jdqn.config.wording import shown

DEEPEST = 16  # tables and lists inside each other
LARGEST = 2**63 - 1  # whole number of TOML


class Table(Mapping[str, Any]):
    """A TOML table that can be hashed: nothing changes it."""

    def __init__(self, items: Mapping[str, Any]):
        """Of values that can be hashed; see `table`."""
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        # What Python holds for equal, 1 and 1.0 and true, makes other environments.
        return self._text() == other._text() if isinstance(other, Table) else self.plain() == other

    def __hash__(self) -> int:
        return hash(self._text())

    def __repr__(self) -> str:
        return repr(self.plain())

    def _text(self) -> str:
        return json.dumps(self.plain(), sort_keys=True)

    def plain(self) -> dict[str, Any]:
        """As dictionaries and lists, a new one for each call."""
        return _plain(self)


def table(value: Any) -> Table:
    """A table of keyword arguments; lists and tables inside become tuples and `Table`s.

    Raises:
      ValueError: no table, or what not both TOML and JSON can hold.
    """
    if not isinstance(value, Mapping):
        raise ValueError("must be a table of keyword arguments such as {size = 7}")
    frozen = _frozen(value, "")
    assert isinstance(frozen, Table)
    return frozen


def _frozen(value: Any, path: str, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"{path.partition('.')[0]} is more than {DEEPEST} tables or lists deep")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"its key {shown(key)} must be a string")
        start = f"{path}." if depth else ""
        inside = {k: _frozen(inner, f"{start}{k}", depth + 1) for k, inner in value.items()}
        return Table(inside)
    if isinstance(value, list | tuple):
        return tuple(_frozen(inner, path, depth + 1) for inner in value)
    if not isinstance(value, str | bool | int | float):
        raise ValueError(
            f"{path} is {shown(value)}, expected a string, a number, a boolean, or a list or table "
            "of these"
        )
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{path} is {shown(value)}, expected a whole number of at most 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} is {value}, expected a finite number")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value
