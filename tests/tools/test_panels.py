"""The picture of a moment: what it shows, whatever the agent is like."""

import numpy as np
import pytest

from jdqn import learning
from jdqn.tools import panels
from jdqn.tools.games import Moment, Opinion, distribution
from jdqn.tools.panels import BEST, RANDOM, Board, Scale, Title, number, scale_of, who_acts
from jdqn.tools.scenes import Look

TITLE = Title("Breakout", "bootstrapped, 5 heads, after 1,000 steps")


def opinion(heads=1, actions=4, head=0, explores=False, atoms=0, rng=None):
    rng = rng or np.random.default_rng(0)
    q = rng.normal(size=(heads, actions)).astype(np.float32)
    probabilities = rng.dirichlet(np.ones(atoms), (heads, actions)) if atoms else None
    return Opinion(q, probabilities, head, explores)


def moment(opinion, action=1, picture=(210, 160, 3), stack=(4, 84, 84)):
    return Moment(
        3, 17, 12.0, np.zeros(picture, np.uint8), np.zeros(stack, np.uint8), opinion, action
    )


def board(actions=4, scale=None, shape=(84, 84)):
    names = tuple(f"ACTION{i}" for i in range(actions))
    return Board(TITLE, names, scale or Scale(-3.0, 3.0), Look(shape))


def has(image, colour):
    return bool((np.asarray(image) == colour).all(axis=2).any())


@pytest.mark.parametrize("actions", [2, 4, 18, 1_024])
@pytest.mark.parametrize("heads", [1, 5, 10, 40])
def test_every_number_of_heads_and_actions_is_drawn(heads, actions):
    image = board(actions).draw(moment(opinion(heads, actions)))
    assert image.size == (3 * panels.MARGIN + 320 + panels.BESIDE, 56 + 420 + 16)
    assert has(image, BEST)
    assert (heads > 1) == has(image, panels.HEADS[0])  # the head that acts


def test_of_many_actions_the_taken_and_the_best_are_shown():
    q = np.arange(40, dtype=np.float32)[None]
    told = moment(Opinion(q, None, 0, False), action=3)
    assert panels.shown_actions(told, 40) == [3, *range(23, 40)]
    assert panels.shown_actions(moment(None, action=None), 40) == list(range(18))
    assert panels.shown_actions(told, 18) == list(range(18))


@pytest.mark.parametrize(
    ("picture", "shape", "stack"),
    [
        ((400, 600, 3), (4,), (1, 4)),
        ((10, 10, 3), (10, 10, 4), (1, 10, 10, 4)),
        ((54, 600, 3), (100,), (3, 100)),
        ((250, 160, 3), (84, 84), (4, 84, 84)),
        ((1, 1, 3), (1,), (255, 1)),
    ],
)
def test_every_screen_fits_and_sides_are_even(picture, shape, stack):
    image = board(shape=shape).draw(moment(opinion(), picture=picture, stack=stack))
    width, height = image.size
    assert width % 2 == height % 2 == 0
    assert width <= 3 * panels.MARGIN + panels.SCREEN[0] + panels.BESIDE
    assert height <= 56 + panels.SCREEN[1] + 16


def test_a_random_agent_and_the_end_of_a_game_have_no_action_of_the_agents():
    assert not has(board().draw(moment(opinion(), action=None)), BEST)
    assert has(board().draw(moment(None)), BEST)
    assert has(board().draw(moment(opinion(explores=True))), RANDOM)


def test_a_longer_bar_is_a_larger_value():
    q = np.array([[0.0, 2.0, 1.0]], np.float32)
    names = ("a", "b", "c")
    image = Board(TITLE, names, Scale(0.0, 2.0), Look((84, 84))).draw(
        moment(Opinion(q, None, 0, False), action=1)
    )
    pixels = np.asarray(image)
    largest = (pixels == BEST).all(axis=2).sum()
    middle = (pixels == panels.BAR).all(axis=2).sum()
    assert 2.2 * middle > largest > 1.8 * middle > 0


