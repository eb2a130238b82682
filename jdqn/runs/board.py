"""Figures for TensorBoard, in groups, written by this thread.

A writer with a thread of its own would wait for a full disk, and the run for it.
"""

import pathlib
import socket
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX import summary, writer
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from jdqn.runs.files import LogFile

# What TensorBoard shows side by side: a group and a name for each figure of metrics.jsonl.
GROUPS = {
    "episode_return": "episode/return",
    "episode_length": "episode/length",
    "episodes": "episode/count",
    "loss": "loss/loss",
    "gradient_norm": "loss/gradient_norm",
    "q_mean": "value/q_mean",
    "q_heldout": "value/q_heldout",
    "value": "value/state_value",
    "advantage": "value/advantage",
    "quantile_spread": "value/quantile_spread",
    "munchausen_bonus": "value/munchausen_bonus",
    "munchausen_clipped": "value/munchausen_clipped",
    "q_spread": "heads/q_spread",
    "disagreement": "heads/disagreement",
    "spectral_norm": "network/spectral_norm",
    "epsilon": "exploration/epsilon",
    "priority_mean": "replay/priority_mean",
    "priority_max": "replay/priority_max",
    "importance_weight_mean": "replay/importance_weight_mean",
    "importance_exponent": "replay/importance_exponent",
    "steps_per_second": "speed/steps_per_second",
    "seconds": "speed/seconds",
    "updates": "speed/updates",
}


def grouped(name: str) -> str:
    """What a figure is called on TensorBoard; one with a group in its name keeps it."""
    return GROUPS.get(name) or (name if "/" in name else f"other/{name}")


class Board:
    """An events file that is opened when there is something to write."""

    def __init__(self, folder: pathlib.Path, purge_steps: int | None = None):
        """What other files have from `purge_steps` on is not shown: a run went on from there."""
        self._folder = folder
        self._purge_steps = purge_steps
        self._file: LogFile | None = None
        self._unwritten: list[bytes] = []  # while there is no file

    def add(self, values: Mapping[str, float], steps: int) -> None:
        """Writes some figures. Raises OSError; then they are kept, and tried again."""
        for name, value in values.items():
            self._unwritten.append(_record(step=steps, summary=summary.scalar(name, value)))
        self._file = self._file or self._open()
        while self._unwritten:
            self._file.append(self._unwritten.pop(0))
        self._file.flush()

    def _open(self) -> LogFile:
        if "wandb" in sys.modules:  # its `sync_tensorboard` follows the folders of such writers
            writer.EventFileWriter(str(self._folder)).close()
        now = time.time_ns()  # several may start in one second
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now % 10**9:09}"
        file = LogFile(self._folder / name)
        file.append(_record(file_version="brain.Event:2"))
        if self._purge_steps is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            file.append(_record(step=self._purge_steps, session_log=start))
        return file

    def close(self) -> None:
        """Closes the file. Raises OSError."""
        if self._file is not None:
            self._file.close()


def _record(**fields: Any) -> bytes:
    """An event as TensorFlow frames it: length and bytes, each with its checksum."""
    data = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(of)) for of in (length, data)]
    return length + sums[0] + data + sums[1]
