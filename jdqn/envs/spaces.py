"""What the spaces of a Gymnasium environment become: frames of numbers, and numbered actions.

Pure functions of one observation or action of one environment, for adapters and for whoever acts
outside of one. All can be sent to another process.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from jdqn.config import ConfigError, shown
from jdqn.config.schema import Env
from jdqn.envs.guard import short
from jdqn.records import EnvSpec

LARGEST_VECTOR = 65_536  # entries of a vector that is not simply a Box; Discrete actions
MOST_ACTIONS = 1_024  # of several choices at once
SMALLEST_SIDE = 36  # of what is taken for an image: what the nature torso needs
LARGEST_SIDE = 84  # of a frame, as on Atari
BYTE = 255.0

Part = Callable[[Any], np.ndarray]  # a value to a vector, or an image


class NotOfSpace(ValueError):
    """A value that its space does not contain, in words that follow "an observation"."""


class Codec(NamedTuple):
    """One environment's spaces, and what stands for their values."""

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    spec: EnvSpec
    # An observation to a frame, `spec.frame_shape` of `spec.frame_dtype`. Raises NotOfSpace.
    encode: Callable[[Any], np.ndarray]
    decode_action: Callable[[int], Any]  # 0 .. A - 1 to an action
    said: tuple[str, ...] = ()  # what is to be known of it, a sentence each
    # Factor and offset that make a flat frame of a flat observation; None: it takes more.
    affine: tuple[Any, Any] | None = None


class _Frames(NamedTuple):
    """How observations become frames."""

    shape: tuple[int, ...]
    dtype: Any
    scale: float  # what the network multiplies by
    encode: Part
    said: tuple[str, ...] = ()
    affine: tuple[Any, Any] | None = None


def make_codec(
    observation_space: gymnasium.Space, action_space: gymnasium.Space, fields: Env
) -> Codec:
    """How an environment with these spaces is seen.

    Args:
      observation_space: of a single environment.
      action_space: of a single environment.
      fields: uses `name`, `frame_stack` and `observation_scale`.

    Raises:
      ConfigError: spaces that a Q-network cannot handle, or a scale that does not fit them.
    """
    actions = _actions(action_space, fields.name)
    frames = _frames(observation_space, fields)
    spec = EnvSpec(
        frames.shape, np.dtype(frames.dtype), fields.frame_stack, len(actions), frames.scale
    )
    return Codec(
        observation_space,
        action_space,
        spec,
        frames.encode,
        functools.partial(_row, actions),
        frames.said,
        frames.affine,
    )


# --- Actions ------------------------------------------------------------------------------------


def _actions(space: gymnasium.Space, name: str) -> np.ndarray:
    """All actions of a space, `[A, ...]`; the last choice of several changes first."""
    sizes: list[int] = []
    start: Any = 0
    if isinstance(space, spaces.Discrete):
        sizes = [int(space.n)]
        start = space.start
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.reshape(-1).tolist()
        start = space.start
    elif isinstance(space, spaces.MultiBinary):
        sizes = [2] * math.prod(space.shape)
    most = LARGEST_VECTOR if isinstance(space, spaces.Discrete) else MOST_ACTIONS
    if not 2 <= math.prod(sizes) <= most:
        raise ConfigError(
            f'env.name = "{name}": its action space is {short(space)}; a Q-network needs '
            f"Discrete actions, two at least and at most {LARGEST_VECTOR:,}, or MultiDiscrete or "
            f"MultiBinary ones of at most {MOST_ACTIONS:,} combinations"
        )
    choices = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=-1)
    return (choices.reshape(-1, *(space.shape or ())) + start).astype(space.dtype)


def _row(actions: np.ndarray, index: int) -> Any:
    return actions[index].copy()


# --- Observations -------------------------------------------------------------------------------


def _frames(space: Any, fields: Env) -> _Frames:
    name = fields.name
    scale = fields.observation_scale
    start = f'env.name = "{name}": its observation space is {short(space)}'
    if odd := _odd(space):
        raise ConfigError(
            f"{start}; expected Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of "
            f"these, not {odd}"
        )
    size = spaces.utils.flatdim(space)
    if not size:
        raise ConfigError(f"{start}, which is empty")
    if _is_image(space):
        if not isinstance(scale, str):
            raise ConfigError(
                f"env.observation_scale = {shown(scale)}: {name} shows images, which are divided "
                'by 255; expected "none"'
            )
        return _image_frames(space)
    if size > LARGEST_VECTOR and not isinstance(space, spaces.Box):
        raise ConfigError(
            f"{start}, which becomes {size:,} numbers; at most {LARGEST_VECTOR:,} are taken"
        )
    flattened = _flattened(space, size)
    if isinstance(scale, str):
        return _vector_frames(space, size, scale == "bounds")._replace(said=flattened)
    if isinstance(scale, tuple) and len(scale) != size:
        raise ConfigError(
            f"env.observation_scale = {shown(list(scale))}: has {len(scale):,} numbers, the "
            f"observation of {name} has {size:,} entries"
        )
    divide = functools.partial(_divide, _part(space, by_bounds=False), np.array(scale))
    affine = (1.0 / np.array(scale), 0.0) if isinstance(space, spaces.Box) else None
    return _Frames((size,), np.float32, 1.0, divide, flattened, affine)


