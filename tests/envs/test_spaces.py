"""What observations and actions become: compared with Gymnasium's own flattening."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jdqn.config import ConfigError
from jdqn.envs.spaces import NotOfSpace, make_codec

COIN = spaces.Discrete(2)
IMAGE = spaces.Box(0, 255, (40, 50, 3), np.uint8)
SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
TYPES = [np.float32, np.float64, np.float16, np.int8, np.int64, np.uint8, np.uint16, np.bool_]


def boxes(shape, dtype):
    return spaces.Box(0, 1 if dtype == np.bool_ else 100, shape, dtype)


STARTS = st.integers(-99, 99)
SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=3)
LEAVES = st.one_of(
    st.builds(boxes, SHAPES, st.sampled_from(TYPES)),
    st.builds(lambda shape: spaces.Box(0, 255, shape, np.uint8), SHAPES),
    st.builds(
        lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-99, 99)
    ),
    st.builds(spaces.MultiDiscrete, SIZES),
    st.builds(lambda nvec: spaces.MultiDiscrete([nvec, nvec], start=[nvec, nvec]), SIZES),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 5), SIZES)),
)
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.text("abc", min_size=1), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=5,
)


def codec(observation=COIN, action=COIN, **fields):
    overrides = {f"env__{name}": value for name, value in fields.items()}
    return make_codec(observation, action, tiny(**overrides).env)


def refusal(*arguments, **fields):
    with pytest.raises(ConfigError) as info:
        codec(*arguments, **fields)
    return str(info.value)


def twin(space, value):
    """One vector of floats: entry by entry, bytes divided by 255."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([twin(inner, value[key]) for key, inner in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return np.concatenate([twin(*pair) for pair in zip(space.spaces, value, strict=True)])
    flat = spaces.utils.flatten(space, value).astype(np.float64)
    is_bytes = isinstance(space, spaces.Box) and space.dtype == np.uint8 and space.high.max() == 255
    return flat / 255 if is_bytes else flat


@given(SPACES, st.integers(0, 1000))
def test_any_observation_becomes_the_frame_that_the_spec_says(space, seed):
    of_space = codec(space)
    space.seed(seed)
    value = space.sample()
    frame = of_space.encode(value)
    assert frame.shape == of_space.spec.frame_shape
    assert frame.dtype == of_space.spec.frame_dtype
    np.testing.assert_allclose(frame * of_space.spec.scale, twin(space, value), rtol=1e-6)


@given(SPACES, st.integers(0, 1000))
def test_a_number_divides_every_entry(space, seed):
    of_space = codec(space, observation_scale=4)
    space.seed(seed)
    value = space.sample()
    frame = of_space.encode(value)
    assert frame.dtype == of_space.spec.frame_dtype == np.float32
    np.testing.assert_allclose(frame, twin(space, value) / 4, rtol=1e-6)


def test_a_list_divides_entry_by_entry():
    of_space = codec(spaces.Box(-9, 9, (2, 1), np.int16), observation_scale=[2, 0.5])
    np.testing.assert_array_equal(of_space.encode(np.int16([[3], [4]])), [1.5, 8])


def test_bounds_become_minus_one_and_one_where_there_are_some():
    low = np.float32([-2, 0, -np.inf, 5, -3e38, 1])
    high = np.float32([2, 10, 3, np.inf, 3e38, 1])
    space = spaces.Box(low, high)
    of_space = codec(space, observation_scale="bounds")
    np.testing.assert_array_equal(of_space.encode(np.float32([-2, 0, 1, 6, 7, 1]))[:2], [-1, -1])
    frame = of_space.encode(np.float32([2, 7.5, 1, 6, 7, 1]))
    np.testing.assert_array_equal(frame, [1, 0.5, 1, 6, 7, 1])
    assert frame.dtype == np.float32


def test_bounds_of_whole_numbers_and_of_parts():
    counts = spaces.Box(0, 10, (1,), np.int64)
    endless = spaces.Box(-np.inf, np.inf, (1,), np.int64)
    space = spaces.Tuple([counts, endless, COIN])
    frame = codec(space, observation_scale="bounds").encode((np.array([10]), np.array([7]), 1))
    np.testing.assert_array_equal(frame, [1, 7, 0, 1])