def test_distributions_are_drawn_where_they_weigh_something():
    returns = np.linspace(-10, 10, 51)
    probabilities = np.zeros((1, 2, 51))
    probabilities[0, 0, 30] = 1.0
    probabilities[0, 1, 30:33] = 1 / 3
    of = Opinion(np.ones((1, 2), np.float32), probabilities, 0, False)
    scale = scale_of([of], returns)
    assert (scale.shown.start, scale.shown.stop) == (29, 34)
    np.testing.assert_allclose([scale.low, scale.high], [returns[29] - 0.2, returns[33] + 0.2])
    assert scale.peak == 1.0
    names = ("left", "right")
    assert has(Board(TITLE, names, scale, Look((4,))).draw(moment(of, stack=(1, 4))), BEST)


def test_quantiles_are_drawn_as_the_part_of_them_near_each_return():
    quantiles = np.zeros((2, 2, 5))
    quantiles[0, 1] = [-1.0, 4.9, 4.9, 4.9, 4.9]
    of = Opinion(np.ones((2, 2), np.float32), None, 0, False, quantiles)
    scale = scale_of([of], None)
    assert scale.low == pytest.approx(-1.05)
    assert scale.high == pytest.approx(4.95)
    assert scale.peak == 1.0
    parts = distribution(of, scale.returns)
    assert parts.shape == (2, 2, panels.COLUMNS)
    np.testing.assert_allclose(parts.sum(axis=2), 1.0)
    np.testing.assert_allclose(parts[0, 1, [0, -1]], [0.2, 0.8])
    np.testing.assert_allclose(parts[1, 0, 10], 1.0)  # 0 is ten tenths above -1
    names = ("left", "right")
    assert has(Board(TITLE, names, scale, Look((4,))).draw(moment(of, stack=(1, 4))), BEST)


def test_quantiles_that_are_all_one_value_have_a_scale():
    of = Opinion(np.full((1, 2), 3.0, np.float32), None, 0, False, np.full((1, 2, 4), 3.0))
    scale = scale_of([of], None)
    assert scale.low < 3.0 < scale.high


@pytest.mark.parametrize(
    ("q", "low", "high"),
    [
        ([[1.0, 4.0]], 0.0, 4.16),  # bars begin at 0 where it is near
        ([[90.0, 100.0]], 89.6, 100.4),  # and would all look alike where it is far
        ([[-4.0, -1.0]], -4.16, 0.0),
        ([[-1.0, 1.0]], -1.08, 1.08),
        ([[0.0, 0.0]], 0.0, 0.001),
    ],
)
def test_the_scale_holds_all_values(q, low, high):
    scale = scale_of([Opinion(np.array(q, np.float32), None, 0, False)], None)
    np.testing.assert_allclose([scale.low, scale.high], [low, high], atol=2e-4)
    assert scale.high > scale.low


def test_the_scale_of_nothing_is_one():
    assert scale_of([], None) == Scale(0.0, 1.0)


def test_it_is_said_who_acts():
    said = {
        who_acts(None)[0]: "random actions",
        who_acts(opinion(1))[0]: "best action",
        who_acts(opinion(5, head=2))[0]: "head 2 of 5 acts",
        who_acts(opinion(5, head=learning.ALL_VOTE))[0]: "vote of 5 heads",
        who_acts(opinion(5, head=learning.ALL_MEAN))[0]: "mean of 5 heads",
        who_acts(opinion(5, head=2, explores=True))[0]: "a random action",
    }
    assert all(key == value for key, value in said.items())
    assert len(said) == 6


def test_numbers_are_short():
    values = [0.0, 12.0, 0.0123, 3.14159, 123.45, 12_345.6, -2.5]
    assert [number(value) for value in values] == [
        *("0", "12", "0.012", "3.14", "123.5", "12,346", "-2.50")
    ]
