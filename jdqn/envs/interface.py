"""How a user's own copy of an environment is spoken to: its observations in, its actions out.

The adapters show the agent frames and take numbers from 0 on; `gymnasium.make`, gymnax and the rest
show raw observations and have actions of their own. This is the one place between the two.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium import spaces

from jdqn.config import ConfigError
from jdqn.envs.guard import short
from jdqn.records import EnvSpec


class Interface(NamedTuple):
    """What an environment shows and takes, beside what the agent sees of it."""

    spec: EnvSpec
    shape: tuple[int, ...]  # of one raw observation, `*raw`
    dtype: np.dtype  # in which raw observations are exported
    first_class: int | None = None  # of a Discrete observation, seen as one-hot; None: it is none
    first_action: int = 0

    def batch(self, observation: Any) -> tuple[np.ndarray, bool]:
        """One raw observation `[*raw]`, or several `[B, *raw]`, as several; whether it was one.

        Raises:
          ConfigError: it has another shape.
        """
        array = _array(observation)
        if array.shape == self.shape:
            return array[None], True
        if array.shape[1:] == self.shape and array.ndim > len(self.shape) and len(array):
            return array, False
        several = ", ".join(["B", *map(str, self.shape)])
        raise ConfigError(
            f"observation of shape {array.shape}: expected one of shape {self.shape}, or a batch "
            f"[{several}]"
        )

    def frames(self, observations: np.ndarray) -> np.ndarray:
        """What the agent sees, `[B, *frame_shape]`, of raw observations `[B, *raw]`.

        Raises:
          ConfigError: not numbers, or not such as the environment shows.
        """
        if observations.dtype.kind not in "fiub":
            raise ConfigError(f"observation {short(observations)}: expected numbers")
        if self.first_class is not None:
            return self._one_hot(observations)
        wanted = self.spec.frame_dtype
        with np.errstate(over="ignore", invalid="ignore"):  # seen below
            frames = observations.astype(wanted)
        if np.issubdtype(wanted, np.floating):
            if not np.isfinite(frames).all():
                raise ConfigError("observation with a number that is not finite")
        elif observations.dtype != wanted and not np.array_equal(frames, observations):
            raise ConfigError(
                f"observation of {observations.dtype}: expected {wanted}, whole numbers from 0 to "
                "255 as the environment shows them"
            )
        return frames.reshape(-1, *self.spec.frame_shape)

    def actions(self, numbers: np.ndarray) -> np.ndarray:
        """The environment's own actions `[B]` of the agent's, numbers `[B]` from 0 on."""
        return numbers.astype(np.int64) + self.first_action

    def _one_hot(self, observations: np.ndarray) -> np.ndarray:
        assert self.first_class is not None
        (num_classes,) = self.spec.frame_shape
        last = self.first_class + num_classes - 1
        is_one = (observations >= self.first_class) & (observations <= last)
        if observations.dtype.kind not in "iu" or not is_one.all():
            raise ConfigError(
                f"observation {short(observations)}: expected whole numbers from "
                f"{self.first_class} to {last}"
            )
        classes = self.first_class + np.arange(num_classes)
        return (observations[:, None] == classes).astype(self.spec.frame_dtype)


def interface(env: Any) -> Interface:
    """The interface of an adapter's environments; of others, that of their frames.

    Args:
      env: behind the vector protocol, not guarded.
    """
    spec = env.spec
    raw = getattr(env, "observation", None)
    if isinstance(raw, jax.ShapeDtypeStruct):  # of `jax_native`
        return Interface(spec, tuple(raw.shape), np.dtype(raw.dtype))
    space = getattr(env, "observation_space", None)
    is_gym = isinstance(space, spaces.Space)
    first_action = int(env.action_space.start) if is_gym else 0
    if isinstance(space, spaces.Discrete):
        return Interface(spec, (), np.dtype(np.int64), int(space.start), first_action)
    dtype = np.dtype(spec.frame_dtype)
    return Interface(spec, tuple(spec.frame_shape), dtype, first_action=first_action)


def _array(value: Any) -> np.ndarray:
    """What NumPy makes of a value; an array of objects where it makes nothing."""
    try:
        return np.asarray(value)
    except Exception:  # a ragged list
        return np.empty((), object)
