"""A game in a terminal: the screen in half blocks, bars beside it; works over ssh."""

import time

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, Group
from rich.live import Live
from rich.style import Style
from rich.table import Table
from rich.text import Text

from jdqn.tools.games import Moment, Opinion
from jdqn.tools.panels import (
    Scale,
    Title,
    head_colour,
    number,
    scale_of,
    shown_actions,
    who_acts,
)

UPPER_HALF = "▀"
FULL = "█"
BAR_CELLS = 24
MOST_LINES = 30  # of heads, beside those of actions
HOLD_SECONDS = 1.0  # at the end of a game


class Terminal:
    """Shows moments as they come, so many a second."""

    def __init__(
        self,
        title: Title,
        actions: tuple[str, ...],
        fps: float,
        console: Console | None = None,
    ):
        self._title = title
        self._actions = actions
        self._period = 1.0 / fps
        self._console = console or Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._due = 0.0
        self._scale: Scale | None = None

    def __enter__(self) -> "Terminal":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, moment: Moment) -> None:
        """Shows a moment when it is due."""
        if moment.opinion is not None:
            self._widen(moment.opinion)
        time.sleep(max(0.0, self._due - time.monotonic()))
        width, height = self._console.size
        view = render(self._title, self._actions, self._scale, moment, width, height)
        self._live.update(view, refresh=True)
        hold = HOLD_SECONDS if moment.action is None else self._period
        self._due = time.monotonic() + hold

    def _widen(self, opinion: Opinion) -> None:
        """The bars' scale only grows, so that they do not jump."""
        scale = scale_of([opinion._replace(probabilities=None, quantiles=None)], None)
        if self._scale is not None:
            low = min(scale.low, self._scale.low)
            scale = Scale(low, max(scale.high, self._scale.high))
        self._scale = scale


def render(
    title: Title,
    actions: tuple[str, ...],
    scale: Scale | None,
    moment: Moment,
    width: int,
    height: int,
) -> Group:
    """A moment in so many columns and rows."""
    over = ", game over" if moment.action is None else ""
    head = Text.assemble(
        (title.env, "bold"),
        f"  {title.agent}   ",
        (f"score {number(moment.score)}", "bold"),
        f"  step {moment.step:,}{over}",
    )
    head.truncate(width - 1, overflow="ellipsis")
    table = Table.grid(padding=(0, 2))
    beside = _opinion(actions, scale, moment)
    room = max(8, width - BAR_CELLS - 34)
    table.add_row(half_blocks(moment.picture, room, height - 3), beside)
    return Group(head, Text(), table)


def half_blocks(picture: np.ndarray, columns: int, rows: int) -> Text:
    """A picture `[H, W, 3]` u8 in so many cells at most, two pixels in each."""
    height, width = picture.shape[:2]
    times = min(columns / width, 2 * rows / height)
    size = (max(1, round(width * times)), max(2, round(height * times) // 2 * 2))
    grows = times >= 1
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BOX
    pixels = np.asarray(Image.fromarray(picture).resize(size, how)).tolist()
    text = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        begin = 0
        cells = list(zip(upper, lower, strict=True))
        for end in range(1, len(cells) + 1):  # what looks the same is written at once
            if end < len(cells) and cells[end] == cells[begin]:
                continue
            above, below = cells[begin]
            style = Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))
            text.append(UPPER_HALF * (end - begin), style)
            begin = end
        text.append("\n")
    return text


def _opinion(actions: tuple[str, ...], scale: Scale | None, moment: Moment) -> Table:
    """A line for each action, and one for each head below it."""
    opinion = moment.opinion
    by, colour = who_acts(opinion)
    chosen = Style(color=Color.from_rgb(*colour), bold=True)
    table = Table.grid(padding=(0, 1))
    table.add_row("", Text("Q-values" if opinion else "actions", "bold"), Text(by, chosen))
    for action in shown_actions(moment, len(actions)):
        name = actions[action]
        is_chosen = action == moment.action
        style = chosen if is_chosen else Style()
        mark = Text("▶" if is_chosen else " ", style)
        if opinion is None or scale is None:
            table.add_row(mark, Text(name, style))
            continue
        q = opinion.q[:, action]
        mean = float(q.mean())
        table.add_row(mark, Text(name, style), _bar(scale, mean, style), number(mean))
        if len(q) > 1 and len(q) * len(actions) <= MOST_LINES:
            for head, value in enumerate(q):
                of_head = Style(color=Color.from_rgb(*head_colour(head)))
                acts = "▸" if head == opinion.head else " "
                table.add_row("", Text(f"{acts} head {head}", of_head), _bar(scale, value, of_head))
    return table


def _bar(scale: Scale, value: float, style: Style) -> Text:
    """From the scale's zero, or its nearer end, to a value."""
    zero = scale.at(0.0, 0, BAR_CELLS)
    end = scale.at(value, 0, BAR_CELLS)
    begin = min(zero, end)
    cells = max(1, abs(end - zero))
    return Text.assemble(" " * begin, (FULL * cells, style), no_wrap=True)
