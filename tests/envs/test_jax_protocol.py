"""What an environment written in JAX must be: each way of not being it has a sentence."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdqn.config import ConfigError
from jdqn.envs.jax_protocol import check, params_of


class Walk:
    """A correct environment: five floats, one moves."""

    num_actions = 3

    def reset_env(self, key, params):
        state = {"place": jnp.zeros((), jnp.int32), "key": key}
        return jax.random.uniform(key, (5,)), state

    def step_env(self, key, state, action, params):
        state = state | {"place": state["place"] + action}
        observation = jax.random.uniform(key, (5,))
        return observation, state, 1.0, state["place"] > 3, {"words": "of no matter"}


def changed(method, change):
    """A `Walk` of whose method the result is changed."""
    env = Walk()
    right = getattr(Walk, method)

    def wrong(*arguments):
        return change(*right(env, *arguments))

    setattr(env, method, wrong)
    return env


def sentence(env, params=None):
    with pytest.raises(ConfigError) as info:
        check(env, params, "jax:my:make")
    text = str(info.value)
    assert text.startswith('env.name = "jax:my:make": ')
    assert "\n" not in text
    return text.removeprefix('env.name = "jax:my:make": ')


def test_what_is_right_passes():
    shapes = check(Walk(), None, "jax:my:make")
    assert (shapes.observation.shape, shapes.observation.dtype) == ((5,), np.float32)
    assert shapes.state["place"].dtype == np.int32
    assert shapes.num_actions == 3


def test_a_time_limit_and_an_action_space_are_asked_where_there_are_some():
    env = Walk()
    env.is_truncated = lambda state, params: state["place"] > params
    env.action_space = lambda params: types.SimpleNamespace(n=np.int64(4))
    assert check(env, 2, "jax:my:make").num_actions == 4


def test_parameters_are_drawn_where_the_environment_draws_them():
    env = Walk()
    assert params_of(env, 7, None) == 7
    env.draw_params = lambda key: jax.random.uniform(key)
    key = jax.random.key(0)
    assert params_of(env, 7, key) == jax.random.uniform(key)
    # What is drawn is what its functions get.
    env.is_truncated = lambda state, params: params.shape == () and state["place"] > 0
    assert "its is_truncated is bool" not in str(check(env, 7, "jax:my:make"))


@pytest.mark.parametrize("method", ["reset_env", "step_env"])
def test_a_missing_function(method):
    env = types.SimpleNamespace(**{method: lambda *_: None})
    missing = {"reset_env": "step_env", "step_env": "reset_env"}[method]
    assert sentence(env).endswith(f"has no function {missing}")
    assert "has no function reset_env" in sentence(None)


@pytest.mark.parametrize("num_actions", [1, 0, 2.5, "2", None, [3]])
def test_too_few_actions(num_actions):
    env = Walk()
    env.num_actions = num_actions
    expected = f"its num_actions is {num_actions}, expected a whole number, 2 at least"
    assert sentence(env) == expected


def test_actions_that_are_not_discrete():
    env = Walk()
    env.action_space = lambda params: types.SimpleNamespace(low=0, high=1)
    assert "not discrete" in sentence(env)


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        ("reset_env", lambda o, s: o, "reset_env returns a "),
        ("reset_env", lambda o, s: (o, s, {}), "a tuple of 3, expected observation, state"),
        ("step_env", lambda *parts: parts[:4], "a tuple of 4, expected observation, state, reward"),
        ("reset_env", lambda o, s: ({"a": o}, s), "a dict as the observation, expected one array"),
        ("step_env", lambda o, *r: ([o], *r), "step_env returns a list as the observation"),
        ("reset_env", lambda o, s: (s["key"], s), "of shape (), key<fry>, expected numbers"),
        ("reset_env", lambda o, s: (o[:0], s), "of shape (0,), float32, expected numbers"),
        (
            "reset_env",
            lambda o, s: (o[:4], s),
            "an observation of shape (4,), float32, step_env one of shape (5,), float32",
        ),
        ("step_env", lambda o, *r: (o > 0, *r), "float32, step_env one of shape (5,), bool"),
        (
            "step_env",
            lambda o, s, *r: (o, {"place": s["place"]}, *r),
            "returns the state PyTreeDef",
        ),
        (
            "step_env",
            lambda o, s, *r: (o, s | {"place": jnp.zeros(2, jnp.int32)}, *r),
            "state['place'] of shape (), int32, step_env of shape (2,), int32",
        ),
        (
            "step_env",
            lambda o, s, *r: (o, s | {"place": s["place"] > 0}, *r),
            "state['place'] of shape (), int32, step_env of shape (), bool",
        ),
        (
            "step_env",
            lambda o, s, *r: (o, s | {"key": 0}, *r),
            "state['key'] of shape (), key<fry>, step_env of shape (), int32",
        ),
        ("step_env", lambda o, s, r, *t: (o, s, o, *t), "reward is of shape (5,), float32"),
        ("step_env", lambda o, s, r, *t: (o, s, {}, *t), "its reward is dict, expected a number"),
        ("step_env", lambda o, s, r, t, i: (o, s, r, 1.0, i), "its terminated is of shape (), f"),
        ("step_env", lambda o, s, r, t, i: (o, s, r, o > 0, i), "its terminated is of shape (5,)"),
        ("step_env", lambda o, s, r, t, i: (o, s, "1", t, i), "step_env raised TypeError"),
        ("step_env", lambda o, s, *r: 1 / 0, "step_env raised ZeroDivisionError"),
        ("reset_env", lambda o, s: bool(o[0] > 0), "raised TracerBoolConversionError: Attempted"),
    ],
)
def test_what_a_function_returns_wrongly(method, change, words):
    assert words in sentence(changed(method, change))


def test_a_time_limit_that_is_no_truth_value():
    env = Walk()
    env.is_truncated = lambda state, params: 3
    assert sentence(env).startswith("its is_truncated is of shape (), int32, expected a truth")
    env.is_truncated = lambda state: False
    assert "is_truncated raised TypeError" in sentence(env)


def test_parameters_that_cannot_be_drawn():
    env = Walk()
    env.draw_params = lambda: 3
    assert "draw_params raised TypeError" in sentence(env)
