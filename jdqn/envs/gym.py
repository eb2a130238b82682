"""Any Gymnasium environment whose spaces are made of numbers."""

import contextlib
import functools
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as Registered

from jdqn.config import ConfigError, modules, shown, suggest
from jdqn.config.schema import Env
from jdqn.envs.guard import EnvError, problem, said, short
from jdqn.envs.spaces import Codec, NotOfSpace, as_array, make_codec
from jdqn.envs.vector import GymEnv, WorkersEnv

# What Gymnasium's functions return.
RESET = ("observation", "info")
STEP = ("observation", "reward", "terminated", "truncated", "info")
# Arguments of `gymnasium.make` that are no environment's own.
OURS = ("id", "max_episode_steps", "disable_env_checker")
# They import what `env_id` says, behind the rule of `config.modules`.
IMPORTERS = ("GymV21Environment-v0", "GymV26Environment-v0")


def known() -> list[str]:
    """Ids in Gymnasium's registry."""
    return list(gymnasium.registry)


def reward_threshold(name: str) -> float | None:
    """The mean return from which an id counts as solved, where Gymnasium's registry says it."""
    registered = gymnasium.registry.get(name)
    return None if registered is None else registered.reward_threshold


def find(name: str) -> Registered | None:
    """What is registered under an id; of `module:id` the module is imported first.

    Raises:
      ConfigError: the module cannot be imported, or does not register the id.
    """
    if name in IMPORTERS:
        raise ConfigError(
            f'env.name = "{name}": it imports another environment by name; register that one in a '
            'module of your own, and name it "my_module:Id-v0"'
        )
    if ":" not in name:
        return gymnasium.registry.get(name)
    module, _, env_id = name.partition(":")
    modules.import_module(module, f'env.name = "{name}"')
    if env_id not in gymnasium.registry:
        raise ConfigError(
            f'env.name = "{name}": {module} registers no "{env_id}" with Gymnasium'
            f"{suggest(env_id, known())}"
        )
    return gymnasium.registry[env_id]


def make(registered: Registered, fields: Env, *, num_envs: int, seed: int) -> GymEnv:
    """Makes `num_envs` copies of a Gymnasium environment; see `GymEnv`.

    Raises:
      ConfigError: it cannot be made, or has spaces that a Q-network cannot handle.
    """
    for key in fields.kwargs.keys() & OURS:
        raise ConfigError(
            f"env.kwargs = {shown(fields.kwargs.plain())}: {key} is set by jdqn itself; expected "
            "arguments of the environment (its step limit is env.max_episode_steps)"
        )
    make_one = functools.partial(_make_one, registered, fields.kwargs.plain())
    in_workers = fields.vectorization == "async"
    with contextlib.ExitStack() as stack:  # closes what was made where another fails
        made = []
        for _ in range(1 if in_workers else num_envs):
            made.append(_made(make_one, fields))
            stack.callback(_close, made[-1])
        codec = make_codec(made[0].observation_space, made[0].action_space, fields)
        for env in made:
            if difference := _difference(env, codec):
                raise ConfigError(f'env.name = "{fields.name}": {difference}')

        def which(i: int) -> Callable[[str], EnvError]:
            return functools.partial(problem, name=fields.name, copy=i, num_envs=num_envs)

        limit = fields.max_episode_steps
        if in_workers:
            module = fields.name.partition(":")[0] if ":" in fields.name else None
            remote = functools.partial(_in_worker, make_one, module, codec, limit)
            copies = [functools.partial(remote, which(i)) for i in range(num_envs)]
            return WorkersEnv(copies, codec, fields.name, seed)
        local = [_limited(Copy(codec, which(i), env=env), limit) for i, env in enumerate(made)]
        stack.pop_all()
        return GymEnv([functools.partial(_same, copy) for copy in local], codec, seed)


def draws_itself(registered: Registered, fields: Env) -> bool:
    """Whether an environment has pictures of itself: its `metadata` names `rgb_array`.

    Raises:
      ConfigError: it cannot be made.
    """
    made = _made(functools.partial(_make_one, registered, fields.kwargs.plain()), fields)
    try:
        return "rgb_array" in (made.metadata or {}).get("render_modes", ())
    finally:
        _close(made)


def _made(make_one: Callable[[], gymnasium.Env], fields: Env) -> gymnasium.Env:
    try:
        return make_one()
    except Exception as error:  # whatever its constructor raises
        given = f" with env.kwargs = {shown(fields.kwargs.plain())}" if fields.kwargs else ""
        raise ConfigError(
            f'env.name = "{fields.name}"{given}: Gymnasium cannot make it: {said(error)}'
        ) from error