# --- Images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "frame_shape"),
    [
        ((84, 84), (84, 84)),
        ((84, 84, 1), (84, 84)),
        ((1, 84, 84), (84, 84)),
        ((64, 48, 3), (64, 48, 3)),
        ((3, 64, 48), (64, 48, 3)),
        ((36, 36), (36, 36)),
        ((4, 84, 84), (84, 84, 4)),
        ((210, 160, 3), (84, 84, 3)),
        ((3, 40, 100), (40, 84, 3)),
        ((35, 84, 3), (35 * 84 * 3,)),
        ((8, 8), (64,)),
        ((40,), (40,)),
        ((2, 2, 40, 40), (6400,)),
    ],
)
def test_images_of_any_layout(shape, frame_shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    of_space = codec(space)
    assert of_space.spec.frame_shape == frame_shape
    assert of_space.spec.frame_dtype == np.uint8
    assert of_space.spec.scale == 1 / 255
    frame = of_space.encode(space.sample())
    assert (frame.shape, frame.dtype) == (frame_shape, np.uint8)


def test_channels_first_are_moved():
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 50), np.uint8)
    frame = codec(spaces.Box(0, 255, image.shape, np.uint8)).encode(image)
    np.testing.assert_array_equal(frame, np.moveaxis(image, 0, -1))


def test_resizing_takes_the_mean_of_areas_and_is_said(rng):
    small = rng.integers(0, 256, (84, 60, 3), np.uint8)
    large = small.repeat(2, axis=0)
    of_space = codec(spaces.Box(0, 255, large.shape, np.uint8))
    assert of_space.said == ("frames are resized from 168 × 60 to 84 × 60",)
    np.testing.assert_array_equal(of_space.encode(large), small)
    stripes = np.zeros((168, 84), np.uint8)
    stripes[::2] = 200
    of_stripes = codec(spaces.Box(0, 255, stripes.shape, np.uint8))
    np.testing.assert_array_equal(of_stripes.encode(stripes), np.full((84, 84), 100))


@pytest.mark.parametrize("inside", [False, True])
def test_an_image_that_becomes_a_vector_is_said(inside):
    space = spaces.Box(0.0, 1.0, (48, 48, 3), np.float32)
    whole = spaces.Dict({"a": spaces.Discrete(2), "b": space}) if inside else space
    (said,) = codec(whole).said
    size = f"{48 * 48 * 3 + 2 * inside:,}"
    assert said.startswith(f"float32 of shape (48, 48, 3) becomes a part of a vector of {size}")
    assert not codec(spaces.Box(-1.0, 1.0, (48,), np.float32)).said


def test_nothing_is_said_where_nothing_is_resized():
    assert codec(IMAGE).said == ()


def test_bytes_of_another_range_are_numbers():
    spec = codec(spaces.Box(0, 3, (40, 40), np.uint8)).spec
    assert (spec.frame_shape, spec.frame_dtype, spec.scale) == ((1600,), np.float32, 1.0)


# --- Actions ------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    st.one_of(
        st.builds(lambda n, s: spaces.Discrete(n, start=s), st.integers(2, 9), st.integers(-9, 9)),
        st.builds(lambda n: spaces.MultiDiscrete([2, *n], start=[-1, *n]), SIZES),
        st.builds(lambda n: spaces.MultiDiscrete([[2, n], [3, n]]), st.integers(1, 3)),
        st.builds(spaces.MultiBinary, st.sampled_from([1, 4, [2, 3]])),
    )
)
def test_every_action_has_one_number(space):
    of_space = codec(action=space)
    actions = [of_space.decode_action(i) for i in range(of_space.spec.num_actions)]
    assert all(space.contains(action) for action in actions)
    assert len({np.asarray(action).tobytes() for action in actions}) == len(actions)
    if not isinstance(space, spaces.Discrete):
        sizes = space.nvec.reshape(-1) if isinstance(space, spaces.MultiDiscrete) else 2
        sizes = np.broadcast_to(sizes, actions[0].size)
        start = getattr(space, "start", np.zeros(space.shape, int))
        back = [np.ravel_multi_index((a - start).reshape(-1), sizes) for a in actions]
        assert back == list(range(np.prod(sizes)))


