"""Files that survive a full disk, a second process and a power failure."""

import contextlib
import errno
import os
import pathlib
import threading
from collections.abc import Iterator

from jdqn.config import ConfigError, PassingError, suggest

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
LOCK = ".lock"  # of a folder; a file, for machines that share one do not tell each other of more
SHOWN_RUNS = 4


class InUseError(PassingError):
    """Another process holds a folder."""


def check_is_run(path: pathlib.Path, option: str = "") -> None:
    """Raises ConfigError where a folder is no run directory; names the newest runs in it."""
    if (path / "config.toml").is_file():
        return
    if not path.exists():
        beside = [folder.name for folder in path.parent.glob("*/")]
        hint = suggest(path.name, beside)
        raise ConfigError(f"{option} {path}: there is no such folder{hint}".strip())
    runs = sorted(path.glob("*/config.toml"), key=lambda file: file.stat().st_mtime, reverse=True)
    names = [str(file.parent) for file in runs]
    more = f" and {len(names) - SHOWN_RUNS} more" if len(names) > SHOWN_RUNS else ""
    hint = f"; runs in it, the newest first: {', '.join(names[:SHOWN_RUNS])}{more}" if names else ""
    raise ConfigError(
        f"{option} {path} is not a run directory: it has no config.toml{hint}".strip()
    )


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """Writes a file that is there completely or not at all, whenever the process or machine ends.

    Its folder is not synced: see `sync_folder`. Threads may write the same file at the same time.
    """
    main = threading.current_thread() is threading.main_thread()
    mark = "" if main else f".{threading.get_ident()}"
    temporary = path.with_name(path.name[:200] + mark + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # also Ctrl-C
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder and those above it, their names durable. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Makes new names in a folder durable, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(
    folder: pathlib.Path, what: str = "run directory", *, shared: bool = False
) -> Iterator[None]:
    """Holds a folder against other processes, of other machines too where the file system can.

    The lock goes with the process, however it ends.

    Args:
      folder: that is there.
      what: it is, for the sentence.
      shared: with others that hold it so too.

    Raises:
      ConfigError: another process holds it, `InUseError`, or it cannot be opened.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    try:
        descriptor = _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except BlockingIOError:
        raise InUseError(f"{what} {folder} is in use by another process") from None
    except OSError as error:
        raise ConfigError(f"cannot open {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        if not shared:  # else others may hold it still
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _locked(path: pathlib.Path, kind: int) -> int:
    """The descriptor of a file that is locked, and still is the one of that name. Raises OSError.

    For writing: NFS refuses else. A folder it would lock for this machine alone.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # a file system without locks
            return descriptor
        with contextlib.suppress(FileNotFoundError):  # deleted by who held it, before we did
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


class LogFile:
    """A file that grows by whole lines or records: what cannot be written is kept for later."""

    def __init__(self, path: pathlib.Path, num_bytes: int = 0):
        """Opens a file, cut back to `num_bytes`."""
        self._file = path.open("r+b" if num_bytes else "wb", buffering=0)
        self._pending = bytearray()
        self._num_bytes = min(num_bytes, self._file.seek(0, os.SEEK_END))
        self._file.truncate(self._num_bytes)

    def append(self, data: str | bytes) -> None:
        """Adds what `flush` writes."""
        self._pending += data.encode("utf-8") if isinstance(data, str) else data

    def flush(self) -> None:
        """Writes what is pending, whole or not at all; raises OSError."""
        data = bytes(self._pending)
        written = 0
        self._file.seek(self._num_bytes)
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(self._num_bytes)  # needs no space
            raise
        self._num_bytes += written
        self._pending.clear()

    def sync(self) -> int:
        """Writes to the disk itself; returns the file's length in bytes. Raises OSError."""
        self.flush()
        os.fsync(self._file.fileno())
        return self._num_bytes

    def close(self) -> None:
        """Closes the file; raises OSError where the last lines cannot be written."""
        try:
            self.flush()
        finally:
            self._file.close()
