"""Pictures of what an agent sees, drawn from its frames: grids, planes, vectors.

For environments without a picture of their own, and for the network's view of all. Pictures are
`[H, W, 3]` u8, as small as their content allows; who shows them enlarges them.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from jdqn.config.schema import Env

# Of a frame `[*frame_shape]`, and whether it is the first of an episode.
Scene = Callable[[np.ndarray, bool], np.ndarray]

AMBER = (255, 184, 76)
BLUE = (96, 165, 250)
GREEN = (94, 214, 132)
PINK = (244, 114, 182)
RED = (248, 113, 113)
TEAL = (45, 212, 191)
VIOLET = (192, 132, 252)

BACKGROUND = (24, 28, 36)
GRID = (40, 46, 58)
TRAIL = (66, 82, 110)
AGENT = AMBER
TREASURE = GREEN
PLUS = BLUE
MINUS = RED
SLATE = (72, 84, 104)
CREAM = (250, 240, 137)
PALE = (229, 231, 235)
# Of the channels of a picture of zeros and ones, the first ones first.
CHANNELS = np.array([AMBER, BLUE, SLATE, RED, GREEN, VIOLET, TEAL, PINK, CREAM, PALE], np.uint8)
SIDE = 320  # of a drawing that is no grid of pixels
MOST_BARS = 32
MOST_TILES = 40


def make_scene(fields: Env, shape: tuple[int, ...]) -> Scene:
    """How an environment without a picture of its own is drawn.

    Args:
      fields: uses `name` and `size`.
      shape: of one observation as the environment itself shows it.
    """
    if fields.name == "bsuite/DeepSea":
        return _DeepSea(fields.size)
    if fields.name == "jdqn/Chain":
        return lambda frame, _: chain(frame)
    look = Look(shape)
    return lambda frame, _: look(frame)


class Look:
    """A frame as a picture; of a vector, bars against the largest values seen so far."""

    def __init__(self, shape: tuple[int, ...], most: np.ndarray | None = None):
        """Looks at frames.

        Args:
          shape: of one observation as the environment itself shows it.
          most: `[D]` the largest values of a vector, where they are known beforehand.
        """
        self._shape = shape
        self._most = np.zeros(0) if most is None else most.reshape(-1)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The picture of a frame, `[*frame_shape]`."""
        image = frame.reshape(self._shape) if frame.size == math.prod(self._shape) else frame
        if image.ndim == 3:
            return of_colours(image) if _is_picture(image) else planes(image)
        if image.ndim == 2:
            return grey(image)
        vector = image.reshape(-1).astype(np.float64)
        if self._most.size != vector.size:
            self._most = np.zeros(vector.size)
        self._most = np.maximum(self._most, np.abs(vector))
        scaled = np.divide(vector, self._most, out=np.zeros_like(vector), where=self._most > 0)
        return bars(scaled) if vector.size <= MOST_BARS else tiles(scaled)


def _is_picture(image: np.ndarray) -> bool:
    """Whether `[H, W, C]` are colours: bytes of three channels that are not zeros and ones."""
    return image.dtype == np.uint8 and image.shape[2] in (1, 3) and min(image.shape[:2]) > 20


def of_colours(image: np.ndarray) -> np.ndarray:
    """`[H, W, 1 or 3]` u8 as it is."""
    return np.broadcast_to(image, (*image.shape[:2], 3)).copy()


def grey(image: np.ndarray) -> np.ndarray:
    """`[H, W]`; bytes as they are, other numbers from the smallest to the largest."""
    values = image.astype(np.float64)
    if image.dtype != np.uint8 or values.max(initial=0) <= 1:
        span = np.ptp(values)
        values = 255 * (values - values.min()) / (span if span else 1.0)
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def planes(image: np.ndarray) -> np.ndarray:
    """`[H, W, C]` of zeros and ones: a colour for each channel, earlier ones above later ones."""
    picture = np.full((*image.shape[:2], 3), BACKGROUND, np.uint8)
    for channel in reversed(range(image.shape[2])):
        picture[image[:, :, channel] > 0] = CHANNELS[channel % len(CHANNELS)]
    return picture


