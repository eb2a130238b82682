"""Raw observations become frames, numbers become the environment's own actions."""

import gymnasium
import jax
import numpy as np
import pytest
from envs_helpers import interface_of
from gymnasium import spaces
from helpers import tiny, vector_spec

from jdqn import envs
from jdqn.config import ConfigError
from jdqn.envs.interface import Interface, interface
from jdqn.records import EnvSpec

TWO = spaces.Discrete(2)


IMAGES = Interface(EnvSpec((2, 3), np.dtype(np.uint8), 4, 3, 1 / 255), (2, 3), np.dtype(np.uint8))
VECTORS = Interface(vector_spec(3), (3,), np.dtype(np.float32))
CLASSES = interface_of(spaces.Discrete(4, start=-1), spaces.Discrete(2, start=-1))


class Odd(gymnasium.Env):
    """Observations from -1 to 2, actions -1 and 0."""

    observation_space = spaces.Discrete(4, start=-1)
    action_space = spaces.Discrete(2, start=-1)

    def reset(self, *, seed=None, options=None):
        return 1, {}

    def step(self, action):
        assert action in self.action_space
        return 2, 0.0, False, False, {}


def test_one_observation_and_several_are_told_apart_by_shape():
    one, is_one = VECTORS.batch([1, 2, 3])
    assert (one.shape, is_one) == ((1, 3), True)
    several, is_one = VECTORS.batch(np.zeros((5, 3)))
    assert (several.shape, is_one) == ((5, 3), False)
    whole = interface_of(spaces.Box(-1.0, 1.0, (3,)), TWO)
    assert whole.frames(whole.batch([0, 1, -1])[0]).dtype == np.float32
    assert CLASSES.batch(1)[1]
    assert not CLASSES.batch([1])[1]
    for wrong in (np.zeros(4), np.zeros((0, 3)), np.zeros((2, 2, 3)), 1.0, [[1], [2, 3]], None):
        with pytest.raises(ConfigError, match=r"shape .*: expected one of shape \(3,\), or a .*B"):
            VECTORS.batch(wrong)


def test_frames_are_what_the_adapter_shows():
    env = envs.make_env(tiny(env__observation_scale="bounds"), num_envs=2, seed=3)
    between = interface(env)
    frame = env.reset().frame
    env.close()
    single = gymnasium.make("CartPole-v1")
    raw = np.stack([single.reset(seed=3 + i)[0] for i in range(2)])
    np.testing.assert_array_equal(between.frames(between.batch(raw)[0]), frame)
    bytes_of_floats = IMAGES.frames(np.full((1, 2, 3), 255.0))
    assert (bytes_of_floats.dtype, bytes_of_floats.max()) == (np.uint8, 255)


def test_classes_and_actions_that_do_not_start_at_0():
    gymnasium.register("jdqn-test/Odd-v0", Odd)
    env = envs.make_env(tiny("jdqn-test/Odd-v0"), num_envs=1)
    between = interface(env)
    np.testing.assert_array_equal(between.frames(np.array([1, -1])), [[0, 0, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(between.frames(np.array([1])), env.reset().frame)
    np.testing.assert_array_equal(between.actions(np.array([0, 1])), [-1, 0])
    env.close()


def test_observations_in_parts_and_actions_of_several_choices():
    parts = {"speed": spaces.Box(-2.0, 2.0, (2,)), "gear": spaces.Discrete(3)}
    between = interface_of(spaces.Dict(parts), spaces.MultiDiscrete([2, 3]))
    one = {"speed": np.ones(2, np.float32), "gear": 2}
    observations, is_one = between.batch(one)
    assert is_one
    want = between.codec.encode(one)
    np.testing.assert_array_equal(between.frames(observations), [want])
    side_by_side = {"speed": np.ones((2, 2), np.float32), "gear": np.array([2, 2])}
    for several in ([one, one], side_by_side):
        observations, is_one = between.batch(several)
        assert not is_one
        np.testing.assert_array_equal(between.frames(observations), [want, want])
    np.testing.assert_array_equal(between.actions(np.array([0, 5])), [[0, 0], [1, 2]])
    with pytest.raises(ConfigError, match=r"observation \[\]"):
        between.batch([])
    for wrong in ({"speed": np.ones(2, np.float32)}, {}, 3, {"speed": 1, "gear": "x"}):
        with pytest.raises(ConfigError, match="observation not of"):
            between.frames(between.batch(wrong)[0])


@pytest.mark.parametrize(
    ("space", "fields", "shape", "is_raw"),
    [
        (spaces.Box(-2.0, 2.0, (2, 3)), {}, (2, 3), True),
        (spaces.Box(-2.0, 2.0, (3,)), {"env__observation_scale": "bounds"}, (3,), True),
        (spaces.Box(-2, 2, (3,), np.int16), {"env__observation_scale": 4.0}, (3,), True),
        (spaces.Box(0, 255, (40, 50, 3), np.uint8), {}, (40, 50, 3), True),
        (spaces.Box(0, 255, (3, 40, 50), np.uint8), {}, (40, 50, 3), False),
        (spaces.Box(0, 255, (100, 90), np.uint8), {}, (84, 84), False),
        (spaces.MultiBinary(5), {}, (5,), False),
    ],
)
def test_a_graph_takes_raw_observations_where_it_can_make_frames_of_them(
    space, fields, shape, is_raw
):
    between = interface_of(space, TWO, **fields)
    assert (between.shape, between.takes_frames) == (shape, not is_raw)
    if is_raw:
        value = np.ones(space.shape, space.dtype)
        factor, offset = between.affine
        frame = between.codec.encode(value)
        np.testing.assert_allclose(value.reshape(-1) * factor + offset, frame.reshape(-1))
        assert between.dtype == space.dtype


def test_a_jax_native_environment_shows_its_own_shape():
    env = envs.make_env(tiny("jdqn/Chain"), num_envs=2)
    between = interface(env)
    assert (between.shape, between.dtype) == ((10,), bool)
    assert between.frames(np.ones((2, 10))).dtype == env.spec.frame_dtype
    flattened = between._replace(shape=(5, 2))
    assert flattened.frames(np.ones((3, 5, 2))).shape == (3, 10)
    assert isinstance(env.observation, jax.ShapeDtypeStruct)


@pytest.mark.parametrize(
    ("of", "observations", "said"),
    [
        (VECTORS, [["a", "b", "c"]], "expected numbers"),
        (VECTORS, [[1, np.nan, 2]], "not finite"),
        (VECTORS, [[1, 1e300, 2]], "not finite"),
        (IMAGES, np.full((1, 2, 3), 0.5), "float64: expected uint8, whole numbers from 0 to 255"),
        (IMAGES, np.full((1, 2, 3), -1), "int64: expected uint8"),
        (CLASSES, [3], r"observation not of Discrete\(4, start=-1\): .*3"),
        (CLASSES, [0.0], "not of Discrete"),
    ],
)
def test_what_the_environment_cannot_have_shown_is_refused(of, observations, said):
    with pytest.raises(ConfigError, match=said):
        of.frames(np.asarray(observations))
