"""Environments that misbehave: whatever goes wrong is one sentence that names the environment."""

import contextlib
import pathlib
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jdqn.config import RunError
from jdqn.records import EnvSpec, Timestep

if TYPE_CHECKING:
    from jdqn.envs import VectorEnv

# Folders of code that is not the user's: Python's, with what is installed, and jdqn's.
_OTHERS = {pathlib.Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
_OTHERS |= {pathlib.Path(__file__).parents[1]}
FLAG = (np.dtype(bool),)
REWARD = (np.dtype(np.float32), np.dtype(np.float64))


class EnvError(RunError):
    """An environment went wrong: what happened, which environment, which copy where known."""


def guard(env: "VectorEnv", name: str, num_envs: int | None = None) -> "Guarded":
    """Puts a check around environments, whoever wrote them.

    Exceptions become `EnvError`, and so do timesteps of another shape or dtype than `env.spec`
    says, and rewards and observations that are not finite. Of arrays on a device only shape and
    dtype are looked at: fetching them would cost. `close` never raises.

    Args:
      env: the environments; `save`, `restore` and `said`, what is to be known of them, may be
        missing.
      name: what to call them, `env.name`.
      num_envs: E; default: what the first timestep shows.

    Returns:
      The same environments behind the same protocol.
    """
    return Guarded(env, name, num_envs)


def problem(what: str, name: str, copy: int | None = None, num_envs: int = 1) -> EnvError:
    """The error of an environment, or of one of its copies."""
    which = f", copy {copy} of 0 to {num_envs - 1}" if copy is not None and num_envs > 1 else ""
    return EnvError(f'environment "{name}"{which}: {what}')


def said(error: Exception) -> str:
    """An exception on one line, with the place in the user's code where it was raised."""
    kind = type(error).__name__
    text = short(error, 300)
    return (f"{kind}: {text}" if text else kind) + _place(error)


def _place(error: Exception) -> str:
    """` (file.py:31)` of the last line that is the user's own; nothing where none is."""
    frames = traceback.walk_tb(error.__traceback__)
    files = [(frame.f_code.co_filename, line) for frame, line in frames]
    # Code without a file is called `<frozen importlib._bootstrap>` or `<string>`.
    places = [(pathlib.Path(name), line) for name, line in files if not name.startswith("<")]
    own = [(path, line) for path, line in places if not _OTHERS.intersection(path.parents)]
    return f" ({own[-1][0].name}:{own[-1][1]})" if own else ""


def short(value: Any, characters: int = 100) -> str:
    """A value on one line, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= characters else text[:characters] + " ..."


class Guarded:
    """See `guard`."""

    def __init__(self, env: "VectorEnv", name: str, num_envs: int | None):
        self.spec: EnvSpec = env.spec
        self.said: tuple[str, ...] = getattr(env, "said", ())
        self._env = env
        self._name = name
        self._num_envs = num_envs
        self._frames_are_floats = np.issubdtype(self.spec.frame_dtype, np.floating)
        self._frame_shape = tuple(self.spec.frame_shape)
        self._frame_dtype = (np.dtype(self.spec.frame_dtype),)

    def reset(self) -> Timestep:
        """As the environments' own, checked."""
        return self._checked(self._ask(self._env.reset))

    def send(self, action: np.ndarray) -> None:
        """As the environments' own."""
        self._ask(self._env.send, action)

    def recv(self) -> Timestep:
        """As the environments' own, checked."""
        return self._checked(self._ask(self._env.recv))

    def close(self) -> None:
        """Closes what can be closed: environments that are broken may fail at it."""
        with contextlib.suppress(Exception):
            self._env.close()

    def save(self) -> dict[str, np.ndarray] | None:
        """As the environments' own; None where they have none, or not named arrays of numbers."""
        save = getattr(self._env, "save", None)
        saved = self._ask(save) if save else None
        if not isinstance(saved, Mapping):
            return None
        kinds = [getattr(array, "dtype", np.dtype(object)).kind for array in saved.values()]
        fits = all(isinstance(name, str) for name in saved) and set(kinds) <= set("biuf")
        return {name: np.asarray(array) for name, array in saved.items()} if fits else None

    def restore(self, saved: Mapping[str, np.ndarray], timestep: Timestep) -> bool:
        """As the environments' own; False where they have none."""
        restore = getattr(self._env, "restore", None)
        return bool(restore and self._ask(restore, saved, timestep))

    def _ask(self, method: Callable, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except EnvError:
            raise
        except Exception as error:
            what = getattr(method, "__name__", "it")
            raise self._problem(f"{what} raised {said(error)}") from error

    def _checked(self, timestep: Timestep) -> Timestep:
        if not isinstance(timestep, Timestep):
            raise self._problem(f"returned {short(timestep)}, not a Timestep")
        if self._num_envs is None:
            self._num_envs = np.size(timestep.reward)
        per_env = (self._num_envs,)
        self._check("frame", timestep.frame, per_env + self._frame_shape, self._frame_dtype)
        self._check("reward", timestep.reward, per_env, REWARD)
        for field in ("terminated", "last", "first"):
            self._check(field, getattr(timestep, field), per_env, FLAG)
        self._check_finite("reward", timestep.reward)
        if self._frames_are_floats:
            self._check_finite("observation", timestep.frame)
        if isinstance(timestep.reward, np.ndarray):
            return timestep._replace(reward=timestep.reward.astype(np.float32, copy=False))
        return timestep

    def _check(self, field: str, value: Any, shape: tuple, dtypes: tuple) -> None:
        if getattr(value, "shape", None) != shape or value.dtype not in dtypes:
            raise self._problem(f"{field} is {_like(value)}, expected shape {shape}, {dtypes[0]}")

    def _check_finite(self, what: str, value: Any) -> None:
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            copy, *_ = place = tuple(np.argwhere(~np.isfinite(value))[0])
            is_or_has = "is" if len(place) == 1 else "has"
            raise self._problem(f"its {what} {is_or_has} {value[place]}", int(copy))

    def _problem(self, what: str, copy: int | None = None) -> EnvError:
        return problem(what, self._name, copy, self._num_envs or 1)


def _like(value: Any) -> str:
    """Shape and dtype of what should be an array."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"of shape {tuple(value.shape)}, {value.dtype}"
    return f"a {type(value).__name__}"
