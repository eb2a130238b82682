"""Videos of runs, for a page that holds all it shows."""

import base64
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

TYPES = {".mp4": "video/mp4", ".gif": "image/gif"}
MOST_BYTES = 8_000_000  # of a video
MOST_BYTES_TOGETHER = 24_000_000


class Video(NamedTuple):
    """A video as it stands in a page."""

    name: str
    is_picture: bool  # a GIF
    uri: str


def videos(
    sections: Mapping[str, Iterable[pathlib.Path]],
) -> dict[str, tuple[list[Video], list[str]]]:
    """The newest `*.mp4` or `*.gif` of each folder, and a sentence on each that is left out.

    A link is none: in the run of a stranger it may lead to a file that is not to be sent.

    Args:
      sections: of a page, by title, folders.
    """
    found: dict[str, tuple[list[Video], list[str]]] = {}
    room = MOST_BYTES_TOGETHER
    for title, folders in sections.items():
        shown: list[Video] = []
        left_out: list[str] = []
        found[title] = (shown, left_out)
        for path in filter(None, map(_newest, folders)):
            size = path.stat().st_size
            if size > min(MOST_BYTES, room):
                left_out.append(
                    f"{path} is left out: {size / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:.0f} MB "
                    f"a video, {MOST_BYTES_TOGETHER / 1e6:.0f} MB in all."
                )
                continue
            room -= size
            kind = TYPES[path.suffix.lower()]
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            name = f"{path.parent.name}/{path.name}"
            shown.append(Video(name, kind == "image/gif", f"data:{kind};base64,{data}"))
    return found


def _newest(folder: pathlib.Path) -> pathlib.Path | None:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in TYPES]
    paths = [path for path in paths if path.is_file() and not path.is_symlink()]
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)
