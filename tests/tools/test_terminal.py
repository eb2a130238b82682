"""The view in a terminal, written into a string."""

import io

import numpy as np
import pytest
from rich.console import Console

from jdqn.tools.games import Moment, Opinion
from jdqn.tools.panels import Scale, Title
from jdqn.tools.terminal import Terminal, half_blocks, render


def moment(heads=2, action=1, step=3):
    q = np.linspace(0, 1, 2 * heads, dtype=np.float32).reshape(heads, 2)
    picture = np.zeros((20, 30, 3), np.uint8)
    opinion = Opinion(q, None, 1, False) if heads else None
    return Moment(0, step, 5.0, picture, np.zeros((1, 4)), opinion, action)


def lines(of, width=100, height=30):
    console = Console(file=io.StringIO(), width=width, height=height)
    scale = Scale(0.0, 1.0) if of.opinion else None
    title = Title("CartPole-v1", "dqn")
    console.print(render(title, ("left", "right"), scale, of, width, height))
    return console.file.getvalue().splitlines()


def test_score_actions_heads_and_who_acts_are_shown():
    text = "\n".join(lines(moment()))
    for words in ("CartPole-v1", "score 5", "step 3", "head 1 of 2 acts", "▶ right", "▸ head 1"):
        assert words in text


def test_random_agents_and_the_end_are_shown():
    text = "\n".join(lines(moment(heads=0, action=None)))
    assert "game over" in text
    assert "random actions" in text
    assert "head" not in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10)])
def test_a_view_is_no_larger_than_the_terminal(width, height):
    of = moment(heads=1)
    assert len(lines(of, width, height)) <= height
    assert max(map(len, lines(of, width, height))) <= width


def test_two_pixels_are_one_cell():
    picture = np.zeros((4, 3, 3), np.uint8)
    picture[0, 1] = [255, 0, 0]
    picture[3, 2] = [0, 255, 0]
    text = half_blocks(picture, 3, 2)
    assert text.plain == "▀▀▀\n▀▀▀\n"
    styles = {(span.start, span.end): str(span.style) for span in text.spans}
    assert styles[1, 2] == "#ff0000 on #000000"
    assert styles[6, 7] == "#000000 on #00ff00"
    assert (4, 6) in styles  # what looks alike is written at once


def test_moments_are_shown_one_after_another_and_the_scale_only_grows():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    with Terminal(Title("Pong", "dqn"), ("left", "right"), 60, console) as terminal:
        for step, size in enumerate([1.0, 4.0, 2.0]):
            of = moment(step=step)
            terminal.show(of._replace(opinion=of.opinion._replace(q=size * of.opinion.q)))
        assert terminal._scale.high > 4
    shown = console.file.getvalue()
    assert [f"step {step}" in shown for step in range(4)] == [True, True, True, False]