def test_an_action_may_be_written_into():
    of_space = codec(action=spaces.MultiBinary(2))
    of_space.decode_action(3)[:] = 0
    np.testing.assert_array_equal(of_space.decode_action(3), [1, 1])


def test_a_codec_can_be_sent_to_a_process():
    of_space = codec(spaces.Dict({"a": IMAGE, "b": COIN}), observation_scale=2)
    value = of_space.observation_space.sample()
    sent = pickle.loads(pickle.dumps(of_space))
    np.testing.assert_array_equal(sent.encode(value), of_space.encode(value))


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Text(3), "not Text"),
        (spaces.Sequence(COIN), "not Sequence"),
        (spaces.Graph(IMAGE, None), "not Graph"),
        (spaces.OneOf([COIN, COIN]), "not OneOf"),
        (spaces.Tuple([COIN, spaces.Dict({"x": spaces.Text(3)})]), "not Text"),
        (None, "not NoneType"),
        (spaces.Box(0, 1, (0, 3)), "which is empty"),
        (spaces.Discrete(65_537), "which becomes 65,537 numbers; at most 65,536"),
        (spaces.MultiDiscrete([40_000, 40_000]), "80,000 numbers"),
        (spaces.Dict({"x": spaces.Box(0, 1, (256, 257))}), "65,792 numbers"),
    ],
    ids=str,
)
def test_odd_observations_are_refused(space, words):
    sentence = refusal(space)
    assert sentence.startswith('env.name = "CartPole-v1": its observation space is ')
    assert words in sentence


def test_the_largest_vectors_are_taken():
    assert codec(spaces.Discrete(65_536)).spec.frame_shape == (65_536,)
    assert codec(spaces.Box(0, 1, (70_000,))).spec.frame_shape == (70_000,)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,)),
        spaces.Discrete(1),
        spaces.Discrete(65_537),
        spaces.MultiDiscrete([1, 1]),
        spaces.MultiDiscrete([32, 33]),
        spaces.MultiBinary(11),
        spaces.Tuple([COIN, COIN]),
        None,
    ],
    ids=str,
)
def test_odd_actions_are_refused(space):
    sentence = refusal(COIN, space)
    for words in [f"its action space is {space};", "Discrete actions", "1,024 combinations"]:
        assert words in sentence


def test_most_actions_are_taken():
    assert codec(action=spaces.MultiDiscrete([32, 32])).spec.num_actions == 1024


def test_a_scale_that_does_not_fit_is_refused():
    sentence = refusal(spaces.Box(0, 1, (3,)), observation_scale=[1, 2])
    assert "env.observation_scale = [1.0, 2.0]: has 2 numbers" in sentence
    assert "has 3 entries" in sentence
    assert "shows images, which are divided by 255" in refusal(IMAGE, observation_scale=2)


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (COIN, 2, "not of Discrete(2): 2, shape (), int64"),
        (COIN, 0.5, "float64"),
        (spaces.MultiDiscrete([2, 3]), [0, 3], "not of MultiDiscrete([2 3]): [0, 3]"),
        (spaces.MultiBinary(2), np.int8([0, 2]), "not of MultiBinary(2)"),
        (spaces.Tuple([COIN]), (), "not of Tuple(Discrete(2)): ()"),
        (spaces.Dict({"x": spaces.Tuple([COIN])}), {"x": [5]}, 'not of Discrete(2) at "x.0": 5'),
        (IMAGE, np.zeros((40, 50), np.uint8), "shape (40, 50), uint8"),
    ],
    ids=str,
)
def test_a_value_of_another_space_is_refused(space, value, words):
    with pytest.raises(NotOfSpace) as info:
        codec(space).encode(value)
    assert words in str(info.value)


def test_booleans_are_bits():
    frame = codec(spaces.MultiBinary(2)).encode(np.array([True, False]))
    np.testing.assert_array_equal(frame, [1, 0])
