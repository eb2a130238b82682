"""The picture of a moment: the screen, and beside it what the agent sees and thinks."""

import functools
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jdqn import learning
from jdqn.tools import scenes
from jdqn.tools.games import Moment, Opinion, distribution
from jdqn.tools.scenes import Look, network_sees

BACKGROUND = (15, 18, 24)
PANEL = (24, 28, 36)
CHOSEN = (44, 51, 65)
LINE = (62, 70, 86)
TEXT = (230, 233, 239)
DIM = (139, 148, 165)
BAR = (96, 134, 196)
BEST = scenes.AMBER
RANDOM = scenes.RED
YELLOW = (250, 204, 80)
GREY = (148, 163, 184)
CORAL = (251, 146, 110)
INDIGO = (129, 140, 248)
LIME = (190, 220, 110)
HEADS = [
    *(scenes.BLUE, scenes.GREEN, scenes.VIOLET, scenes.TEAL, scenes.PINK),
    *(YELLOW, GREY, CORAL, INDIGO, LIME),
]

MARGIN = 16
HEAD_HEIGHT = 56
SCREEN = (480, 420)  # width and height at most
LEAST_HEIGHT = 400
BESIDE = 360
SEEN_HEIGHT = 84  # of what the network sees
MOST_SEEN = 10
MOST_ROW = 88
MOST_ACTIONS = 18  # that have room
COLUMNS = 60  # of quantiles, over all that are ever said
Box = tuple[int, int, int, int]  # left, top, right, bottom


class Scale(NamedTuple):
    """What bars and distributions are drawn against, the same through a film."""

    low: float
    high: float
    returns: np.ndarray | None = None  # [Z] of a distribution
    shown: slice = slice(None)  # which of Z ever weigh something
    peak: float = 1.0  # the largest probability

    def at(self, value: float, left: int, right: int) -> int:
        """The pixel of a value between two pixels."""
        part = (value - self.low) / (self.high - self.low)
        return left + round(min(max(part, 0.0), 1.0) * (right - left))


def scale_of(opinions: Iterable[Opinion], returns: np.ndarray | None) -> Scale:
    """The scale of all opinions of a film.

    Args:
      opinions: in it.
      returns: `[Z]` f32 of the value head's distribution, or None.
    """
    opinions = list(opinions)
    if not opinions:
        return Scale(0.0, 1.0)
    low = min(float(opinion.q.min()) for opinion in opinions)
    high = max(float(opinion.q.max()) for opinion in opinions)
    quantiles = [opinion.quantiles for opinion in opinions if opinion.quantiles is not None]
    if quantiles:
        least = min(float(some.min()) for some in quantiles)
        most = max(float(some.max()) for some in quantiles)
        returns = np.linspace(least, max(most, least + 1e-3), COLUMNS)
    if returns is None:
        if low > 0 and low < 0.5 * high:
            low = 0.0
        elif high < 0 and high > 0.5 * low:
            high = 0.0
        margin = 0.04 * (high - low) or 1e-3  # something, where all are the same
        return Scale(low - margin * (low != 0), high + margin * (high != 0 or low == 0))
    masses = [distribution(opinion, returns) for opinion in opinions]
    weights = np.max([mass.max(axis=(0, 1)) for mass in masses if mass is not None], axis=0)
    weighty = np.flatnonzero(weights > 0.02 * weights.max())
    shown = slice(max(weighty[0] - 1, 0), weighty[-1] + 2)
    within = returns[shown]
    step = float(returns[1] - returns[0])
    return Scale(
        float(within[0]) - step / 2, float(within[-1]) + step / 2, returns, shown, weights.max()
    )


class Title(NamedTuple):
    """What stands above."""

    env: str
    agent: str  # and how long it was trained


