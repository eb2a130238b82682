"""`send` and `recv` by turns, with actions that there are: anything else is refused."""

from typing import Any

import numpy as np

from jdqn.config import ConfigError
from jdqn.envs.guard import short


class Turns:
    """What an adapter asks before it acts, so that a mistake of its caller's is one sentence."""

    def __init__(self, num_envs: int, num_actions: int):
        self._num_envs = num_envs
        self._num_actions = num_actions
        self._due = "reset"

    def start(self) -> None:
        """The environments have been started, or brought back."""
        self._due = "send"

    def send(self, action: Any) -> np.ndarray:
        """The actions as an array `[E]`.

        Raises:
          ConfigError: they are not such, or it is not the turn of `send`.
        """
        self._check("send")
        array = np.asarray(action)
        fits = array.shape == (self._num_envs,) and array.dtype.kind in "iu"
        if not fits or array.min() < 0 or array.max() >= self._num_actions:
            raise ConfigError(
                f"send({short(action)}): expected {self._num_envs} whole numbers from 0 to "
                f"{self._num_actions - 1}, an action for each environment"
            )
        self._due = "recv"
        return array

    def recv(self) -> None:
        """Raises ConfigError where nothing has been sent."""
        self._check("recv")
        self._due = "send"

    def _check(self, method: str) -> None:
        if method != self._due:
            raise ConfigError(
                f"{method}() where {self._due}() is due: expected reset() once, then send(action) "
                "and recv() by turns"
            )