def _make_one(registered: Registered, kwargs: dict[str, Any]) -> gymnasium.Env:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions of an id still run
        # Its checker looks at the first step only.
        return gymnasium.make(registered, disable_env_checker=True, **kwargs)


def _difference(env: gymnasium.Env, codec: Codec) -> str | None:
    """Where a copy has other spaces than the first."""
    for kind in ("observation_space", "action_space"):
        own = getattr(env, kind)
        first = getattr(codec, kind)
        if own != first:
            return f"a copy's {kind} is {short(own)}, that of the first is {short(first)}"
    return None


def _close(env: gymnasium.Env) -> None:
    """Closes an environment; one that is broken must not keep others open."""
    with contextlib.suppress(Exception):
        env.close()


def _same(env: gymnasium.Env) -> gymnasium.Env:
    return env


def _limited(copy: "Copy", max_episode_steps: int) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(copy, max_episode_steps)


def _in_worker(
    make_one: Callable[[], gymnasium.Env],
    module: str | None,
    codec: Codec,
    max_episode_steps: int,
    which: Callable[[str], EnvError],
) -> gymnasium.Env:
    """One copy, in a process of its own, where it is made when it is first reset.

    Gymnasium calls this in the parent too, to look at the spaces.
    """

    def made() -> gymnasium.Env:
        if module is not None:
            modules.import_module(module, "env.name", says=False)
        env = make_one()
        if difference := _difference(env, codec):
            raise ValueError(difference)
        return env

    return _limited(Copy(codec, which, make_one=made), max_episode_steps)


class Copy(gymnasium.Env):
    """One copy, its observations encoded and its actions numbered.

    What it raises or returns wrongly becomes an `EnvError` that names it. Whether numbers are
    finite is seen by `guard`, of all copies at once. `info` is dropped: nobody reads it, and an odd
    one cannot be put together with those of the other copies.
    """

    def __init__(
        self,
        codec: Codec,
        which: Callable[[str], EnvError],
        *,
        env: gymnasium.Env | None = None,
        make_one: Callable[[], gymnasium.Env] | None = None,
    ):
        """Of an environment that is there, or is made by the first `reset`."""
        self._codec = codec
        self._which = which
        self._env = env
        self._make_one = make_one
        frame: Any = codec.spec.frame_dtype
        low, high = (0, 255) if frame == np.uint8 else (-np.inf, np.inf)
        self.observation_space = spaces.Box(low, high, codec.spec.frame_shape, frame)
        self.action_space = spaces.Discrete(codec.spec.num_actions)
        self.metadata = {"render_modes": []}  # Gymnasium writes into it

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """As the environment's own, checked."""
        if self._env is None:
            self._env = self._first()
        answer = self._ask("reset", RESET, seed=seed, options=options)
        return self._frame("reset", answer[0]), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As the environment's own, checked."""
        action = self._codec.decode_action(int(action))
        observation, reward, terminated, truncated, _ = self._ask("step", STEP, action)
        return (
            self._frame("step", observation),
            self._number("reward", reward, "fiub"),
            bool(self._number("terminated", terminated, "biu")),
            bool(self._number("truncated", truncated, "biu")),
            {},
        )

    def render(self) -> Any:
        """The environment's own picture, `[H, W, 3]` u8, where it was made to draw one."""
        assert self._env is not None
        try:
            picture = as_array(self._env.render())
        except Exception as error:  # whatever its code raises, or a package it needs is missing
            raise self._which(f"render raised {said(error)}") from error
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise self._which(
                f"render returned shape {picture.shape}, {picture.dtype}; expected a picture "
                "[H, W, 3], uint8"
            )
        return picture

    def close(self) -> None:
        """Closes this copy; never raises."""
        if self._env is not None:
            _close(self._env)

    def _first(self) -> gymnasium.Env:
        assert self._make_one is not None
        try:
            return self._make_one()
        except Exception as error:  # whatever its constructor raises
            raise self._which(f"cannot be made: {said(error)}") from error

    def _ask(self, method: str, parts: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
        try:
            answer = getattr(self._env, method)(*args, **kwargs)
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
        array = as_array(value)
        if array.size != 1 or array.dtype.kind not in kinds:
            raise self._which(f"step returned {what} {short(repr(value))}, not a number")
        return array.item()

    def _frame(self, method: str, observation: Any) -> np.ndarray:
        try:
            return self._codec.encode(observation)
        except NotOfSpace as error:
            raise self._which(f"{method} returned an observation {error}") from None


def _unpacking_failed(error: Exception) -> bool:
    """Whether a wrapper of Gymnasium's could not unpack what the environment returned."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    return "unpack" in str(error) and module.startswith("gymnasium.")
