"""Videos of runs, for a page that holds all it shows."""

import base64
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

TYPES = {".mp4": "video/mp4", ".gif": "image/gif"}
MOST_BYTES = 8_000_000  # of a video
MOST_BYTES_TOGETHER = 24_000_000


class Video(NamedTuple):
    """A video as it stands in a page."""

    name: str
    is_picture: bool  # a GIF
    uri: str


def videos(folders: Iterable[pathlib.Path]) -> tuple[list[Video], list[str]]:
    """The newest `*.mp4` or `*.gif` of each folder, and a sentence on each that is left out.

    A link is none: in the run of a stranger it may lead to a file that is not to be sent.
    """
    found: list[Video] = []
    left_out: list[str] = []
    total = 0
    for folder in folders:
        paths = [p for p in folder.iterdir() if p.suffix.lower() in TYPES]
        paths = [p for p in paths if p.is_file() and not p.is_symlink()]
        for path in sorted(paths, key=lambda p: p.stat().st_mtime)[-1:]:
            size = path.stat().st_size
            if size > MOST_BYTES or total + size > MOST_BYTES_TOGETHER:
                most = (
                    f"{MOST_BYTES / 1e6:.0f} MB a video, {MOST_BYTES_TOGETHER / 1e6:.0f} MB in all"
                )
                left_out.append(f"{path} is left out: {size / 1e6:.1f} MB, at most {most}.")
                continue
            total += size
            kind = TYPES[path.suffix.lower()]
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            name = f"{folder.name}/{path.name}"
            found.append(Video(name, kind == "image/gif", f"data:{kind};base64,{data}"))
    return found, left_out
