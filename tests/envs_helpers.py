"""What tests of the environments share: playing, refusals, environments made for a test."""

import functools
import types

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from helpers import QUICK, tiny

from jdqn import envs
from jdqn.config import ConfigError
from jdqn.envs.interface import interface
from jdqn.envs.spaces import make_codec
from jdqn.records import Timestep


def play(env, actions):
    """Plays `actions` (`[T, E]`) and closes; the T + 1 timesteps stacked into one, `[T + 1, E]`."""
    timesteps = [env.reset()]
    for action in actions:
        env.send(np.asarray(action))
        timesteps.append(env.recv())
    env.close()
    return Timestep(*map(np.stack, zip(*timesteps, strict=True)))


def always(action, steps, num_envs):
    return np.full((steps, num_envs), action)


def interface_of(observation_space, action_space, **fields):
    """The interface of an environment with these spaces."""
    codec = make_codec(observation_space, action_space, tiny(**fields).env)
    return interface(types.SimpleNamespace(spec=codec.spec, codec=codec))


def refusal(**overrides):
    """The sentence with which `make_env` refuses."""
    with pytest.raises(ConfigError) as info:
        envs.make_env(tiny(**overrides))
    sentence = str(info.value)
    assert "\n" not in sentence
    return sentence


def make_native(name, num_envs, **overrides):
    """A JAX-native environment with its functions jitted."""
    env = envs.make_native_env(tiny(name, **overrides), num_envs=num_envs)
    jit = functools.partial(jax.jit, compiler_options=QUICK)
    return env._replace(init=jit(env.init), step=jit(env.step))


native = functools.cache(make_native)


def play_native(env, actions):
    """Plays `actions` (`[T, E]`) in a JAX-native environment; timesteps `[T + 1, E]`."""
    state, timestep = env.init(envs.env_key(0), envs.world_key(0))
    timesteps = [timestep]
    for tick, action in enumerate(actions):
        state, timestep = env.step(state, np.asarray(action, np.int32), tick)
        timesteps.append(timestep)
    return Timestep(*map(np.stack, zip(*timesteps, strict=True)))


class Picture(gymnasium.Env):
    """Shows what happened to it: the pixels are `[[seed, episode], [step, last action]]`.

    Episodes 1, 2, 3: two steps, truncated; one step, terminated and truncated; three steps,
    terminated; and again. The reward is the action. The buffer is used again and again.
    """

    action_space = spaces.Discrete(3, start=5)
    observation_space = spaces.Box(0, 255, (2, 2), np.uint8)
    endings = ((2, False, True), (1, True, True), (3, True, False))

    def __init__(self):
        self.pixels = np.zeros((2, 2), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.pixels[0] = seed, 0
        self.pixels[0, 1] += 1
        self.pixels[1] = 0
        return self.pixels, {}

    def step(self, action):
        self.pixels[1] = self.pixels[1, 0] + 1, action
        length, terminated, truncated = self.endings[(self.pixels[0, 1] - 1) % 3]
        over = bool(self.pixels[1, 0] == length)
        return self.pixels, float(action), terminated and over, truncated and over, {}


def register(monkeypatch, entry_point):
    """Registers an environment for the length of a test and returns its id."""
    spec = gymnasium.envs.registration.EnvSpec("JdqnTest-v0", entry_point=entry_point)
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    return spec.id
