"""Environments that misbehave: refused before training, stopped in one sentence, trained on."""

import copy
import time

import gymnasium
import numpy as np
import pytest
from envs_helpers import refusal, register
from gymnasium import spaces
from helpers import tiny

from jdqn import envs
from jdqn.config import RunError
from jdqn.envs.guard import guard
from jdqn.train import train

NAN = float("nan")
INF = float("inf")
LIMIT = 20  # env.max_episode_steps
VECTOR = np.float32([0.5, -0.5])


class Honest(gymnasium.Env):
    """Episodes of five steps; `reset` and `step` return what the functions below make of it.

    Copy 1 alone misbehaves, as is told by its seed.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Discrete(2)
    observation = VECTOR
    at_reset = at_step = staticmethod(lambda env, answer: answer)
    from_reset = 1  # its first to misbehave
    from_step = 3
    resets = steps = time = 0
    is_closed = False

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.copy = seed
        self.time = 0
        self.resets += 1
        answer = (copy.deepcopy(self.observation), {})
        misbehaves = self.copy == 1 and self.resets >= self.from_reset
        return self.at_reset(self, answer) if misbehaves else answer

    def step(self, action):
        assert action in self.action_space
        if self.is_closed:
            raise RuntimeError("the window\nis closed")
        self.time += 1
        self.steps += 1
        answer = (copy.deepcopy(self.observation), 1.0, False, self.time == 5, {})
        misbehaves = self.copy == 1 and self.steps >= self.from_step
        return self.at_step(self, answer) if misbehaves else answer

    def close(self):
        self.is_closed = True


def raises(env, answer):
    raise ValueError("boom")


def closes_itself(env, answer):
    env.close()
    return answer


def blocks(env, answer):
    if env.steps == 3:
        time.sleep(0.2)
    return answer


def fails_to_close(env):
    raise RuntimeError("cannot be closed")


def returns(answer):
    return lambda env, right: answer


def part(place, value):
    """The right answer but for one of its values."""
    return lambda env, right: (*right[:place], value, *right[place + 1 :])


def resets_with(change, **more):
    return {"at_reset": staticmethod(change), **more}


def steps_with(change, **more):
    return {"at_step": staticmethod(change), **more}


def shows(value, space=Honest.observation_space):
    """Another observation in a step, of another space."""
    is_dict = isinstance(space, spaces.Dict)
    observation = {"a": VECTOR} if is_dict else space.sample() * 0
    return steps_with(part(0, value), observation_space=space, observation=observation)


def rewards(value):
    return steps_with(part(1, value))


PIXELS = spaces.Box(0, 255, (2, 2), np.uint8)
PARTS = spaces.Dict({"a": Honest.observation_space})

# What an environment is or does, and what the refusal says.
REFUSED = {
    "one action": ({"action_space": spaces.Discrete(1)}, "two at least"),
    "continuous actions": ({"action_space": spaces.Box(-1, 1, (1,))}, "Discrete actions"),
    "no action space": ({"action_space": None}, "its action space is None"),
    "no observation space": ({"observation_space": None}, "not NoneType"),
    "text": ({"observation_space": spaces.Text(3)}, "not Text"),
    "an empty vector": ({"observation_space": spaces.Box(0, 1, (0,))}, "which is empty"),
    "a constructor that raises": ({"__init__": lambda env: raises(env, None)}, "ValueError: boom"),
    "no Env at all": ({"__new__": lambda cls: object()}, "must inherit from"),
}

# What copy 1 does, and what the error says of it.
STOPPED = {
    "raises in the first reset": (resets_with(raises), "reset raised ValueError: boom"),
    "raises in a later reset": (resets_with(raises, from_reset=3), "reset raised ValueError: boom"),
    "raises in step": (steps_with(raises), "step raised ValueError: boom"),
    "closes itself": (steps_with(closes_itself), "RuntimeError: the window is closed"),
    "reset returns an observation alone": (resets_with(returns(VECTOR)), "reset returned [ 0.5"),
    "reset returns None": (resets_with(returns(None)), "reset returned None, expected observation"),
    "step returns None": (steps_with(returns(None)), "step returned None, expected observation"),
    "step returns four values": (
        steps_with(lambda env, right: right[:4]),
        "expected observation, reward, terminated, truncated, info",
    ),
    "wrong shape in reset": (resets_with(part(0, VECTOR[:1])), "reset returned an observation not"),
    "wrong shape in step": (shows(np.zeros((2, 1), np.float32)), "shape (2, 1), float32"),
    "strings": (shows(np.array(["a", "b"])), "shape (2,), <U1"),
    "objects": (shows(np.array([{}, {}])), "shape (2,), object"),
    "a ragged list": (shows([[1.0], [2.0, 3.0]]), "object"),
    "whole numbers for floats": (shows(np.array([1, 2])), "shape (2,), int64"),
    "floats for pixels": (shows(np.zeros((2, 2)), PIXELS), "shape (2, 2), float64"),
    "pixels beyond 255": (shows(np.full((2, 2), 256), PIXELS), "shape (2, 2), int64"),
    "a key that is missing": (
        shows({}, PARTS),
        "not of Dict('a': Box(-inf, inf, (2,), float32)): {}, shape (), object",
    ),
    "a wrong part": (
        shows({"a": VECTOR[:1]}, PARTS),
        'not of Box(-inf, inf, (2,), float32) at "a": array([0.5], dtype=float32), shape (1,)',
    ),
    "a class that is none": (
        shows(3, spaces.Discrete(3)),
        "not of Discrete(3): 3, shape (), int64",
    ),
    "NaN observation in reset": (
        resets_with(part(0, VECTOR * np.float32(NAN))),
        "its observation has nan",
    ),
    "NaN observation in step": (shows(np.float32([0, NAN])), "its observation has nan"),
    "infinite observation": (shows(np.float32([-INF, 0])), "its observation has -inf"),
    "infinite as float32": (shows(np.array([1e300, 0])), "its observation has inf"),
    "infinite as float32, of float64": (
        shows(np.array([1e300, 0]), spaces.Box(-INF, INF, (2,), np.float64)),
        "its observation has inf",
    ),
    "NaN reward": (rewards(NAN), "its reward is nan"),
    "infinite reward": (rewards(INF), "its reward is inf"),
    "negative infinite reward": (rewards(-INF), "its reward is -inf"),
    "reward infinite as float32": (rewards(1e300), "its reward is inf"),
    "reward None": (rewards(None), "reward None, not a number"),
    "reward a string": (rewards("1.0"), "reward '1.0', not a number"),
    "two rewards": (rewards(np.ones(2)), "reward array([1., 1.]), not a number"),
    "ragged rewards": (rewards([[1], [2, 3]]), "not a number"),
    "terminated a string": (steps_with(part(2, "False")), "terminated 'False', not a number"),
    "truncated None": (steps_with(part(3, None)), "truncated None, not a number"),
}

# What copy 1 does, and the rewards and lengths of its episodes.
TRAINED = {
    "nothing wrong": ({}, {1}, {5}),
    "reward an array without axes": (rewards(np.array(3.0)), {1, 3}, {5}),
    "reward an array of one": (rewards(np.array([3])), {1, 3}, {5}),
    "reward a NumPy number": (rewards(np.float64(3)), {1, 3}, {5}),
    "reward a whole number": (rewards(3), {1, 3}, {5}),
    "reward a truth": (rewards(True), {1}, {5}),
    "every step ends": (steps_with(part(2, True), from_step=1), {1}, {1}),
    "ends as numbers": (steps_with(part(2, np.array([1])), from_step=1), {1}, {1}),
    "terminated and truncated": (
        steps_with(lambda env, right: (*right[:2], env.time > 2, env.time > 2, {}), from_step=1),
        {1},
        {3},
    ),
    "never ends": (steps_with(part(3, False), from_step=1), {1}, {LIMIT}),
    "blocks": (steps_with(blocks), {1}, {5}),
    "odd info": (steps_with(part(4, {"x": object(), 3: [NAN]})), {1}, {5}),
    "odd info in reset": (resets_with(part(1, {"x": object(), 3: [NAN]})), {1}, {5}),
    "no info": (steps_with(part(4, None)), {1}, {5}),
    "actions that start below zero": ({"action_space": spaces.Discrete(2, start=-3)}, {1}, {5}),
    "huge observations": (shows(np.float32([1e38, -1e38])), {1}, {5}),
    "a list of floats": (shows([0.25, 0.5]), {1}, {5}),
    "float64 for float32": (shows(VECTOR.astype(np.float64)), {1}, {5}),
    "whole numbers for pixels": (shows(np.full((2, 2), 255), PIXELS), {1}, {5}),
    "fails to close": ({"close": fails_to_close}, {1}, {5}),
}


def registered(monkeypatch, changes):
    """The id of an honest environment with some changes."""
    return register(monkeypatch, type("Changed", (Honest,), changes))


def play(name, steps=200):
    """Plays four guarded copies; rewards of copy 1 and where its episodes end."""
    config = tiny(name, env__max_episode_steps=LIMIT)
    env = guard(envs.make_env(config), name, 4)
    try:
        timesteps = [env.reset()]
        for i in range(steps):
            env.send(np.full(4, i % 2))
            timesteps.append(env.recv())
    finally:
        env.close()
    return [(t.reward[1], t.terminated[1], t.last[1], t.first[1]) for t in timesteps]


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_training(monkeypatch, case):
    changes, words = REFUSED[case]
    name = registered(monkeypatch, changes)
    sentence = refusal(env=name)
    assert sentence.startswith(f'env.name = "{name}": ')
    assert words in sentence


@pytest.mark.parametrize("case", STOPPED)
def test_stopped_with_one_sentence(monkeypatch, case):
    changes, words = STOPPED[case]
    name = registered(monkeypatch, changes)
    with pytest.raises(envs.EnvError) as info:
        play(name)
    sentence = str(info.value)
    assert sentence.startswith(f'environment "{name}", copy 1 of 0 to 3: ')
    assert words in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("case", TRAINED)
def test_trained_on(monkeypatch, case):
    changes, expected_rewards, expected_lengths = TRAINED[case]
    steps = play(registered(monkeypatch, changes))
    reward, _, last, first = np.array(steps).T
    assert set(reward[first == 0]) == expected_rewards
    ends = np.flatnonzero(last)
    assert set(np.diff(ends) - 1) == expected_lengths  # a reset takes a step of its own
    assert ends[0] in expected_lengths


def test_an_end_by_the_limit_does_not_terminate(monkeypatch):
    changes, *_ = TRAINED["never ends"]
    _, terminated, last, _ = np.array(play(registered(monkeypatch, changes))).T
    assert last.sum() > 5
    assert not terminated.any()


def test_a_wrong_tuple_is_named_where_gymnasium_unpacks_it(monkeypatch):
    """Its own step limit is a wrapper of Gymnasium's, which fails first."""
    changes, _ = STOPPED["step returns four values"]
    name = registered(monkeypatch, changes)
    gymnasium.registry[name].max_episode_steps = 10
    with pytest.raises(envs.EnvError, match=r"copy 1 .* step did not return observation, reward"):
        play(name)


