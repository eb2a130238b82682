"""Figures for TensorBoard, written by this thread.

A writer with a thread of its own would wait for a full disk, and the run for it.
"""

import pathlib
import time
from collections.abc import Mapping

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2


class Board:
    """An events file that is opened when there is something to write, anew after an error."""

    def __init__(self, folder: pathlib.Path, purge_steps: int | None = None):
        """What other files have from `purge_steps` on is not shown: a run went on from there."""
        self._folder = folder
        self._purge_steps = purge_steps
        self._number = 0
        self._writer: EventsWriter | None = None

    def add(self, values: Mapping[str, float], steps: int) -> None:
        """Writes some figures. Raises OSError; then the rest of them is lost."""
        try:
            writer = self._writer or self._open()
            for name, value in values.items():
                event = event_pb2.Event(summary=summary.scalar(name, value))
                event.wall_time = time.time()
                event.step = steps
                writer.write_event(event)
            writer.flush()
        except OSError:
            self._writer = None  # its file may end within an event
            raise

    def _open(self) -> EventsWriter:
        self._number += 1
        suffix = f".{time.time_ns() % 10**9}.{self._number}"  # several may start in one second
        self._writer = EventsWriter(str(self._folder / "events"), suffix)
        if self._purge_steps is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = event_pb2.Event(session_log=start)
            event.wall_time = time.time()
            event.step = self._purge_steps
            self._writer.write_event(event)
        return self._writer

    def close(self) -> None:
        """Closes the file. Raises OSError."""
        if self._writer is not None:
            self._writer.close()
