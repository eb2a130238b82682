"""Any Gymnasium environment with discrete actions."""

import contextlib
import functools
import itertools
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from jdqn.config import ConfigError
from jdqn.config.schema import Env
from jdqn.envs.guard import EnvError, problem, said, short
from jdqn.records import EnvSpec, Timestep

# What Gymnasium's functions return.
RESET = ("observation", "info")
STEP = ("observation", "reward", "terminated", "truncated", "info")


def known() -> list[str]:
    """Ids in Gymnasium's registry."""
    return list(gymnasium.registry)


def is_known(name: str) -> bool:
    """Whether an id is in Gymnasium's registry."""
    return name in gymnasium.registry


def has_limit(name: str) -> bool:
    """Whether an id was registered with a step limit."""
    return gymnasium.registry[name].max_episode_steps is not None


def make(fields: Env, *, num_envs: int, seed: int) -> "GymEnv":
    """Makes `num_envs` copies of a Gymnasium environment; see `GymEnv`.

    Raises:
      ConfigError: it cannot be made, or has spaces that a Q-network cannot handle.
    """
    name = fields.name
    copies = itertools.count()

    def checked(env: gymnasium.Env) -> gymnasium.Wrapper:
        which = functools.partial(problem, name=name, copy=next(copies), num_envs=num_envs)
        return gymnasium.wrappers.TimeLimit(_Checked(env, which), fields.max_episode_steps)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # old versions of an id still run
            envs = gymnasium.make_vec(
                name,
                num_envs=num_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP},
                wrappers=[checked],
                disable_env_checker=True,  # looks at the first step only
            )
    except Exception as error:  # whatever its constructor raises
        raise ConfigError(
            f'env.name = "{name}": Gymnasium cannot make it: {said(error)}'
        ) from error
    return GymEnv(envs, name, seed, fields.frame_stack)