def test_a_copy_that_fails_to_close_keeps_no_other_open(monkeypatch):
    closed = []

    def close(env):
        closed.append(env)
        raise RuntimeError("cannot be closed")

    name = registered(monkeypatch, {"close": close})
    envs.make_env(tiny(name)).close()
    assert len(closed) == 4


def test_an_environment_of_one_copy_has_no_number(monkeypatch):
    name = registered(monkeypatch, resets_with(raises) | {"copy": 1})
    env = guard(envs.make_env(tiny(name), num_envs=1, seed=1), name)
    with pytest.raises(
        envs.EnvError, match=f'^environment "{name}": reset raised ValueError: boom'
    ):
        env.reset()


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("case", ["never ends", "odd info"])
def test_whole_runs(monkeypatch, tmp_path, case):
    changes, *_ = TRAINED[case]
    name = registered(monkeypatch, changes)
    config = tiny(name, env__max_episode_steps=LIMIT, train__steps=200, train__seed=1)
    result = train(config, run_dir=tmp_path)
    assert result.evaluation.episodes == 3


@pytest.mark.usefixtures("quick_compilation")
def test_observations_too_large_to_learn_from_end_the_run(monkeypatch, tmp_path):
    """Whole as they are, but not their squares."""
    changes, *_ = TRAINED["huge observations"]
    config = tiny(registered(monkeypatch, changes), env__max_episode_steps=LIMIT, train__steps=200)
    with pytest.raises(RunError, match="gradient norm is not finite since update 1, found at 80"):
        train(config, run_dir=tmp_path)
