"""How a user's own copy of an environment is spoken to: its observations in, its actions out.

The adapters show the agent frames and take numbers from 0 on; `gymnasium.make`, gymnax and the rest
show raw observations and have actions of their own. This is the one place between the two.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium.vector.utils as vector_utils
import jax
import numpy as np
from gymnasium import spaces

from jdqn.config import ConfigError
from jdqn.envs.guard import short
from jdqn.envs.spaces import Codec, NotOfSpace, as_array
from jdqn.records import EnvSpec


class Interface(NamedTuple):
    """What an environment shows and takes, beside what the agent sees of it."""

    spec: EnvSpec
    # What an exported graph takes as one observation: raw, or a frame where `takes_frames`.
    shape: tuple[int, ...]
    dtype: np.dtype
    first_class: int | None = None  # of a Discrete observation, seen as one-hot; None: it is none
    affine: tuple[Any, Any] | None = None  # factor and offset of raw entries in a frame of floats
    takes_frames: bool = False
    codec: Codec | None = None  # of Gymnasium's spaces; None: raw observations are frames

    def batch(self, observation: Any) -> tuple[Any, bool]:
        """One raw observation, or several, as several; whether it was one.

        Of a Dict or Tuple space several are a list, or one of arrays `[B, ...]` as vector
        environments show them; of any other an array `[B, *raw]`.

        Raises:
          ConfigError: it has another shape.
        """
        shape = self.codec.observation_space.shape if self.codec else self.shape
        if shape is None:
            return self._in_parts(observation)
        array = as_array(observation)
        if self.affine and array.dtype.kind in "iu" and self.dtype.kind == "f":
            array = array.astype(self.dtype)  # [0, 0, 0, 0], typed by hand
        if array.shape == shape:
            return array[None], True
        if array.shape[1:] == shape and array.ndim > len(shape) and len(array):
            return array, False
        several = ", ".join(["B", *map(str, shape)])
        raise ConfigError(
            f"observation of shape {array.shape}: expected one of shape {shape}, or a batch "
            f"[{several}]"
        )

    def frames(self, observations: Any) -> np.ndarray:
        """What the agent sees, `[B, *frame_shape]`, of several raw observations.

        Raises:
          ConfigError: not such as the environment shows.
        """
        frames = self._encoded(observations) if self.codec else self._cast(observations)
        if np.issubdtype(frames.dtype, np.floating) and not np.isfinite(frames).all():
            raise ConfigError("observation with a number that is not finite")
        return frames.reshape(-1, *self.spec.frame_shape)

    def actions(self, numbers: np.ndarray) -> np.ndarray:
        """The environment's own actions `[B, ...]` of the agent's, numbers `[B]` from 0 on."""
        if self.codec is None:
            return numbers.astype(np.int64)
        return np.stack([self.codec.decode_action(int(number)) for number in numbers])

    def _in_parts(self, observation: Any) -> tuple[list[Any], bool]:
        """`batch` of a Dict or Tuple space."""
        assert self.codec is not None
        if isinstance(observation, list):
            if not observation:
                raise ConfigError("observation []: expected one, or a list of them")
            return observation, False
        try:
            self.codec.encode(observation)
        except NotOfSpace:
            return _taken_apart(self.codec.observation_space, observation), False
        return [observation], True

    def _encoded(self, observations: Any) -> np.ndarray:
        assert self.codec is not None
        try:
            return np.stack([self.codec.encode(one) for one in observations])
        except NotOfSpace as error:
            raise ConfigError(f"observation {error}") from None

    def _cast(self, observations: np.ndarray) -> np.ndarray:
        if observations.dtype.kind not in "fiub":
            raise ConfigError(f"observation {short(observations)}: expected numbers")
        wanted = self.spec.frame_dtype
        with np.errstate(over="ignore", invalid="ignore"):  # seen below, and by `frames`
            frames = observations.astype(wanted)
        is_whole = not np.issubdtype(wanted, np.floating)
        if is_whole and observations.dtype != wanted and not np.array_equal(frames, observations):
            raise ConfigError(
                f"observation of {observations.dtype}: expected {wanted}, whole numbers from 0 to "
                "255 as the environment shows them"
            )
        return frames


def _taken_apart(space: spaces.Space, observation: Any) -> list[Any]:
    """The observations in one of arrays `[B, ...]`; what is none is left for `frames` to refuse."""
    leaf = observation
    while isinstance(leaf, Mapping | tuple) and leaf:
        leaf = next(iter(leaf.values())) if isinstance(leaf, Mapping) else leaf[0]
    try:
        batched = vector_utils.batch_space(space, len(leaf))
        return list(vector_utils.iterate(batched, observation)) or [observation]
    except Exception:  # whatever Gymnasium raises of what is no batch
        return [observation]


def interface(env: Any) -> Interface:
    """The interface of an adapter's environments; of others, that of their frames.

    Args:
      env: behind the vector protocol, not guarded.
    """
    spec = env.spec
    raw = getattr(env, "observation", None)
    if isinstance(raw, jax.ShapeDtypeStruct):  # of `jax_native`
        return Interface(spec, tuple(raw.shape), np.dtype(raw.dtype))
    codec = getattr(env, "codec", None)
    if isinstance(codec, Codec):
        return _of_codec(codec)
    return Interface(spec, tuple(spec.frame_shape), np.dtype(spec.frame_dtype))


def _of_codec(codec: Codec) -> Interface:
    """Raw observations of a graph where it can make frames of them, as of most spaces."""
    space = codec.observation_space
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return Interface(codec.spec, (), np.dtype(np.int64), first_class=first, codec=codec)
    if codec.affine is None:
        spec = codec.spec
        dtype = np.dtype(spec.frame_dtype)
        return Interface(spec, spec.frame_shape, dtype, takes_frames=True, codec=codec)
    assert space.shape is not None
    raw = np.dtype(space.dtype)
    return Interface(codec.spec, space.shape, raw, affine=codec.affine, codec=codec)