class Board:
    """Draws moments of one agent in one environment, all in one size."""

    def __init__(self, title: Title, actions: tuple[str, ...], scale: Scale, look: Look):
        """`look` draws what the network sees."""
        self._title = title
        self._actions = actions
        self._scale = scale
        self._look = look
        self._screen: tuple[int, int] | None = None

    def draw(self, moment: Moment) -> Image.Image:
        """The picture, RGB, with sides that are even."""
        if self._screen is None:
            self._screen = _screen_size(moment.picture)
        width, height = self._screen
        body = max(height, LEAST_HEIGHT)
        bottom = HEAD_HEIGHT + body
        whole_width = 3 * MARGIN + width + BESIDE
        image = Image.new("RGB", (whole_width, bottom + MARGIN), BACKGROUND)
        draw = ImageDraw.Draw(image)
        self._head(draw, moment, whole_width)
        top = HEAD_HEIGHT + (body - height) // 2
        image.paste(resized(moment.picture, (width, height)), (MARGIN, top))
        left = 2 * MARGIN + width
        below = self._seen(image, moment, left, bottom)
        box = (left, HEAD_HEIGHT, left + BESIDE, below - 10)
        self._opinion(draw, moment, box)
        return image

    def _head(self, draw: ImageDraw.ImageDraw, moment: Moment, width: int) -> None:
        """Title, score and step."""
        draw.text((MARGIN, 8), self._title.env, TEXT, font(20, bold=True))
        draw.text((MARGIN, 33), self._title.agent, DIM, font(12))
        over = "game over, " if moment.action is None else ""
        right = width - MARGIN
        draw.text((right, 8), f"score {number(moment.score)}", TEXT, font(20, bold=True), "ra")
        draw.text((right, 33), f"{over}step {moment.step:,}", DIM, font(12), "ra")

    def _seen(self, image: Image.Image, moment: Moment, left: int, bottom: int) -> int:
        """What the network sees, at the bottom; returns where it begins."""
        pictures = network_sees(moment.stack, self._look)[-MOST_SEEN:]
        count = len(pictures)
        gap = 6
        space = ((BESIDE - gap * (count - 1)) // count, SEEN_HEIGHT)
        sizes = [_fitted(picture, space) for picture in pictures]
        height = max(size[1] for size in sizes)
        draw = ImageDraw.Draw(image)
        draw.text((left, bottom - height - 17), "what the network sees", DIM, font(11))
        x = left
        for picture, size in zip(pictures, sizes, strict=True):
            image.paste(resized(picture, size), (x, bottom - height))
            x += size[0] + gap
        return bottom - height - 17

    # --- Opinions ---------------------------------------------------------------------------------

    def _opinion(self, draw: ImageDraw.ImageDraw, moment: Moment, box: Box) -> None:
        left, top, right, bottom = box
        draw.rounded_rectangle(box, 6, PANEL)
        opinion = moment.opinion
        by, colour = who_acts(opinion)
        what = "actions" if opinion is None else "Q-values"
        if self._scale.returns is not None:
            what = "distribution of the return"
        draw.text((left + 12, top + 9), what, TEXT, font(12, bold=True))
        if moment.action is not None:
            draw.text((right - 12, top + 9), by, colour, font(12), "ra")
        names = font(12 if len(self._actions) <= 9 else 10)
        name_width = round(max(names.getlength(name) for name in self._actions)) + 30
        name_width = min(name_width, 120)
        num_heads = 1 if opinion is None else len(opinion.q)
        value_width = max(52, 8 * min(num_heads, 10) + 14)
        graph = (left + name_width, right - value_width)
        first = top + 32
        last = bottom - 22
        shown = shown_actions(moment, len(self._actions))
        row = min(MOST_ROW, (last - first) // len(shown))
        if opinion is not None:
            self._axis(draw, graph, first + len(shown) * row, first)
        for place, action in enumerate(shown):
            y = first + place * row
            name = self._actions[action]
            chosen = action == moment.action
            if chosen:
                draw.rounded_rectangle((left + 6, y + 1, right - 6, y + row - 2), 4, CHOSEN)
                _arrow(draw, left + 11, y + row // 2, colour)
            draw.text((left + 22, y + row // 2), name, TEXT if chosen else DIM, names, "lm")
            if opinion is not None:
                within = (graph[0], y + 3, graph[1], y + row - 4)
                self._row(draw, opinion, action, within, colour if chosen else BAR)
                self._value(draw, opinion, action, (graph[1] + 8, y, right - 10, y + row))

    def _axis(
        self, draw: ImageDraw.ImageDraw, graph: tuple[int, int], bottom: int, top: int
    ) -> None:
        """What the ends of the bars stand for."""
        left, right = graph
        for x in {left, right}:
            draw.line((x, top, x, bottom), LINE)
        if self._scale.low < 0 < self._scale.high:
            zero = self._scale.at(0.0, left, right)
            draw.line((zero, top, zero, bottom), LINE)
        draw.text((left, bottom + 3), number(self._scale.low), DIM, font(10), "ma")
        draw.text((right, bottom + 3), number(self._scale.high), DIM, font(10), "ma")

    def _row(
        self,
        draw: ImageDraw.ImageDraw,
        opinion: Opinion,
        action: int,
        box: Box,
        colour: tuple[int, int, int],
    ) -> None:
        """One action: a distribution, or the mean as a bar and a bar, or a tick, for each head."""
        left, top, right, bottom = box
        q = opinion.q[:, action]
        probabilities = distribution(opinion, self._scale.returns)
        if probabilities is not None:
            self._distribution(draw, probabilities[:, action], box, colour)
            mean = self._scale.at(float(q.mean()), left, right)
            draw.line((mean, top, mean, bottom), TEXT)
            return
        start = self._scale.at(0.0, left, right)
        mean = self._scale.at(float(q.mean()), left, right)
        if len(q) == 1:
            inset = max(0, (bottom - top - 22) // 2)
            _bar(draw, start, mean, top + inset, bottom - inset, colour)
            return
        room = bottom - top
        each = min(8, (room - 8) // len(q))
        if each < 3:  # too many heads, or actions: ticks
            _bar(draw, start, mean, top, bottom, _dark(colour))
            for head, value in enumerate(q):
                x = self._scale.at(float(value), left, right)
                acts = head == opinion.head
                extra = 1 if acts else 0
                draw.rectangle((x - extra, top, x + extra, bottom), fill=head_colour(head))
            return
        used = each * len(q) + max(6, min(14, room - each * len(q)))
        y = top + (room - used) // 2
        below = y + used - each * len(q)
        _bar(draw, start, mean, y, below - 2, colour)
        for head, value in enumerate(q):
            x = self._scale.at(float(value), left, right)
            y = below + head * each
            acts = head == opinion.head
            dim = opinion.head >= 0 and not acts
            of_head = head_colour(head)
            end = y + each - (2 if each > 4 else 1)
            _bar(draw, start, x, y, end, _dark(of_head) if dim else of_head)
            if acts:
                _arrow(draw, left - 7, y + each // 2 - 1, TEXT, size=3)

    def _distribution(
        self,
        draw: ImageDraw.ImageDraw,
        probabilities: np.ndarray,
        box: Box,
        colour: tuple[int, int, int],
    ) -> None:
        """`[K, Z]`: the mean over heads, a column for each return."""
        left, top, right, bottom = box
        columns = probabilities.mean(axis=0)[self._scale.shown] / self._scale.peak
        edges = np.round(np.linspace(left, right, len(columns) + 1)).astype(int).tolist()
        for i, part in enumerate(columns):
            height = round(float(part) * (bottom - top))
            if height:
                draw.rectangle(
                    (edges[i], bottom - height, max(edges[i], edges[i + 1] - 1), bottom), colour
                )

    def _value(self, draw: ImageDraw.ImageDraw, opinion: Opinion, action: int, box: Box) -> None:
        """The mean, and a square for each head that finds the action best."""
        _, top, right, bottom = box
        middle = (top + bottom) // 2
        q = opinion.q
        text = number(float(q[:, action].mean()))
        fans = np.flatnonzero(q.argmax(axis=1) == action) if len(q) > 1 else np.zeros(0, int)
        tall = bottom - top >= 26
        y = middle - 6 if tall and len(fans) else middle
        draw.text((right, y), text, TEXT, font(11 if bottom - top > 14 else 9), "rm")
        if tall:
            for place, head in enumerate(fans[:10]):
                x = right - 6 - 8 * place
                draw.rectangle((x, middle + 4, x + 5, middle + 9), head_colour(int(head)))


def shown_actions(moment: Moment, num_actions: int) -> list[int]:
    """Those that are shown: all, or of many the one that is taken and the best ones."""
    if num_actions <= MOST_ACTIONS:
        return list(range(num_actions))
    worth = np.zeros(num_actions)
    if moment.opinion is not None:
        worth = moment.opinion.q.mean(axis=0, dtype=np.float64)
    if moment.action is not None:
        worth[moment.action] = np.inf
    return sorted(np.argsort(-worth, kind="stable")[:MOST_ACTIONS].tolist())


def who_acts(opinion: Opinion | None) -> tuple[str, tuple[int, int, int]]:
    """How an action was chosen, and the colour of that."""
    if opinion is None:
        return "random actions", BEST
    if opinion.explores:
        return "a random action", RANDOM
    heads = len(opinion.q)
    if heads == 1:
        return "best action", BEST
    if opinion.head == learning.ALL_VOTE:
        return f"vote of {heads} heads", BEST
    if opinion.head == learning.ALL_MEAN:
        return f"mean of {heads} heads", BEST
    return f"head {opinion.head} of {heads} acts", BEST


def head_colour(head: int) -> tuple[int, int, int]:
    """The colour of a head."""
    return HEADS[head % len(HEADS)]


def number(value: float) -> str:
    """A number in about three digits."""
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    size = abs(value)
    digits = 0 if size >= 1_000 else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A picture `[H, W, 3]` u8 in another size `(width, height)`: pixels stay, or are averaged."""
    image = Image.fromarray(picture)
    grows = size[0] >= image.width and size[1] >= image.height
    return image.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.BOX)


@functools.cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: the same everywhere."""
    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size)


def _screen_size(picture: np.ndarray) -> tuple[int, int]:
    """Width and height of the screen in the picture of a moment; even."""
    width, height = _fitted(picture, SCREEN)
    return width // 2 * 2, height // 2 * 2


def _fitted(picture: np.ndarray, space: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture that fills a space."""
    height, width = picture.shape[:2]
    times = min(space[0] / width, space[1] / height)
    if times > 3:
        times = int(times)  # pixels all of one size
    return max(1, round(width * times)), max(1, round(height * times))


def _bar(
    draw: ImageDraw.ImageDraw,
    start: int,
    end: int,
    top: int,
    bottom: int,
    colour: tuple[int, int, int],
) -> None:
    draw.rectangle((min(start, end), top, max(start, end), max(top, bottom)), fill=colour)


def _arrow(
    draw: ImageDraw.ImageDraw, x: int, y: int, colour: tuple[int, int, int], size: int = 4
) -> None:
    draw.polygon([(x, y - size), (x, y + size), (x + size + 1, y)], fill=colour)


def _dark(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (round(0.45 * a + 0.55 * b) for a, b in zip(colour, PANEL, strict=True))
    return red, green, blue
