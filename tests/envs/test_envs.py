"""Making environments by name, and what every adapter keeps to."""

from importlib.util import find_spec

import jax
import numpy as np
import pytest
from envs_helpers import Picture, always, play, refusal, register
from helpers import tiny

from jdqn.config import ConfigError, shown
from jdqn.envs import check_name, episode_limit, first_seed, make_env, says_no_limit

needs_gymnax = pytest.mark.skipif(not find_spec("gymnax"), reason="gymnax, an extra, is not here")


@pytest.mark.parametrize("name", ["picture", "CartPole-v1", "Breakout", "ale"])
def test_every_step_returns_fresh_arrays(monkeypatch, name):
    if name == "picture":
        name = register(monkeypatch, Picture)
    config = tiny("Breakout", env__backend="ale") if name == "ale" else tiny(name)
    env = make_env(config)
    kept = [env.reset()]
    copies = [jax.tree.map(np.copy, kept[0])]
    for _ in range(20):
        env.send(np.ones(4, np.int32))
        kept.append(env.recv())
        copies.append(jax.tree.map(np.copy, kept[-1]))
    env.close()
    jax.tree.map(np.testing.assert_array_equal, kept, copies)
    assert not np.shares_memory(kept[-1].frame, kept[-2].frame)


def test_the_seed_is_the_runs_unless_given():
    config = tiny("Pong", env__num_envs=2, train__seed=11)
    by_config, by_argument, other = (
        play(make_env(config, **arguments), always(2, 10, 2)).frame
        for arguments in ({}, {"seed": first_seed("Pong", 11)}, {"seed": 15})
    )
    np.testing.assert_array_equal(by_config, by_argument)
    assert (by_config != other).any()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BreakoutNoFrameskip-v4", "Breakout"),
        ("BreakoutDeterministic-v4", "Breakout"),
        ("Breakout-v4", "Breakout"),
        ("ALE/Breakout-v5", "Breakout"),
        ("ALE/MontezumaRevenge-v5", "MontezumaRevenge"),
        ("Breakot", "Breakout"),
        ("breakout", "Breakout"),
        ("CartPole", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
    ],
)
def test_a_near_miss_is_answered_with_the_name(name, meant):
    sentence = refusal(env=name)
    assert f'unknown environment "{name}"' in sentence
    assert f'"{meant}"' in sentence


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ALE/Joust-v5", None),
        ("ALE/Combat-v5", None),
        ("BreakotNoFrameskip-v4", "Breakout"),
        ("breakoutDeterministic-v4", "Breakout"),
    ],
)
def test_a_game_that_envpool_does_not_have(name, meant):
    sentence = refusal(env=name)
    assert f'"{name}": envpool has no such Atari game' in sentence
    assert meant is None or sentence.endswith(f'did you mean "{meant}"?')


def test_a_name_near_nothing_is_answered_with_examples():
    sentence = refusal(env="xyzzy")
    assert all(words in sentence for words in ['"xyzzy"', '"Breakout"', '"CartPole-v1"'])


@pytest.mark.parametrize("name", ["CartPole-v1", "jdqn/Chain", "gymnax/CartPole-v1", "Breakout"])
def test_nothing_is_said_of_an_environment_with_a_limit(name):
    assert says_no_limit(tiny(name)) is None


@pytest.mark.parametrize(
    ("name", "field", "limit"),
    [("CartPole-v1", 27_000, 500), ("CartPole-v1", 9, 9), ("CliffWalking-v1", 9, 9)],
)
def test_the_smaller_of_two_limits_cuts(name, field, limit):
    assert episode_limit(tiny(name, env__max_episode_steps=field).env) == limit


def test_an_environment_without_a_limit_is_said_to_be_cut():
    assert says_no_limit(tiny("CliffWalking-v1")) == (
        'env.name = "CliffWalking-v1" has no step limit of its own: its episodes are cut at '
        "env.max_episode_steps = 27,000"
    )


@pytest.mark.parametrize("name", ["minatar/Breakout", "jdqn/Chain", "Breakout"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("kwargs", {"a": 1}), ("vectorization", "async"), ("observation_scale", 2.0)],
)
def test_what_is_for_gymnasium_is_refused_elsewhere(name, field, value):
    sentence = refusal(env=name, **{f"env__{field}": value})
    assert sentence.startswith(f"env.{field} = {shown(value)}: ")
    assert f"only of Gymnasium environments, which {name} is not" in sentence


@pytest.mark.parametrize("name", ["CliffWalking-v1", "CartPole-v1", "jdqn/Chain", "Breakout"])
def test_every_environment_is_cut(name):
    env = make_env(tiny(name, env__max_episode_steps=7), num_envs=2)
    steps = play(env, always(0, 17, 2))
    np.testing.assert_array_equal(np.flatnonzero(steps.last[:, 0]), [7, 15])
    np.testing.assert_array_equal(np.flatnonzero(steps.first[:, 0]), [0, 8, 16])
    assert not steps.terminated.any()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jdqn/Chian", 'unknown environment "jdqn/Chian"; did you mean "jdqn/Chain"?'),
        pytest.param("gymnax/CartPol-v1", 'did you mean "gymnax/CartPole-v1"?', marks=needs_gymnax),
        ("Breakot", 'did you mean "Breakout"?'),
        ("jax:no_module:make", 'there is no module "no_module"'),
    ],
)
def test_a_name_is_checked_before_anything_is_made(name, words):
    with pytest.raises(ConfigError) as info:
        check_name(tiny(name).env)
    assert words in str(info.value)


@pytest.mark.parametrize(
    "name",
    [
        "jdqn/Chain",
        pytest.param("gymnax/CartPole-v1", marks=needs_gymnax),
        "CartPole-v1",
        "Pong",
    ],
)
def test_a_name_that_is_known_is_found(name):
    check_name(tiny(name).env)
