"""What processes write together; `tests/loops/test_several_processes.py` has two real ones."""

import contextlib
import errno
import json

import jax
import pytest
from helpers import tiny

from jdqn.config import ConfigError
from jdqn.envs import EnvError
from jdqn.runs import processes, stopping, together
from jdqn.runs.episodes import Evaluation
from jdqn.runs.files import LogFile
from jdqn.runs.store import Store


@pytest.fixture
def of_two(monkeypatch):
    """This process is the second of two; a function sets what the first one says."""
    told = {"text": ""}
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "numbers", lambda own: [0, own])
    monkeypatch.setattr(processes, "texts", lambda own: [told["text"], own])
    return lambda text: told.update(text=text)


def test_a_single_process_has_what_it_always_had(tmp_path):
    def evaluate():
        raise AssertionError

    assert together.told(evaluate) is evaluate
    taken = pytest.raises(ConfigError, match="in use by another process")
    with together.lock(tmp_path), taken, together.lock(tmp_path):
        pass


def test_the_others_take_the_directory_that_the_first_has_made(of_two, tmp_path, monkeypatch):
    of_two(str(tmp_path))
    monkeypatch.setattr(processes, "numbers", lambda own: [1, own])
    assert together.make_run_dir(None, None) == tmp_path
    with together.lock(tmp_path), together.lock(tmp_path):
        pass


def test_a_directory_that_one_does_not_see_is_refused_by_all(of_two, tmp_path, monkeypatch):
    monkeypatch.setattr(together, "SEEN_SECONDS", 0)
    of_two(str(tmp_path / "elsewhere"))
    monkeypatch.setattr(processes, "numbers", lambda own: [1, own])
    with pytest.raises(ConfigError, match=r"elsewhere is not seen by process 1: all processes"):
        together.make_run_dir(None, None)
    of_two(str(tmp_path))
    monkeypatch.setattr(processes, "numbers", lambda own: [own, 0])
    with pytest.raises(ConfigError, match=r"is not seen by process 1: all processes"):
        together.make_run_dir(None, None)


def test_a_directory_may_be_seen_later(of_two, tmp_path, monkeypatch):
    """As on NFS, which remembers for a while that nothing was there."""
    later = tmp_path / "later"
    of_two(str(later))
    monkeypatch.setattr(processes, "numbers", lambda own: [1, own])
    monkeypatch.setattr(together.time, "sleep", lambda _: later.mkdir())
    assert together.make_run_dir(None, None) == later


def test_the_others_are_told_what_an_evaluation_gave(of_two):
    def evaluate(*_):
        raise AssertionError

    call = together.told(evaluate)
    result = Evaluation(2, 0.1, -1.0, 0.5, 7.0)
    of_two(json.dumps(["", *result]))
    assert call("state", 0, 1, "vote") == result
    of_two(json.dumps(["stopped"]))
    with pytest.raises(stopping.Interrupted):
        call("state", 0, 1, "vote")
    of_two(json.dumps(["failed", "it broke"]))
    with pytest.raises(EnvError, match="it broke"):
        call("state", 0, 1, "vote")


def test_whoever_waits_for_an_evaluation_hears_that_it_goes_on(of_two, monkeypatch):
    result = Evaluation(2, 0.1, -1.0, 0.5, 7.0)
    watched = []

    def evaluate(*_):
        raise AssertionError

    of_two(json.dumps(["", *result]))
    words = [together.PLAYS, together.PLAYS, together.ENDED]
    monkeypatch.setattr(processes, "numbers", lambda own: [words.pop(0), own])
    assert together.told(evaluate)("state", 0, 1, "vote") == result
    assert words == []

    def play(*arguments):
        for i in range(2):
            arguments[-1](i)
        return result

    def numbers(own):
        words.append(own)
        return [own, together.ENDED]

    monkeypatch.setattr(processes, "is_first", lambda: True)
    monkeypatch.setattr(processes, "texts", lambda own: [own, ""])
    monkeypatch.setattr(processes, "numbers", numbers)
    for seconds, told in ((-1, [together.PLAYS] * 2), (300, [])):
        monkeypatch.setattr(together, "TELLS_SECONDS", seconds)
        assert together.told(play)("state", 0, 1, "vote", watched.append) == result
        assert words == [*told, together.ENDED]
        words.clear()
    assert watched == [0, 1, 0, 1]


def test_what_one_cannot_write_fails_in_all(of_two):
    of_two(json.dumps(["", ["a"]]))
    assert together._everyones(lambda: ["b"]) == [["a"], ["b"]]
    of_two(json.dumps(["No space left on device", None]))
    with pytest.raises(OSError, match="process 0: No space left on device"):
        together._everyones(lambda: ["b"])


def test_logs_that_the_first_cannot_write_fail_in_all(of_two, tmp_path, monkeypatch):
    files = together.open_run_dir(tmp_path, tiny(), "command")
    files.log(4, {"loss": 1.0})
    files.episodes(4, 0, [])
    files.evaluation(4, 0, "vote", None)
    files.close()
    assert list(tmp_path.iterdir()) == []
    of_two(json.dumps(["", None]))
    assert files.sync() == {}
    of_two(json.dumps(["No space left on device", None]))
    with pytest.raises(OSError, match="process 0: No space left on device"):
        files.sync()
    monkeypatch.setattr(processes, "is_first", lambda: True)
    monkeypatch.setattr(processes, "texts", lambda own: [own, json.dumps(["", None])])
    first = together.open_run_dir(tmp_path, tiny(), "command")
    with contextlib.closing(first):
        assert first.sync()["metrics.jsonl"] == 0
        monkeypatch.setattr(LogFile, "sync", full_disk)
        with pytest.raises(OSError, match="process 0: No space left on device"):
            first.sync()


def full_disk(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_others_delete_nothing(tmp_path):
    blob = Store(tmp_path).write_blob([b"bytes"])
    watching = together.Watching(tmp_path)
    watching.sweep()
    watching.thin([])
    assert watching.is_intact(blob)
    Store(tmp_path).sweep()
    assert not watching.is_intact(blob)
