"""TensorBoard's events: what is written can be read, also after a full disk."""

import errno
import os
import struct
import sys

import pytest
from tensorboardX import writer
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from jdqn.runs.board import GROUPS, Board, grouped


def events(path):
    """All events of a file, which must end with a whole one."""
    data = path.read_bytes()
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        end = 12 + length
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
        assert struct.unpack("<I", data[end : end + 4]) == (masked_crc32c(data[12:end]),)
        found.append(event_pb2.Event.FromString(data[12:end]))
        data = data[end + 4 :]
    return found


def scalars(folder):
    """`(steps, name, value)` of every figure in a folder."""
    return [
        (event.step, value.tag, value.simple_value)
        for path in sorted(folder.glob("events.out.tfevents.*"))
        for event in events(path)
        for value in event.summary.value
    ]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("episode_return", "episode/return"),
        ("signal_to_noise/torso", "signal_to_noise/torso"),
        ("of_ones_own", "other/of_ones_own"),
    ],
)
def test_every_figure_has_a_group(name, want):
    assert grouped(name) == want


def test_no_two_figures_share_a_name():
    assert len(set(GROUPS.values())) == len(GROUPS)
    assert {name.count("/") for name in GROUPS.values()} == {1}


def test_figures_can_be_read_as_soon_as_they_are_written(tmp_path):
    board = Board(tmp_path)
    assert list(tmp_path.iterdir()) == []
    board.add({"loss": 0.5, "evaluation/vote": 3}, 40)
    board.add({"loss": 0.25}, 2**40)
    expected = [(40, "loss", 0.5), (40, "evaluation/vote", 3.0), (2**40, "loss", 0.25)]
    assert scalars(tmp_path) == expected
    board.close()
    (path,) = tmp_path.iterdir()
    first = events(path)[0]
    assert first.file_version == "brain.Event:2"
    assert first.wall_time > 1.7e9


def test_wandb_is_told_of_the_folder_where_it_listens(tmp_path, monkeypatch):
    """Its `sync_tensorboard` replaces this class by one that notes the folder."""
    made = []

    class Noted(writer.EventFileWriter):
        def __init__(self, folder):
            made.append(folder)
            super().__init__(folder)

    monkeypatch.setattr(writer, "EventFileWriter", Noted)
    Board(tmp_path / "without").close()
    monkeypatch.setitem(sys.modules, "wandb", object())
    board = Board(tmp_path)
    board.add({"loss": 0.5}, 40)
    board.close()
    assert made == [str(tmp_path)]
    assert scalars(tmp_path) == [(40, "loss", 0.5)]


def test_a_run_that_goes_on_purges_what_came_after(tmp_path):
    for purge_steps in (None, 60):
        board = Board(tmp_path, purge_steps)
        board.add({"loss": 1.0}, 80)
        board.close()
    _, resumed = sorted(tmp_path.iterdir())
    start = events(resumed)[1]
    assert start.session_log.status == event_pb2.SessionLog.START
    assert start.step == 60


def test_several_in_one_second_have_files_of_their_own(tmp_path):
    for _ in range(3):
        board = Board(tmp_path)
        board.add({"loss": 1.0}, 1)
        board.close()
    assert len(list(tmp_path.iterdir())) == 3


class FullDisk:
    """A raw file that takes seven bytes, then refuses."""

    def __init__(self, file):
        self._file, self._start = file, file.tell()

    def write(self, data):
        if self._file.tell() >= self._start + 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data[:7])

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_full_disk_leaves_whole_events_and_no_second_file_and_nothing_is_lost(tmp_path):
    board = Board(tmp_path)
    board.add({"loss": 1.0}, 1)
    log = board._file
    raw = log._file
    log._file = FullDisk(raw)
    for steps in (2, 3):
        with pytest.raises(OSError, match="No space"):
            board.add({"loss": 2.0}, steps)
        assert scalars(tmp_path) == [(1, "loss", 1.0)]
    log._file = raw
    board.add({"loss": 4.0}, 4)
    assert [steps for steps, *_ in scalars(tmp_path)] == [1, 2, 3, 4]
    board.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_away_is_an_error_of_the_disk_and_tried_again(tmp_path):
    board = Board(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        board.add({"loss": 1.0}, 1)
    board.close()
    (tmp_path / "away").mkdir()
    board.add({"loss": 1.0}, 2)
    board.close()
    assert scalars(tmp_path / "away") == [(1, "loss", 1.0), (2, "loss", 1.0)]