def _flattened(space: Any, size: int) -> tuple[str, ...]:
    """What is said where something that has rows and columns becomes numbers of a vector."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inside = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return next(filter(None, (_flattened(inner, size) for inner in inside)), ())
    if not isinstance(space, spaces.Box) or len(space.shape) < 2:
        return ()
    return (
        f"{space.dtype} of shape {space.shape} becomes a part of a vector of {size:,} numbers: "
        f"images are uint8, the only observation, and have {SMALLEST_SIDE} pixels a side or more",
    )


def _vector_frames(space: Any, size: int, by_bounds: bool) -> _Frames:
    """A vector: of bytes where it can be, else of floats."""
    if _is_bytes(space):
        encode = functools.partial(_bytes, space, "")
        return _Frames((size,), np.uint8, 1.0 / BYTE, encode, affine=(1.0, 0.0))
    part = _part(space, by_bounds=by_bounds)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return _Frames((size,), np.uint8, 1.0, part)
    affine = None
    if isinstance(space, spaces.Box):
        affine = _to_unit(space) if by_bounds else (1.0, 0.0)
    return _Frames((size,), np.float32, 1.0, functools.partial(_floats, part), affine=affine)


def _odd(space: Any) -> str | None:
    """The first space inside that is not made of numbers, in words."""
    if isinstance(space, spaces.Dict):
        return next(filter(None, map(_odd, space.spaces.values())), None)
    if isinstance(space, spaces.Tuple):
        return next(filter(None, map(_odd, space.spaces)), None)
    if isinstance(space, spaces.Box):
        return None if np.dtype(space.dtype).kind in "fiub" else f"Box of {space.dtype}"
    known = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    return None if isinstance(space, known) else type(space).__name__


def _part(space: Any, where: str = "", *, by_bounds: bool) -> Part:
    """What makes a vector of a value: of bytes 0 and 1 for choices, else of floats."""
    if isinstance(space, spaces.Dict):
        parts = {
            key: _part(inner, f"{where}.{key}", by_bounds=by_bounds)
            for key, inner in space.spaces.items()
        }
        return functools.partial(_of_dict, space, where, parts)
    if isinstance(space, spaces.Tuple):
        of_tuple = [
            _part(inner, f"{where}.{i}", by_bounds=by_bounds)
            for i, inner in enumerate(space.spaces)
        ]
        return functools.partial(_of_tuple, space, where, of_tuple)
    if isinstance(space, spaces.Discrete):
        return functools.partial(_one_hot, space, where, int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.reshape(-1)
        return functools.partial(_one_hots, space, where, sizes, np.cumsum(sizes) - sizes)
    if isinstance(space, spaces.MultiBinary):
        return functools.partial(_bits, space, where)
    if _is_bytes(space):
        return functools.partial(_divide, functools.partial(_bytes, space, where), BYTE)
    if by_bounds:
        return functools.partial(_numbers, space, where, *_to_unit(space))
    return functools.partial(_numbers, space, where, None, None)


def _is_bytes(space: Any) -> bool:
    """Whether a space is of bytes that use their whole range."""
    is_of_bytes = isinstance(space, spaces.Box) and space.dtype == np.uint8
    return bool(is_of_bytes and (space.low == 0).all() and (space.high == BYTE).all())


def _to_unit(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset of each entry that make -1 and 1 of its bounds, where it has some."""
    low = space.low.reshape(-1).astype(np.float64)
    width = space.high.reshape(-1).astype(np.float64) - low
    bounded = (space.bounded_below & space.bounded_above).reshape(-1)
    bounded &= (width > 0) & (width < 1e30)  # some write the largest number for no bound
    factor = np.where(bounded, 2.0 / np.where(bounded, width, 1.0), 1.0)
    return factor, np.where(bounded, -1.0 - low * factor, 0.0)


# --- Values -------------------------------------------------------------------------------------


def _floats(part: Part, value: Any) -> np.ndarray:
    return part(value).astype(np.float32, copy=False)


