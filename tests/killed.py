"""`python tests/killed.py WHERE COUNT ARGUMENT...`: jdqn.train, killed at a chosen moment.

WHERE is a key of `PLACES`, COUNT the call at which `kill -9` comes.
"""

import itertools
import os
import pathlib
import signal
import sys

from jdqn.runs import files, store


def die(*_, **__):
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def half_of_a_file(path, data):
    """A temporary file is half written."""
    path.with_name(path.name + files.TEMPORARY).write_bytes(data[: len(data) // 2])
    die()


def half_of_a_log(log):
    """A log is half written."""
    log._file.seek(log._num_bytes)
    log._file.write(log._pending[: len(log._pending) // 2])
    die()


# Owner, name, what is done in place of the call.
PLACES = {
    "before a blob or a manifest is written": (store, "write_whole", die),
    "while a file is written": (store, "write_whole", half_of_a_file),
    "before a file has its name": (pathlib.Path, "replace", die),
    "before the manifest": (store.Store, "write_manifest", die),
    "before the folder is synced": (store, "sync_folder", die),
    "between save and sweep": (store.Store, "thin", die),
    "while leftovers are deleted": (store, "_delete", die),
    "while a log is written": (files.LogFile, "flush", half_of_a_log),
    "while a checkpoint is read": (store.Store, "read_blob", die),
    "while the logs are opened": (files.LogFile, "__init__", die),
}


def kill_at(where, count):
    """Has a call of a place kill the process."""
    owner, name, instead = PLACES[where]
    original = getattr(owner, name)
    calls = itertools.count(1)

    def call(*arguments, **keywords):
        if next(calls) == count:
            instead(*arguments, **keywords)
        return original(*arguments, **keywords)

    setattr(owner, name, call)


if __name__ == "__main__":
    where, count, *argv = sys.argv[1:]
    if where in PLACES:
        kill_at(where, int(count))
    from jdqn import train

    train.main(argv)
