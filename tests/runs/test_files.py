"""Files: whole or not at all, on a full disk, and one process at a time."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from jdqn.config import ConfigError
from jdqn.runs import files
from jdqn.runs.files import LogFile, lock, write_whole


class FullDisk:
    """A raw file on a disk with room for so many bytes; writes what fits, then refuses."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def write(self, data):
        fits = bytes(data)[: max(self.room - self._file.tell(), 0)]
        if not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(fits)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.fixture
def full(tmp_path):
    """A log on a disk with room for ten bytes, and its path."""
    path = tmp_path / "log"
    log = LogFile(path)
    log._file = FullDisk(log._file, 10)
    yield log, path
    log._file.close()


def test_lines_are_written_whole_or_not_at_all(full):
    log, path = full
    log.append("first\n")
    log.flush()
    log.append("second\n")  # four bytes of it fit
    with pytest.raises(OSError, match="No space"):
        log.flush()
    assert path.read_bytes() == b"first\n"


def test_what_could_not_be_written_is_written_later_once_and_in_order(full):
    log, path = full
    log._file.room = 3
    for line in ("first\n", "second\n", "third\n"):
        log.append(line)
        with pytest.raises(OSError, match="No space"):
            log.flush()
    with pytest.raises(OSError, match="No space"):
        log.sync()
    log._file.room = 1000
    assert log.sync() == 19
    log.append("fourth\n")
    log.close()
    assert path.read_bytes() == b"first\nsecond\nthird\nfourth\n"


def test_a_file_that_is_closed_on_a_full_disk_says_so_and_is_closed(full):
    log, path = full
    log.append("longer than ten\n")
    with pytest.raises(OSError, match="No space"):
        log.close()
    assert log._file.closed
    assert path.read_bytes() == b""


LIMITED = """
import resource, sys
from jdqn.runs.files import LogFile
import pathlib
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
log = LogFile(pathlib.Path(sys.argv[1]))
log.append("first\\n")
print(log.sync())
log.append("second\\n")
try:
    log.flush()
except OSError as error:
    print(error.strerror)
"""


def test_lines_are_whole_under_a_limit_of_the_system(tmp_path):
    path = tmp_path / "log"
    command = [sys.executable, "-c", LIMITED, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:2] == ["6", os.strerror(errno.EFBIG)]
    assert path.read_bytes() == b"first\n"


@pytest.mark.parametrize(
    ("num_bytes", "left"), [(0, b""), (6, b"first\n"), (99, b"first\nsecond\n")]
)
def test_a_log_is_cut_back_and_goes_on(tmp_path, num_bytes, left):
    path = tmp_path / "log"
    path.write_bytes(b"first\nsecond\n")
    log = LogFile(path, num_bytes)
    assert path.read_bytes() == left
    log.append("ü\n")
    log.close()
    assert path.read_bytes() == left + "ü\n".encode()


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / ("n" * 251)  # as long as a name with `.tmp` could be
    for data in (b"old", b"new"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_where_a_file_is_not_written_the_old_one_stays_and_nothing_else(
    tmp_path, monkeypatch, error
):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fails(_):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(files.os, "fsync", fails)
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    """Some network file systems know no such thing."""

    def cannot(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    files.sync_folder(tmp_path)
    monkeypatch.setattr(files.os, "fsync", cannot)
    files.sync_folder(tmp_path)


# --- The lock -----------------------------------------------------------------------------------


def test_a_folder_is_held_against_a_second_holder_until_the_first_has_gone(tmp_path):
    with (
        lock(tmp_path),
        pytest.raises(ConfigError, match=r"is in use by another process$"),
        lock(tmp_path),
    ):
        pass
    with lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_deleted_meanwhile_is_none(tmp_path, monkeypatch):
    """Who held it deletes it: a second one may have opened what a third one does not find."""
    flock = files.fcntl.flock
    deletions = [(tmp_path / files.LOCK).unlink]

    def locks(*arguments):
        while deletions:
            deletions.pop()()
        flock(*arguments)

    monkeypatch.setattr(files.fcntl, "flock", locks)
    with lock(tmp_path), pytest.raises(ConfigError, match="in use"), lock(tmp_path):
        pass


HOLDS = """
import pathlib, sys, time
from jdqn.runs.files import lock
with lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_goes_with_a_killed_process(tmp_path):
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="in use by another process"), lock(tmp_path):
            pass
        holder.kill()
    with lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_not_taken_for_another_process(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(files.fcntl, "flock", cannot)
    with lock(tmp_path):
        pass


def test_what_is_locked_is_a_file_that_is_open_for_writing(tmp_path, monkeypatch):
    """Of a folder NFS would lock it for one machine alone, and refuses what is open for reading."""
    locked = []
    monkeypatch.setattr(files.fcntl, "flock", lambda descriptor, _: locked.append(descriptor))
    with lock(tmp_path):
        assert os.path.samestat(os.fstat(locked[0]), (tmp_path / files.LOCK).stat())
        assert os.write(locked[0], b"") == 0


def test_a_folder_that_is_not_there_is_named():
    with (
        pytest.raises(ConfigError, match=r"cannot open not_there: No such file"),
        lock(pathlib.Path("not_there")),
    ):
        pass


def test_a_folder_that_is_not_there_is_said_so(tmp_path):
    (tmp_path / "pong_run").mkdir()
    with pytest.raises(ConfigError) as info:
        files.check_is_run(tmp_path / "pong_rum", "--resume")
    where = f"--resume {tmp_path / 'pong_rum'}: there is no such folder"
    assert str(info.value) == f'{where}; did you mean "pong_run"?'


def test_a_folder_of_runs_names_the_newest(tmp_path):
    for i in range(6):
        (tmp_path / f"run{i}").mkdir()
        (tmp_path / f"run{i}" / "config.toml").touch()
        os.utime(tmp_path / f"run{i}" / "config.toml", (i, i))
    files.check_is_run(tmp_path / "run0")
    with pytest.raises(ConfigError) as info:
        files.check_is_run(tmp_path, "--resume")
    assert str(info.value).startswith(f"--resume {tmp_path} is not a run directory")
    newest = ", ".join(str(tmp_path / f"run{i}") for i in (5, 4, 3, 2))
    assert str(info.value).endswith(f"the newest first: {newest} and 2 more")