def _divide(part: Part, divisor: Any, value: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinite is for `guard` to see
        return (part(value) / divisor).astype(np.float32)


def _numbers(space: spaces.Box, where: str, factor: Any, offset: Any, value: Any) -> np.ndarray:
    array = _of_space(space, where, value).reshape(-1)
    with np.errstate(over="ignore"):  # infinite is for `guard` to see
        if factor is not None:
            array = array * factor + offset
        return array.astype(np.float32, copy=False)


def _bytes(space: spaces.Box, where: str, value: Any) -> np.ndarray:
    return _of_space(space, where, value).reshape(-1)


def _one_hot(space: Any, where: str, n: int, start: int, value: Any) -> np.ndarray:
    chosen = int(_of_space(space, where, value)) - start
    if not 0 <= chosen < n:
        raise _stranger(space, where, value)
    hot = np.zeros(n, np.uint8)
    hot[chosen] = 1
    return hot


def _one_hots(
    space: Any, where: str, sizes: np.ndarray, first: np.ndarray, value: Any
) -> np.ndarray:
    chosen = np.reshape(_of_space(space, where, value).astype(np.int64) - space.start, -1)
    if (chosen < 0).any() or (chosen >= sizes).any():
        raise _stranger(space, where, value)
    hot = np.zeros(int(sizes.sum()), np.uint8)
    hot[first + chosen] = 1
    return hot


def _bits(space: spaces.MultiBinary, where: str, value: Any) -> np.ndarray:
    array = as_array(value)
    bits = _of_space(space, where, array.astype(np.int8) if array.dtype == bool else array)
    if (bits != bits.astype(bool)).any():
        raise _stranger(space, where, value)
    return bits.reshape(-1).astype(np.uint8)


def _of_dict(space: spaces.Dict, where: str, parts: Mapping[str, Part], value: Any) -> np.ndarray:
    if not isinstance(value, Mapping) or value.keys() != parts.keys():
        raise _stranger(space, where, value)
    return np.concatenate([part(value[key]) for key, part in parts.items()])


def _of_tuple(space: spaces.Tuple, where: str, parts: Sequence[Part], value: Any) -> np.ndarray:
    if not isinstance(value, tuple | list) or len(value) != len(parts):
        raise _stranger(space, where, value)
    return np.concatenate([part(inner) for part, inner in zip(parts, value, strict=True)])


def _of_space(space: gymnasium.Space, where: str, value: Any) -> np.ndarray:
    """An array of a space's shape and dtype. Raises NotOfSpace."""
    array = as_array(value)
    cast = _cast(array, space.dtype) if array.shape == space.shape else None
    if cast is None:
        raise _stranger(space, where, value)
    return cast


def _stranger(space: gymnasium.Space, where: str, value: Any) -> NotOfSpace:
    array = as_array(value)
    at = f' at "{where[1:]}"' if where else ""
    seen = f"{short(repr(value))}, shape {array.shape}, {array.dtype}"
    return NotOfSpace(f"not of {short(space)}{at}: {seen}")


def as_array(value: Any) -> np.ndarray:
    """What NumPy makes of a value; an array of objects where it makes nothing."""
    try:
        return np.asarray(value)
    except Exception:  # a ragged list, a tensor on a device
        return np.empty((), object)


def _cast(array: np.ndarray, dtype: Any) -> np.ndarray | None:
    """An array in a dtype of its own kind; None: of another, or whole numbers would change."""
    if array.dtype == dtype:
        return array
    for kind in (np.floating, np.integer):
        if np.issubdtype(array.dtype, kind) and np.issubdtype(dtype, kind):
            with np.errstate(over="ignore"):  # infinite is for `guard` to see
                cast = array.astype(dtype)
            return cast if kind is np.floating or np.array_equal(cast, array) else None
    return None


# --- Images -------------------------------------------------------------------------------------


def _is_image(space: Any) -> bool:
    """Whether a space is of bytes in two or three dimensions, large enough for the nature torso."""
    return (
        _is_bytes(space)
        and len(space.shape) in (2, 3)
        and min(_sides(space.shape)[:2]) >= SMALLEST_SIDE
    )


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Channels lie on the shorter one of the first and the last axis."""
    return len(shape) == 3 and shape[0] < shape[2]


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height, width and what is left of an image's shape."""
    return (*shape[1:], shape[0]) if _channels_first(shape) else shape


def _image_frames(space: spaces.Box) -> _Frames:
    """Frames `[H, W]` or `[H, W, C]`, no side longer than Atari's."""
    height, width, *channels = _sides(space.shape)
    shape = (min(height, LARGEST_SIDE), min(width, LARGEST_SIDE))
    said: tuple[str, ...] = ()
    if shape != (height, width):
        said = (f"frames are resized from {height} × {width} to {shape[0]} × {shape[1]}",)
    encode = functools.partial(_image, space, shape)
    deep = shape if channels in ([], [1]) else (*shape, *channels)
    affine = None if said or _channels_first(space.shape) else (1.0, 0.0)
    return _Frames(deep, np.uint8, 1.0 / BYTE, encode, said, affine)


def _image(space: spaces.Box, shape: tuple[int, int], value: Any) -> np.ndarray:
    image = _of_space(space, "", value)
    if image.ndim == 2:
        return _resized(image, shape)
    planes = image if _channels_first(space.shape) else np.moveaxis(image, -1, 0)
    resized = [_resized(plane, shape) for plane in planes]
    return np.stack(resized, axis=-1) if len(resized) > 1 else resized[0]


def _resized(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A plane `[H, W]` u8 in another size; each pixel is the mean of the area it covers."""
    if plane.shape == shape:
        return plane
    height, width = shape
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BOX))
