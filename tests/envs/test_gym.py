"""The adapter of Gymnasium's environments: episodes, seeds, spaces."""

import importlib

import gymnasium
import numpy as np
import pytest
from envs_helpers import Picture, play, refusal, register
from gymnasium import spaces
from helpers import tiny

from jdqn.envs import gym, make_env, says_no_limit
from jdqn.envs.guard import guard


@pytest.mark.filterwarnings("ignore:.*share an object")  # Gymnasium 1.4 says so, and is right
def test_episodes_of_a_gymnasium_environment(monkeypatch):
    actions = np.array([[0, 1], [2, 2], [1, 1], [2, 0], [0, 0], [1, 2], [2, 1], [0, 0], [1, 1]])
    steps = play(make_env(tiny(register(monkeypatch, Picture), env__num_envs=2)), actions)
    seed, episode, step, action = np.moveaxis(steps.frame.reshape(10, 2, 4), -1, 0)
    np.testing.assert_array_equal(seed, [[0, 1]] * 10)
    # The step after an end starts the next episode, and its action does nothing.
    np.testing.assert_array_equal(episode[:, 0], [1, 1, 1, 2, 2, 3, 3, 3, 3, 4])
    np.testing.assert_array_equal(step[:, 0], [0, 1, 2, 0, 1, 0, 1, 2, 3, 0])
    np.testing.assert_array_equal(steps.first[:, 0], step[:, 0] == 0)
    np.testing.assert_array_equal(np.flatnonzero(steps.last[:, 0]), [2, 4, 8])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated[:, 0]), [4, 8])
    # Action a is sent as 5 + a, the first of the space.
    np.testing.assert_array_equal(action[:, 0], [0, 5, 7, 0, 7, 0, 6, 7, 5, 0])
    np.testing.assert_array_equal(steps.reward, action)
    assert steps.reward.dtype == np.float32


def test_cartpole_is_gymnasiums_own():
    actions = np.random.default_rng(0).integers(0, 2, (60, 3))
    got = play(make_env(tiny(), num_envs=3, seed=7), actions)
    assert got.frame.dtype == np.float32
    for i in range(3):
        env = gymnasium.make("CartPole-v1")
        frame, _ = env.reset(seed=7 + i)
        over = False
        for t in range(60):
            np.testing.assert_array_equal(got.frame[t, i], frame)
            assert got.first[t, i] == (t == 0 or got.last[t - 1, i])
            assert got.last[t, i] == over
            if over:
                frame, _ = env.reset()
                over = False
            else:
                frame, _, over, _, _ = env.step(actions[t, i])
    assert got.last.any(axis=0).all()


def test_small_images_are_vectors_of_bytes_scaled_later(monkeypatch):
    spec = make_env(tiny(register(monkeypatch, Picture))).spec
    assert spec.frame_shape == (4,)
    assert spec.frame_dtype == np.uint8
    assert spec.num_actions == 3
    assert spec.scale == 1 / 255


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8])
def test_vectors_of_any_number_become_f32(monkeypatch, dtype):
    class Vector(Picture):
        observation_space = spaces.Box(0, 5, (2,), dtype)

        def reset(self, *, seed=None, options=None):
            return np.array([1, 2], dtype), {}

        def step(self, action):
            return np.array([3, 4], dtype), 0.0, False, False, {}

    env = make_env(tiny(register(monkeypatch, Vector)), num_envs=1)
    assert env.spec.frame_shape == (2,)
    assert env.spec.frame_dtype == np.float32
    assert env.spec.scale == 1
    frame = play(env, [[0]]).frame
    assert frame.dtype == np.float32
    np.testing.assert_array_equal(frame[:, 0], [[1, 2], [3, 4]])


def test_discrete_observations_are_one_hot():
    actions = np.array([[1], [1], [2], [2]])
    steps = play(make_env(tiny("FrozenLake-v1"), num_envs=1, seed=3), actions)
    env = gymnasium.make("FrozenLake-v1")
    squares = [env.reset(seed=3)[0]] + [env.step(int(action))[0] for action in actions[:, 0]]
    assert steps.frame.dtype == np.uint8
    np.testing.assert_array_equal(steps.frame[:, 0], np.eye(16)[squares])


