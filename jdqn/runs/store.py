"""Checkpoints as files that are complete or absent, and checked before they are used.

    checkpoints/STEPS.manifest   what a checkpoint holds and in which blobs; written last
    checkpoints/best.manifest    the same, of the best evaluation
    checkpoints/blobs/SHA256     bytes compressed by zstd, named by the hash of the file

Nothing is pickled: a manifest is a line of JSON and a line with its hash, a blob is raw
little-endian arrays one after the other. A blob that no manifest names is swept.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from jdqn.runs.files import TEMPORARY, sync_folder, write_whole

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMAT = 1
LEVEL = 1  # of zstd: frames of games shrink a hundredfold, higher levels gain little
SUFFIX = ".manifest"
BEST = "best"
MAX_MANIFEST_BYTES = 2**26
UNPACKED_BYTES = 2**20

Manifest = dict[str, Any]


class DamagedError(Exception):
    """A file of a checkpoint is not what was written; the message names it."""


class UnreadableError(DamagedError):
    """A file that may be good, and cannot be read now."""


class Store:
    """The checkpoints of one run. One process writes, any number may read at the same time."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._blobs = folder / "blobs"

    def path_of(self, name: str) -> pathlib.Path:
        """Where a manifest lies."""
        return self.folder / (name + SUFFIX)

    def path_of_blob(self, name: str) -> pathlib.Path:
        """Where a blob lies."""
        return self._blobs / name

    # Writing.

    def write_blob(self, pieces: Iterable[memoryview | bytes]) -> str:
        """Writes bytes, unless they are there already; returns the blob's name. Raises OSError."""
        compressor = zstd.ZstdCompressor(level=LEVEL)
        packed = b"".join([*map(compressor.compress, pieces), compressor.flush()])
        name = hashlib.sha256(packed).hexdigest()
        if not self.is_intact(name):
            self._blobs.mkdir(parents=True, exist_ok=True)
            write_whole(self.path_of_blob(name), packed)
        return name

    def is_intact(self, name: str) -> bool:
        """Whether a blob holds what was written."""
        try:
            with self.path_of_blob(name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == name
        except OSError:
            return False

    def write_manifest(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Makes a checkpoint complete; all blobs that it names are there. Raises OSError."""
        text = json.dumps({**manifest, "format": FORMAT}).encode()
        sync_folder(self._blobs)
        digest = hashlib.sha256(text).hexdigest().encode()
        write_whole(self.path_of(name), text + b"\n" + digest + b"\n")
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    def thin(self, keep: Collection[str]) -> None:
        """Deletes all manifests but those named and the best, then what no manifest names."""
        with contextlib.suppress(OSError):
            for name in set(self.names()).difference(keep):
                _delete(self.path_of(name))
        self.sweep()

    def sweep(self) -> None:
        """Deletes leftovers: temporary files, and blobs that no manifest names.

        Nothing where a manifest cannot be read now: its blobs may be the only good ones.
        """
        named: set[str] = set()
        with contextlib.suppress(OSError):
            for name in [*self.names(), BEST]:
                try:
                    named.update(blobs_of(self.read_manifest(name)))
                except UnreadableError:
                    return
                except DamagedError:
                    continue
            leftovers = [path for path in _listed(self._blobs) if path.name not in named]
            for path in [*leftovers, *_listed(self.folder, TEMPORARY)]:
                _delete(path)

    # Reading.

    def names(self) -> list[str]:
        """The numbered manifests there are, newest last. Raises OSError."""
        stems = [path.name.removesuffix(SUFFIX) for path in _listed(self.folder, SUFFIX)]
        return sorted((stem for stem in stems if re.fullmatch(r"[0-9]{1,18}", stem)), key=int)

    def has(self, name: str) -> bool:
        """Whether there is a manifest of that name."""
        return self.path_of(name).is_file()

    def read_manifest(self, name: str) -> Manifest:
        """A manifest, checked against its own hash.

        Raises:
          DamagedError: unreadable, changed, or of a format that this version does not know.
        """
        path = self.path_of(name)
        text, _, digest = _read(path, MAX_MANIFEST_BYTES).partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() + b"\n" != digest:
            raise DamagedError(f"{path} has changed since it was written")
        try:
            manifest = json.loads(text)
            known = manifest["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DamagedError(f"{path} is not a manifest") from None
        if known != FORMAT:
            raise DamagedError(f"{path} has format {known!r}, this version reads {FORMAT}")
        return manifest

    def read_blob(self, name: str, num_bytes: int) -> memoryview:
        """The bytes of a blob, of a known length.

        Raises:
          DamagedError: missing, changed, or of another length.
        """
        path = self.path_of_blob(name)
        packed = _read(path, num_bytes + num_bytes // 64 + 2**16)
        if hashlib.sha256(packed).hexdigest() != name:
            raise DamagedError(f"{path} has changed since it was written")
        data = _unpacked(packed, num_bytes)
        if data is None:
            raise DamagedError(f"{path} does not hold {num_bytes:,} bytes compressed by zstd")
        return data


def blobs_of(manifest: Manifest) -> list[str]:
    """Names of all blobs of a manifest. Raises DamagedError."""
    try:
        parts = [part["blob"] for part in manifest["parts"].values()]
        rows = manifest["rows"]
        if not all(isinstance(some, list) for some in [rows, *rows]):
            raise TypeError
        slices = [name for of_seed in rows for name in of_seed if name is not None]
    except (KeyError, TypeError, AttributeError):
        raise DamagedError("a manifest names no blobs") from None
    names = [*parts, *slices]
    if not all(isinstance(name, str) and re.fullmatch("[0-9a-f]{64}", name) for name in names):
        raise DamagedError("a manifest names something that is no blob")
    return names


def _listed(folder: pathlib.Path, suffix: str = "") -> list[pathlib.Path]:
    """The files of a folder, none where there is no such folder. Raises OSError."""
    try:  # `glob` would take `[` in a path for a pattern
        return [path for path in folder.iterdir() if path.name.endswith(suffix)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unpacked(packed: bytes, num_bytes: int) -> memoryview | None:
    """So many bytes, a megabyte at a time: at once they would be in memory twice. None: others."""
    decompressor = zstd.ZstdDecompressor()
    filled = 0
    try:
        data = memoryview(bytearray(num_bytes))
        while not decompressor.eof:
            piece = decompressor.decompress(packed, max_length=UNPACKED_BYTES)
            packed = b""
            end = filled + len(piece)
            if end > num_bytes or (not piece and decompressor.needs_input):
                return None
            data[filled:end] = piece
            filled = end
    except (zstd.ZstdError, MemoryError):
        return None
    return data if filled == num_bytes else None


def _delete(path: pathlib.Path) -> None:
    """Deletes a file where that is possible."""
    with contextlib.suppress(OSError):
        path.unlink()


def _read(path: pathlib.Path, most: int) -> bytes:
    """A file of at most so many bytes. Raises DamagedError."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > most:  # `read(most)` would take that much memory
                raise DamagedError(f"{path} is larger than what was written")
            return file.read()
    except OSError as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        kind = DamagedError if absent else UnreadableError
        raise kind(f"{path} cannot be read: {error.strerror}") from None
