"""What an environment written in JAX must be, asked before anything is compiled.

gymnax's functions for one environment, as docs/jax_environments.md describes them:

    reset_env(key, params) -> observation, state
    step_env(key, state, action, params) -> observation, state, reward, terminated, info
    is_truncated(state, params) -> truncated             (may be missing: never)
    num_actions, or action_space(params).n
    draw_params(key) -> params                           (may be missing)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jdqn.config import ConfigError
from jdqn.envs.guard import said, short

RESET = ("observation", "state")
STEP = ("observation", "state", "reward", "terminated", "info")
TRUTH = (np.bool_,)
NUMBERS = (np.floating, np.integer, np.bool_)


class Shapes(NamedTuple):
    """What is static about one environment."""

    observation: jax.ShapeDtypeStruct
    # Of a state: resets and steps may differ in the types of some numbers; a scan wants one.
    state: Any
    num_actions: int


def draws(env: Any) -> bool:
    """Whether an environment draws its parameters, once for the seed of a run."""
    return hasattr(env, "draw_params")


def params_of(env: Any, params: Any, key: jax.Array) -> Any:
    """What the functions of an environment get: drawn from a key where it draws it."""
    return env.draw_params(key) if draws(env) else params


def check(env: Any, params: Any, name: str) -> Shapes:
    """Asks for shapes and types only: nothing is computed.

    Args:
      env: the environment.
      params: what its functions get, unless it draws that.
      name: what to call it, `env.name`.

    Raises:
      ConfigError: a function is missing, fails or returns something else; which, and what.
    """
    asked = _Asked(env, name)
    for method in ("reset_env", "step_env"):
        if not callable(getattr(env, method, None)):
            raise asked.problem(f"{short(repr(env))} has no function {method}")
    num_actions = _num_actions(asked, env, params)

    def params_in(key: jax.Array) -> Any:
        return params_of(env, params, key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    asked.shapes("draw_params", params_in, key)
    observation, state = asked.shapes(
        "reset_env", lambda key: asked.parts("reset_env", RESET, key, params_in(key)), key
    )
    action = jax.ShapeDtypeStruct((), np.int32)
    stepped = asked.shapes(
        "step_env",
        # What `info` holds need not be arrays.
        lambda key, *args: asked.parts("step_env", STEP, key, *args, params_in(key))[:4],
        *(key, state, action),
    )
    asked.observations(observation, stepped[0])
    asked.states(state, stepped[1])
    asked.number("reward", stepped[2], NUMBERS)
    asked.number("terminated", stepped[3], TRUTH)
    if hasattr(env, "is_truncated"):
        truncated = asked.shapes(
            "is_truncated",
            lambda key, state: env.is_truncated(state, params_in(key)),
            *(key, stepped[1]),
        )
        asked.number("is_truncated", truncated, TRUTH)
    return Shapes(stepped[0], stepped[1], num_actions)


class _Asked:
    """An environment and what to call it in a sentence."""

    def __init__(self, env: Any, name: str):
        self._env = env
        self._name = name

    def problem(self, what: str) -> ConfigError:
        """The refusal of an environment."""
        return ConfigError(f'env.name = "{self._name}": {what}')

    def shapes(self, method: str, function: Callable, *arguments: Any) -> Any:
        """Shapes and types of what a function returns."""
        try:
            return jax.eval_shape(function, *arguments)
        except ConfigError:
            raise
        except Exception as error:  # whatever its code raises
            raise self.problem(f"{method} raised {said(error)}") from error

    def parts(self, method: str, names: tuple[str, ...], *arguments: Any) -> Any:
        """What a method returns, which must be so many things."""
        answer = getattr(self._env, method)(*arguments)
        if not isinstance(answer, tuple) or len(answer) != len(names):
            size = f" of {len(answer)}" if isinstance(answer, tuple) else ""
            raise self.problem(
                f"{method} returns a {type(answer).__name__}{size}, expected {', '.join(names)}"
            )
        return answer

    def observations(self, reset: Any, stepped: Any) -> None:
        """One array of numbers, the same from both functions."""
        for method, observation in (("reset_env", reset), ("step_env", stepped)):
            if not isinstance(observation, jax.ShapeDtypeStruct):
                raise self.problem(
                    f"{method} returns a {type(observation).__name__} as the observation, "
                    "expected one array"
                )
            if not _is_any(observation.dtype, NUMBERS) or 0 in observation.shape:
                raise self.problem(
                    f"{method} returns an observation {_like(observation)}, expected numbers"
                )
        if (reset.shape, reset.dtype) != (stepped.shape, stepped.dtype):
            raise self.problem(
                f"reset_env returns an observation {_like(reset)}, step_env one {_like(stepped)}"
            )

    def states(self, reset: Any, stepped: Any) -> None:
        """The same tree of arrays from both functions; a step's types hold what a reset's do."""
        first, second = (str(jax.tree.structure(tree)) for tree in (reset, stepped))
        if first != second:
            raise self.problem(
                f"reset_env returns the state {short(first)}, step_env {short(second)}"
            )
        before = jax.tree_util.tree_leaves_with_path(reset)
        for (path, old), new in zip(before, jax.tree.leaves(stepped), strict=True):
            if old.shape != new.shape or not _holds(new.dtype, old.dtype):
                raise self.problem(
                    f"reset_env returns state{jax.tree_util.keystr(path)} {_like(old)}, "
                    f"step_env {_like(new)}"
                )

    def number(self, what: str, value: Any, kinds: tuple) -> None:
        """One number, or truth value."""
        expected = "a truth value" if kinds == TRUTH else "a number"
        if getattr(value, "shape", None) != () or not _is_any(value.dtype, kinds):
            like = _like(value) if hasattr(value, "shape") else type(value).__name__
            raise self.problem(f"its {what} is {like}, expected {expected}, shape ()")


def _num_actions(asked: _Asked, env: Any, params: Any) -> int:
    """How many actions there are."""
    if hasattr(env, "action_space"):  # gymnax's
        space = env.action_space(params)
        if not hasattr(space, "n"):
            raise asked.problem(
                f"its action space is {short(type(space).__name__)}, not discrete; a Q-network "
                "needs discrete actions"
            )
        num_actions = space.n
    else:
        num_actions = getattr(env, "num_actions", None)
    try:
        whole = int(num_actions)
    except (TypeError, ValueError):
        whole = 0
    if whole != num_actions or whole < 2:
        raise asked.problem(
            f"its num_actions is {short(num_actions)}, expected a whole number, 2 at least"
        )
    return whole


def _holds(new: Any, old: Any) -> bool:
    """Whether values of a dtype can be kept in another."""
    if any(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) for dtype in (new, old)):
        return bool(new == old)
    return bool(np.can_cast(old, new, "same_kind"))


def _is_any(dtype: Any, kinds: tuple) -> bool:
    return any(jax.dtypes.issubdtype(dtype, kind) for kind in kinds)


def _like(value: Any) -> str:
    """Shape and dtype."""
    return f"of shape {tuple(value.shape)}, {value.dtype}"