def test_discrete_observations_may_start_anywhere(monkeypatch):
    class Countdown(Picture):
        observation_space = spaces.Discrete(3, start=-1)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return 1, {}

        def step(self, action):
            return -1, *super().step(action)[1:]

    steps = play(make_env(tiny(register(monkeypatch, Countdown)), num_envs=1), [[0]])
    np.testing.assert_array_equal(steps.frame[:, 0], [[0, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    "name", ["countdown:Countdown-v0", "countdown:space/Countdown", "space/Countdown"]
)
def test_an_id_that_a_module_registers(monkeypatch, name):
    if ":" not in name:
        importlib.import_module("countdown")
    env = make_env(tiny(name, env__kwargs={"length": 2}), num_envs=2)
    steps = play(env, np.ones((3, 2), int))
    np.testing.assert_array_equal(steps.frame[:, 0, 1], [2, 1, 0, 2])
    np.testing.assert_array_equal(steps.terminated[:, 1], [False, False, True, False])


def test_only_an_id_without_a_limit_is_said_to_be_cut():
    assert says_no_limit(tiny("countdown:space/Countdown")) is None
    assert "has no step limit" in says_no_limit(tiny("countdown:Countdown-v0"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("countdown:Countdwn-v0", 'countdown registers no "Countdwn-v0" with Gymnasium; did you'),
        ("countdown:", 'countdown registers no ""'),
        ("no_such_module:X-v0", 'there is no module "no_such_module" on the Python path'),
        (":X-v0", '"" is no name of a Python module'),
    ],
)
def test_what_a_module_does_not_register_is_refused(name, words):
    sentence = refusal(env=name)
    assert sentence.startswith(f'env.name = "{name}": ')
    assert words in sentence


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"lenght": 2}, "with env.kwargs = {'lenght': 2}: Gymnasium cannot make it: TypeError: "),
        ({"max_episode_steps": 2}, "max_episode_steps is set by jdqn itself"),
        ({"id": "Pong"}, "id is set by jdqn itself"),
    ],
)
def test_arguments_that_an_environment_does_not_take_are_refused(kwargs, words):
    sentence = refusal(env="countdown:Countdown-v0", env__kwargs=kwargs)
    assert words in sentence


def test_copies_with_other_spaces_are_refused_and_closed(monkeypatch):
    made = []

    class Growing(Picture):
        def __init__(self):
            super().__init__()
            made.append(self)
            self.closed = False
            self.observation_space = spaces.Box(0, 1, (len(made),))

        def close(self):
            self.closed = True

    sentence = refusal(env=register(monkeypatch, Growing))
    assert (
        "a copy's observation_space is Box(0.0, 1.0, (2,), float32), that of the first" in sentence
    )
    assert [env.closed for env in made] == [True] * 4


def test_large_images_are_resized_and_that_is_said(monkeypatch):
    class Large(Picture):
        observation_space = spaces.Box(0, 255, (3, 90, 100), np.uint8)

        def reset(self, *, seed=None, options=None):
            return np.full((3, 90, 100), 7, np.uint8), {}

    env = guard(make_env(tiny(register(monkeypatch, Large)), num_envs=1), "large")
    assert env.said == ("frames are resized from 90 × 100 to 84 × 84",)
    np.testing.assert_array_equal(env.reset().frame, np.full((1, 84, 84, 3), 7))


def test_continuous_actions_of_a_real_environment():
    assert "Discrete actions" in refusal(env="Pendulum-v1")


@pytest.mark.parametrize("name", gym.IMPORTERS)
def test_what_imports_by_name_is_refused(name):
    assert name in gymnasium.registry
    kwargs = {"env_id": "os:Nothing-v0"}
    assert "imports another environment by name" in refusal(env=name, env__kwargs=kwargs)
