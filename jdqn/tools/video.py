"""Pictures as an MP4 or a GIF."""

import io
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from jdqn.config import ConfigError
from jdqn.runs.files import write_whole

ENDINGS = (".mp4", ".gif")
COLOURS = 256
SAMPLES = 12  # pictures that the colours of a GIF are taken from
QUALITY = ("-crf", "20", "-preset", "medium", "-movflags", "+faststart")


def check_path(path: pathlib.Path, option: str = "--video") -> None:
    """Raises ConfigError where no video can be written to a path."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{option} {path}: must end in {' or '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{option} {path}: is there and no file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: no permission to write it")


def write(
    path: pathlib.Path, draw: Callable[[int], Image.Image], holds: Sequence[int], fps: float
) -> None:
    """Writes a video, which is there whole or not at all.

    Args:
      path: ends in one of `ENDINGS`.
      draw: makes picture i, RGB, with sides that are even; pictures are made one at a time.
      holds: for how many frames each picture is shown.
      fps: frames per second.

    Raises:
      OSError: it cannot be written.
    """
    data = gif(draw, holds, fps) if path.suffix.lower() == ".gif" else mp4(draw, holds, fps)
    write_whole(path, data)


def gif(draw: Callable[[int], Image.Image], holds: Sequence[int], fps: float) -> bytes:
    """An endless GIF with one palette, taken from some of the pictures."""
    palette = _palette([draw(i) for i in spread(len(holds), SAMPLES)])

    def pictures() -> Iterator[Image.Image]:
        for i in range(len(holds)):
            yield draw(i).quantize(palette=palette, dither=Image.Dither.NONE)

    frames = pictures()
    file = io.BytesIO()
    first = next(frames)
    # A list of one would be refused where there is one picture.
    first.save(
        file,
        format="GIF",
        save_all=True,
        append_images=frames,
        duration=durations(holds, fps),
        loop=0,
        optimize=False,  # each picture would get a palette of its own
    )
    return file.getvalue()


def durations(holds: Sequence[int], fps: float) -> list[int]:
    """For how long pictures are shown, milliseconds: a GIF knows hundredths of a second alone."""
    ends = [0]
    frames = 0
    for hold in holds:
        frames += hold
        ends.append(round(100 * frames / fps))
    return [10 * max(1, b - a) for a, b in itertools.pairwise(ends)]


def spread(count: int, most: int) -> list[int]:
    """At most so many numbers below `count`, evenly spread."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _palette(pictures: list[Image.Image]) -> Image.Image:
    """An image with the colours that stand for those of some pictures."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width, height * len(pictures)))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (0, i * height))
    return sheet.quantize(COLOURS - 1, method=Image.Quantize.MEDIANCUT)  # one stays: see-through


def mp4(draw: Callable[[int], Image.Image], holds: Sequence[int], fps: float) -> bytes:
    """H.264 in colours that every player knows."""
    import imageio_ffmpeg

    first = draw(0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "video.mp4"
        writer = imageio_ffmpeg.write_frames(
            str(path),
            first.size,
            fps=fps,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            output_params=list(QUALITY),
        )
        try:
            writer.send(None)
            for i, hold in enumerate(holds):
                picture = (first if i == 0 else draw(i)).tobytes()
                for _ in range(hold):
                    writer.send(picture)
        finally:
            writer.close()
        return path.read_bytes()
