"""Functions of the user's that a run calls: with each log row, with each row of an evaluation."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jdqn.config import ConfigError, shown
from jdqn.runs import stopping

Row = dict[str, Any]
Hook = Callable[[Row], Any]


class Hooks:
    """What a run tells, and what came of it.

    A function that returns True stops the run, and so does one that raises: its exception waits in
    `error` until the run has saved its checkpoint. Any other answer means nothing.
    """

    def __init__(self, on_log: Hook | None = None, on_evaluation: Hook | None = None):
        """Raises ConfigError where something is no function."""
        self.error: Exception | None = None
        self._functions = {stopping.ON_LOG: on_log, stopping.ON_EVALUATION: on_evaluation}
        for reason, function in self._functions.items():
            if function is not None and not callable(function):
                raise ConfigError(
                    f"{stopping.name_of(reason)} = {shown(function)}: expected a function of one "
                    "row, a dict, or None"
                )

    def tell(self, reason: int, rows: Iterable[Row], stop: stopping.Stop) -> float:
        """Calls a function with each of some rows.

        Args:
          reason: `stopping.ON_LOG` or `stopping.ON_EVALUATION`: which one.
          rows: of the steps that the run is at, one for each seed.
          stop: is asked for where the function wants it.

        Returns:
          The seconds it took.
        """
        function = self._functions[reason]
        if function is None:
            return 0.0
        began = time.monotonic()
        try:
            answers = [function(row) for row in rows]
        except Exception as error:  # whatever the user's code raises
            self.error = self.error or error  # the first is what it began with
            answers = [True]
        # Not whatever is true: a function may return what it has drawn.
        if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
            stop.reasons.append(reason)
        return time.monotonic() - began
