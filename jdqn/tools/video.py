"""Pictures as an MP4 or a GIF."""

import io
import itertools
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from jdqn.config import ConfigError, RunError
from jdqn.runs.files import write_whole

ENDINGS = (".mp4", ".gif")
COLOURS = 256
SAMPLES = 12  # pictures that the colours of a GIF are taken from
# Two planes of half the size for colour are what every player knows.
CODEC = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart"]


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
    if path.suffix.lower() == ".mp4":
        _ffmpeg(f"{option} {path}")


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
    first.save(
        file,
        format="GIF",
        save_all=True,
        append_images=frames,
        duration=durations(holds, fps),
        palette=bytes(palette.getpalette() or ()),  # written once, not with every picture
        loop=0,
        disposal=1,
        optimize=True,  # what did not change is see-through, which compresses well
    )
    return file.getvalue()


def durations(holds: Sequence[int], fps: float) -> list[int]:
    """For how long pictures are shown, milliseconds: a GIF knows hundredths of a second alone.

    Two are the least: one that is shorter is shown for ten by browsers.
    """
    ends = [0]
    frames = 0
    for hold in holds:
        frames += hold
        ends.append(round(100 * frames / fps))
    return [10 * max(2, b - a) for a, b in itertools.pairwise(ends)]


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
    """H.264, encoded by the ffmpeg that `imageio_ffmpeg` brings along."""
    width, height = draw(0).size
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}"]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "video.mp4"
        command = [_ffmpeg(path.name), "-loglevel", "error", *raw, "-i", "-"]
        with subprocess.Popen(
            [*command, *CODEC, str(path)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process to hear
        ) as encoder:
            assert encoder.stdin is not None
            assert encoder.stderr is not None
            try:
                for i, hold in enumerate(holds):
                    picture = draw(i).tobytes()
                    for _ in range(hold):
                        encoder.stdin.write(picture)
                encoder.stdin.close()
            except BrokenPipeError:  # said below
                pass
            except BaseException:
                encoder.kill()
                raise
            said = encoder.stderr.read().decode(errors="replace")
        if encoder.returncode or not path.is_file():
            raise RunError(f"the video cannot be encoded: ffmpeg says {said}")
        return path.read_bytes()


def _ffmpeg(what: str) -> str:
    """Where it lies. Raises ConfigError, about something, where it does not."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise ConfigError(
            f"{what}: there is no ffmpeg to encode MP4 with; write a .gif, or install ffmpeg"
        ) from error
