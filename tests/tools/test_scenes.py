"""Pictures of what an agent sees, by hand."""

import numpy as np
import pytest
from helpers import tiny

from jdqn.tools import scenes
from jdqn.tools.scenes import AGENT, BACKGROUND, CHANNELS, MINUS, PLUS, TRAIL, TREASURE, Look


def test_channels_have_colours_and_earlier_ones_lie_above():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = [0, 1, 1]
    image[1, 1] = [0, 0, 1]
    picture = scenes.planes(image)
    np.testing.assert_array_equal(picture[0, 0], CHANNELS[1])
    np.testing.assert_array_equal(picture[1, 1], CHANNELS[2])
    np.testing.assert_array_equal(picture[0, 1], BACKGROUND)


def test_more_channels_than_colours_are_drawn():
    assert scenes.planes(np.ones((3, 3, 23), bool)).shape == (3, 3, 3)


@pytest.mark.parametrize("shape", [(40, 40, 3), (40, 40, 1)])
def test_colours_stay_as_they_are(rng, shape):
    image = rng.integers(256, size=shape, dtype=np.uint8)
    picture = Look(shape)(image)
    np.testing.assert_array_equal(picture, np.broadcast_to(image, (40, 40, 3)))


def test_flat_frames_are_shown_in_the_shape_of_the_observation():
    frame = np.zeros(6, np.uint8)
    frame[4] = 1
    picture = Look((2, 3))(frame)
    assert picture.shape == (2, 3, 3)
    np.testing.assert_array_equal(np.argwhere(picture[:, :, 0] == 255), [[1, 1]])


def test_a_flat_picture_is_no_division_by_zero():
    assert scenes.grey(np.full((2, 2), 3.5)).max() == 0


def test_bars_go_right_above_zero_and_left_below():
    picture = scenes.bars(np.array([1.0, -0.5, 0.0, 0.0]))
    height = len(picture) // 4
    middle = picture.shape[1] // 2
    first = picture[height // 2]
    second = picture[height + height // 2]
    assert (first[middle + 5] == PLUS).all()
    assert (first[middle - 5] == BACKGROUND).all()
    assert (second[middle - 5] == MINUS).all()
    assert (second[5] == BACKGROUND).all()


def test_a_vector_is_drawn_against_the_largest_values():
    small = np.array([1.0, 1.0], np.float32)
    first = Look((2,))
    alone = first(small)
    first(10 * small)
    assert not np.array_equal(first(small), alone)
    np.testing.assert_array_equal(first(small), Look((2,), np.array([10.0, 10.0]))(small))


def test_long_vectors_are_tiles():
    picture = scenes.tiles(np.linspace(-1, 1, 50))
    assert picture.shape == (7, 8, 3)
    np.testing.assert_array_equal(picture[0, 0], MINUS)
    np.testing.assert_array_equal(picture[6, 1], PLUS)


@pytest.mark.parametrize("size", [3, 10, 400])
def test_the_chain_shows_where_the_agent_is(size):
    for position in (1, 2, size):
        picture = scenes.chain(np.arange(1, size + 1) <= position)
        cell = picture.shape[1] // size
        where = np.argwhere((picture == AGENT).all(axis=2))
        assert len(where)
        assert (where[:, 1] // cell == position - 1).all()


def test_the_deep_sea_shows_the_way_and_the_treasure():
    scene = scenes.make_scene(tiny("bsuite/DeepSea", env__size=4).env, (4, 4))
    cell = scenes.SIDE // 4

    def colours(picture):
        corners = picture[2::cell, 2::cell]
        return [[tuple(int(part) for part in colour) for colour in row] for row in corners]

    for row, column in enumerate([0, 1, 0]):
        picture = scene((np.arange(16) == 4 * row + column).astype(np.uint8), row == 0)
    seen = colours(picture)
    assert [seen[0][0], seen[1][1], seen[2][0]] == [TRAIL] * 3
    assert seen[1][0] == scenes.GRID
    assert seen[3][3] == TREASURE
    assert tuple(picture[2 * cell + cell // 2, cell // 2]) == AGENT
    scene(np.zeros(16, np.uint8), False)  # after the last row
    again = colours(scene((np.arange(16) == 0).astype(np.uint8), True))
    assert again[1][1] == scenes.GRID


def test_the_network_sees_its_stack_or_the_channels_of_the_newest():
    look = Look((8, 8))
    assert len(scenes.network_sees(np.zeros((4, 8, 8), np.uint8), look)) == 4
    planes = scenes.network_sees(np.eye(8, dtype=np.uint8)[None, :, :, None].repeat(5, 3), look)
    assert len(planes) == 5
    np.testing.assert_array_equal(planes[2][:, :, 0], 255 * np.eye(8))