def bars(vector: np.ndarray) -> np.ndarray:
    """`[D]` from -1 to 1: a bar each, to the right where it is above 0, else to the left."""
    row = max(10, SIDE // max(len(vector), 4))
    image = Image.new("RGB", (SIDE, row * len(vector)), BACKGROUND)
    draw = ImageDraw.Draw(image)
    middle = SIDE // 2
    for i, value in enumerate(vector):
        top = i * row + row // 5
        bottom = (i + 1) * row - row // 5
        end = middle + round(value * (middle - 4))
        draw.rectangle((0, bottom + row // 5, SIDE, bottom + row // 5), fill=GRID)
        draw.rectangle(
            (min(middle, end), top, max(middle, end), bottom), fill=PLUS if value >= 0 else MINUS
        )
    draw.line((middle, 0, middle, image.height), fill=GRID, width=2)
    return np.asarray(image)


def tiles(vector: np.ndarray) -> np.ndarray:
    """`[D]` from -1 to 1, many: a tile each, in rows, blue above 0 and red below."""
    columns = min(math.ceil(math.sqrt(len(vector))), MOST_TILES)
    rows = math.ceil(len(vector) / columns)
    padded = np.zeros(rows * columns)
    padded[: len(vector)] = vector
    strength = np.abs(padded)[:, None]
    colour = np.where(padded[:, None] >= 0, np.array(PLUS), np.array(MINUS))
    mixed = (1 - strength) * np.array(BACKGROUND) + strength * colour
    return mixed.astype(np.uint8).reshape(rows, columns, 3)


def chain(frame: np.ndarray) -> np.ndarray:
    """A thermometer `[N]` as a row of states: a small reward to the left, the large one right."""
    num_states = frame.size
    cell = max(6, 2 * SIDE // num_states)
    image = Image.new("RGB", (num_states * cell, 3 * cell), BACKGROUND)
    draw = ImageDraw.Draw(image)
    rewards = {0: TRAIL, num_states - 1: TREASURE}
    inset = max(1, cell // 12)
    for i in range(num_states):
        box = (i * cell + inset, cell + inset, (i + 1) * cell - inset, 2 * cell - inset)
        draw.rectangle(box, fill=rewards.get(i, GRID))
    position = int(frame.sum()) - 1
    quarter = cell // 4
    left = position * cell
    draw.ellipse(
        (left + quarter, cell + quarter, left + cell - quarter, 2 * cell - quarter), fill=AGENT
    )
    return np.asarray(image)


class _DeepSea:
    """A one-hot grid with the way that was gone, and the treasure in the last cell."""

    def __init__(self, size: int):
        self._size = size
        self._way: list[int] = []

    def __call__(self, frame: np.ndarray, is_first: bool) -> np.ndarray:
        if is_first:
            self._way = []
        if frame.any():  # nothing is shown after the last row
            self._way.append(int(frame.argmax()))
        size = self._size
        cell = max(2, SIDE // size)
        gap = 1 if cell > 5 else 0
        image = Image.new("RGB", (size * cell, size * cell), BACKGROUND)
        draw = ImageDraw.Draw(image)
        colours = {size * size - 1: TREASURE}
        colours |= dict.fromkeys(self._way, TRAIL)
        for number in range(size * size):
            row, column = divmod(number, size)
            box = (column * cell, row * cell, (column + 1) * cell - 1 - gap, (row + 1) * cell - 1)
            if column <= row:  # the others are out of reach
                draw.rectangle((*box[:3], box[3] - gap), fill=colours.get(number, GRID))
        self._mark(draw, cell)
        return np.asarray(image)

    def _mark(self, draw: ImageDraw.ImageDraw, cell: int) -> None:
        row, column = divmod(self._way[-1], self._size)
        inset = cell // 5
        draw.ellipse(
            (
                column * cell + inset,
                row * cell + inset,
                (column + 1) * cell - 1 - inset,
                (row + 1) * cell - 1 - inset,
            ),
            fill=AGENT,
        )


def network_sees(stack: np.ndarray, look: Look) -> list[np.ndarray]:
    """The frames `[S, *frame_shape]` that the network gets, a picture each, the newest last.

    Of channels that are no colours a picture for each channel of the newest frame.
    """
    newest = stack[-1]
    if newest.ndim == 3 and not _is_picture(newest):
        return [grey(newest[:, :, channel]) for channel in range(newest.shape[2])]
    return [look(frame) for frame in stack]
