"""Pictures of environments: Atari's of the very game, Gymnasium's own, and what actions are called.

Whoever emulates Atari: the second emulator is a trusted part of what is tested here.
"""

import contextlib
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from helpers import tiny
from PIL import Image
from scripted import ScriptedEnv

from jdqn.envs import ale, make_env
from jdqn.envs.guard import EnvError
from jdqn.envs.screens import Twins, show


class Square(gymnasium.Env):
    """Ends after three steps; what `render` does is an argument."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3, start=1)

    def __init__(self, drawn=None, render_mode=None):
        self.render_mode = render_mode
        self._drawn = drawn

    def reset(self, *, seed=None, options=None):
        self._step = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self._step += 1
        return np.zeros(2, np.float32), 1.0, self._step == 3, False, {}

    def render(self):
        if self._drawn is None:
            raise RuntimeError("no brush")
        return np.full((4, 6, 3), 10 * self._step, self._drawn)


class Blind(Square):
    """Has no pictures."""

    metadata: ClassVar = {"render_modes": ["human"]}


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("Square-v0", Square)
    gymnasium.register("Blind-v0", Blind)
    yield
    del gymnasium.registry["Square-v0"], gymnasium.registry["Blind-v0"]


def steps(env, actions):
    """The timesteps of one copy after each action, and after the reset."""
    yield env.reset()
    for action in actions:
        env.send(np.array([action], np.int32))
        yield env.recv()


@pytest.mark.parametrize("backend", ["envpool", "ale"])
def test_the_picture_of_atari_is_of_the_game_that_the_agent_sees(backend, rng):
    """Sticky actions and no-ops are drawn alike, over an end and the start of a second game."""
    config = tiny(
        "Breakout",
        env__backend=backend,
        env__sticky_probability=0.25,
        env__noop_max=20,
        env__max_episode_steps=60,
    )
    actions = rng.integers(4, size=90)
    with contextlib.closing(make_env(config, num_envs=1, seed=7)) as env:
        plain = list(steps(env, actions))
    shown = show(config, seed=7)
    assert shown.actions == ("NOOP", "FIRE", "RIGHT", "LEFT")
    with contextlib.closing(shown.env):
        for want, got in zip(plain, steps(shown.env, actions), strict=True):
            for field, value in want._asdict().items():
                np.testing.assert_array_equal(getattr(got, field), value)
            picture = shown.picture()
            assert picture.shape == (210, 160, 3)
            grey = Image.fromarray(picture).convert("L").resize((84, 84), Image.Resampling.BOX)
            seen = got.frame[0].astype(float)
            assert np.abs(np.asarray(grey) - seen).mean() < 3  # two ways to grey and to shrink
            assert np.corrcoef(np.ravel(grey), np.ravel(seen))[0, 1] > 0.99
    assert plain[60].last.all()
    assert np.ptp(picture, axis=2).max() > 50  # in colour


def test_a_screen_has_the_lines_of_its_own_television():
    config = tiny("AirRaid", env__full_action_space=True)
    shown = show(config, seed=0)
    shown.env.reset()
    assert shown.picture().shape == (250, 160, 3)
    assert len(shown.actions) == shown.env.spec.num_actions == 18
    shown.env.close()
    assert ale.console(config.env).actions[-1] == "DOWNLEFTFIRE"


def test_a_picture_of_another_game_is_noticed():
    step = (1.0, False, False, False)
    end = (1.0, True, False, False)
    twins = Twins(ScriptedEnv([[step, end]], 1), ScriptedEnv([[step, step, end]], 1), "Pong")
    twins.reset()
    twins.send(np.zeros(1))
    twins.recv()
    twins.send(np.zeros(1))
    with pytest.raises(EnvError, match='"Pong": its picture has another terminated than the game'):
        twins.recv()


def test_gymnasium_draws_the_very_copy_that_is_played():
    pytest.importorskip("pygame")
    actions = [0, 1, 1, 1, 0]
    shown = show(tiny(env__vectorization="async"), seed=5)
    *_, last = steps(shown.env, actions)
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=5)
    for action in actions:
        observation, *_ = env.step(action)
    np.testing.assert_array_equal(last.frame[0], observation)
    np.testing.assert_array_equal(shown.picture(), env.render())
    assert shown.actions == ("left", "right")
    shown.env.close()
    env.close()


def test_what_has_no_picture_is_said_to_have_none():
    shown = show(tiny("Blind-v0"), seed=0)
    assert shown.picture is None
    assert shown.shape == (2,)
    assert shown.actions == ("1", "2", "3")  # its own
    shown.env.close()


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (None, "render raised RuntimeError: no brush"),
        ("float64", r"render returned shape \(4, 6, 3\), float64; expected a picture"),
    ],
)
def test_an_environment_that_cannot_render_is_named(drawn, said):
    shown = show(tiny("Square-v0", env__kwargs={"drawn": drawn} if drawn else {}), seed=0)
    shown.env.reset()
    with pytest.raises(EnvError, match=f'environment "Square-v0": {said}'):
        shown.picture()
    shown.env.close()


def test_the_last_step_is_drawn_before_the_next_game():
    shown = show(tiny("Square-v0", env__kwargs={"drawn": "uint8"}), seed=0)
    brightness = [
        (bool(timestep.last[0]), int(shown.picture().max()))
        for timestep in steps(shown.env, [0, 0, 0])
    ]
    assert brightness == [(False, 0), (False, 10), (False, 20), (True, 30)]
    shown.env.close()


def test_actions_of_environments_in_jax_are_named():
    assert show(tiny("bsuite/DeepSea"), seed=0).actions == ("0", "1")
    pytest.importorskip("gymnax")
    shown = show(tiny("minatar/Breakout"), seed=0)
    assert shown.actions == ("noop", "left", "right")
    assert shown.picture is None
    assert shown.shape == (10, 10, 4)