class _Checked(gymnasium.Wrapper):
    """One copy: what it raises or returns wrongly becomes an `EnvError` that names it.

    Whether numbers are finite is seen by `guard`, of all copies at once. `info` is dropped: nobody
    reads it, and an odd one cannot be put together with those of the other copies.
    """

    def __init__(self, env: gymnasium.Env, which: Callable[[str], EnvError]):
        super().__init__(env)
        self._which = which
        self._space = env.observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the environment's own, checked."""
        answer = self._ask("reset", RESET, seed=seed, options=options)
        return self._observation("reset", answer[0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As the environment's own, checked."""
        observation, reward, terminated, truncated, _ = self._ask("step", STEP, action)
        return (
            self._observation("step", observation),
            self._number("reward", reward, "fiub"),
            bool(self._number("terminated", terminated, "biu")),
            bool(self._number("truncated", truncated, "biu")),
            {},
        )

    def close(self) -> None:
        """Closes this copy; one that is broken must not keep the others open."""
        with contextlib.suppress(Exception):
            super().close()

    def _ask(self, method: str, parts: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
        try:
            answer = getattr(self.env, method)(*args, **kwargs)
        except Exception as error:
            text = f"raised {said(error)}"
            if _unpacking_failed(error):
                text = f"did not return {', '.join(parts)} ({said(error)})"
            raise self._which(f"{method} {text}") from error
        if not isinstance(answer, tuple) or len(answer) != len(parts):
            raise self._which(f"{method} returned {short(answer)}, expected {', '.join(parts)}")
        return answer

    def _number(self, what: str, value: Any, kinds: str) -> Any:
        """A Python number; arrays of one element are taken for one."""
        if type(value) is bool or (type(value) is float and "f" in kinds):
            return value
        array = _array(value)
        if array.size != 1 or array.dtype.kind not in kinds:
            raise self._which(f"step returned {what} {short(repr(value))}, not a number")
        return array.item()

    def _observation(self, method: str, observation: Any) -> Any:
        space = self._space
        array = _array(observation)
        cast = _cast(array, space.dtype) if array.shape == space.shape else None
        if cast is not None and isinstance(space, spaces.Discrete):
            # What `space.contains` says, sooner.
            cast = cast if 0 <= int(cast) - int(space.start) < int(space.n) else None
        if cast is None:
            seen = f"{short(repr(observation))}, shape {array.shape}, {array.dtype}"
            raise self._which(f"{method} returned an observation not of {short(space)}: {seen}")
        return cast


def _array(value: Any) -> np.ndarray:
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


def _unpacking_failed(error: Exception) -> bool:
    """Whether a wrapper of Gymnasium's could not unpack what the environment returned."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    return "unpack" in str(error) and module.startswith("gymnasium.")


class GymEnv:
    """Adapter over Gymnasium's synchronous vector environment, which resets on the next step.

    Observations: Box vectors as f32, uint8 images as they are (scaled by 1/255), Discrete as
    one-hot u8. Actions: Discrete, its `start` respected.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv, name: str, seed: int, frame_stack: int):
        action_space = envs.single_action_space
        if not isinstance(action_space, spaces.Discrete) or int(action_space.n) < 2:
            raise ConfigError(
                f'env.name = "{name}": its action space is {short(action_space)}; a Q-network '
                "needs Discrete actions, two at least"
            )
        space = envs.single_observation_space
        self.spec = _spec(space, name, frame_stack, int(action_space.n))
        self.observation_space = space
        self.action_space = action_space
        self._envs = envs
        self._seed = seed
        self._classes: np.ndarray | None = None
        if isinstance(space, spaces.Discrete):
            self._classes = int(space.start) + np.arange(int(space.n))
        self._start = int(action_space.start)
        self._action_dtype = action_space.dtype
        self._ended = np.zeros(envs.num_envs, bool)
        self._action = np.zeros(envs.num_envs, self._action_dtype)

    def reset(self) -> Timestep:
        """Starts every environment; environment i is seeded with `seed + i`."""
        observation, _ = self._envs.reset(seed=self._seed)
        no = np.zeros(self._envs.num_envs, bool)
        self._ended = no
        return Timestep(self._frame(observation), no.astype(np.float32), no, no, ~no)

    def send(self, action: np.ndarray) -> None:
        """Keeps the actions `[E]`; the step is made in `recv`."""
        self._action = action.astype(self._action_dtype) + self._start

    def recv(self) -> Timestep:
        """Makes the step."""
        observation, reward, terminated, truncated, _ = self._envs.step(self._action)
        first = self._ended
        self._ended = terminated | truncated
        with np.errstate(over="ignore"):  # infinite is for `guard` to see
            reward = reward.astype(np.float32)
        return Timestep(
            self._frame(observation),
            reward,
            terminated.copy(),
            self._ended,
            first,
        )

    def close(self) -> None:
        """Closes the environments."""
        self._envs.close()

    def save(self) -> dict[str, np.ndarray] | None:
        """Gymnasium has no way to save an environment."""
        return None

    def restore(self, saved: Mapping[str, np.ndarray], timestep: Timestep) -> bool:
        """Cannot be brought back."""
        return False

    def _frame(self, observation: np.ndarray) -> np.ndarray:
        """Fresh array `[E, *frame_shape]`."""
        if self._classes is not None:
            return (observation[:, None] == self._classes).astype(np.uint8)
        with np.errstate(over="ignore"):  # infinite is for `guard` to see
            return np.array(observation, self.spec.frame_dtype)


def _spec(space: gymnasium.Space, name: str, frame_stack: int, num_actions: int) -> EnvSpec:
    """What observations of a space become."""
    if isinstance(space, spaces.Discrete):
        return EnvSpec((int(space.n),), np.dtype(np.uint8), frame_stack, num_actions, 1.0)
    if isinstance(space, spaces.Box) and 0 not in space.shape:
        if space.dtype == np.uint8 and len(space.shape) in (2, 3):
            return EnvSpec(space.shape, np.dtype(np.uint8), frame_stack, num_actions, 1.0 / 255.0)
        if len(space.shape) == 1:
            return EnvSpec(space.shape, np.dtype(np.float32), frame_stack, num_actions, 1.0)
    raise ConfigError(
        f'env.name = "{name}": its observation space is {short(space)}; expected a Box vector, '
        "a uint8 image (neither of them empty) or Discrete"
    )
