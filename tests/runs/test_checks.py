"""Presets against observations, and what functions of the user's return, before a run begins."""

import numpy as np
import pytest
from helpers import tiny, vector_spec

from jdqn.config import ConfigError, load_config
from jdqn.records import EnvSpec
from jdqn.replay import make_replay
from jdqn.runs import checks

IMAGE = EnvSpec((10, 10, 4), np.dtype(np.uint8), 1, 3, 1.0)

SOURCE = """
import jax.numpy as jnp
from jdqn.learning import exploration, losses, values

def loss(e): return jnp.logaddexp(e, -e)
def two(e): return jnp.stack([e, e])
def whole(e): return 1
def branches(e): return e if e > 0 else -e
def fails(*_): raise KeyError("mine")
number = 3

def rule(key, q, head): return exploration.by_head(key, q, head)
each_step = exploration.Behaviour(True, rule)
def one_score(key, q, head): return q[:, 0, 0]

def make_head(config): return values.expectation(losses.make_penalty(config.agent.loss))
def no_head(config): return make_head
def read_raw(config): return make_head(config)._replace(read=lambda raw, _: raw)
def half(config): return make_head(config)._replace(loss=lambda calls, batch: batch.reward)
def flat(config):
    return make_head(config)._replace(loss=lambda calls, batch: losses.Loss(*[batch.reward] * 2))
"""


def check_own(config):
    spec = vector_spec()
    checks.check_own(config, spec, make_replay(config, spec))


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("agent__loss", "loss"),
        ("agent__behaviour", "rule"),
        ("agent__behaviour", "each_step"),
        ("network__value_head", "make_head"),
    ],
)
def test_what_returns_the_right_thing_passes(module, field, name):
    check_own(tiny(network__heads=2, **{field: f"{module(SOURCE)}:{name}"}))


@pytest.mark.parametrize(
    ("field", "name", "said"),
    [
        ("agent__loss", "two", "float32 of shape [2] for the cost of one TD error, must be floats"),
        ("agent__loss", "whole", "int32 of shape []"),
        ("agent__loss", "branches", "TracerBoolConversionError: Attempted boolean conversion"),
        ("agent__loss", "fails", "raised KeyError: 'mine'"),
        ("agent__loss", "number", "raised TypeError"),
        ("agent__loss", "los", 'has no "los"; did you mean "loss"?'),
        ("agent__behaviour", "one_score", "float32 of shape [4] for scores [E, A]"),
        ("agent__behaviour", "number", "raised TypeError"),
        ("network__value_head", "fails", "raised KeyError: 'mine'"),
        (
            "network__value_head",
            "no_head",
            "something of type function, not a ValueHead",
        ),
        ("network__value_head", "number", "raised TypeError"),
        ("network__value_head", "read_raw", "of shape [2, 2, 3, 1] for Q [B, K, A]"),
        ("network__value_head", "half", "its loss returned float32 of shape [8], must be a Loss"),
        ("network__value_head", "flat", "for loss [B, K], must be floats of shape [8, 2]"),
    ],
)
def test_what_returns_something_else_is_one_sentence_with_the_field(module, field, name, said):
    own = f"{module(SOURCE)}:{name}"
    with pytest.raises(ConfigError) as info:
        check_own(tiny(network__heads=2, **{field: own}))
    assert str(info.value).startswith(f'{field.replace("__", ".")} = "{own}": ')
    assert said in str(info.value)


def test_a_module_that_is_not_there_is_one_sentence():
    with pytest.raises(ConfigError, match=r'agent\.loss = "no_such_module:loss": there is no'):
        check_own(tiny(agent__loss="no_such_module:loss"))


@pytest.mark.parametrize(
    ("env", "preset", "spec", "said"),
    [
        ("CartPole-v1", "minatar", vector_spec(), "for images, and CartPole-v1 shows vectors"),
        ("CartPole-v1", "pong", vector_spec(), "it asks for --preset classic"),
        ("Breakout", "classic", IMAGE, "for vectors, and Breakout shows images, of shape [10,"),
    ],
)
def test_a_preset_for_other_observations_is_refused(env, preset, spec, said):
    config = load_config(env=env, preset=preset)
    with pytest.raises(ConfigError, match=rf"env\.preset = {preset}: it is ") as info:
        checks.check(config, spec, None)
    assert said in str(info.value)


@pytest.mark.parametrize(
    ("env", "preset", "spec"),
    [
        ("CartPole-v1", None, vector_spec()),
        ("CartPole-v1", "none", vector_spec()),
        ("CartPole-v1", "deep_sea", vector_spec()),
        ("Breakout", "pong", IMAGE),
        ("Breakout", "minatar", IMAGE),
        ("CarRacing-v3", None, IMAGE),  # by its name: nobody chose it
        ("CarRacing-v3", "pong", IMAGE),
    ],
)
def test_a_preset_for_such_observations_is_taken(env, preset, spec):
    checks.check(load_config(env=env, preset=preset), spec, None)
