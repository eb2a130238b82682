"""The folder of a trial: attempts by number, one result."""

import json

import pytest

from jdqn.config import ConfigError
from jdqn.runs import files
from jdqn.tools.sweeps import folders
from jdqn.tools.sweeps.folders import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "trial [1]")


def save(folder, steps):
    (folder.run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder.run / "checkpoints" / f"{steps}.manifest").touch()


def test_every_attempt_has_a_higher_number(folder):
    assert folder.newest() == 0
    assert [folder.claim() for _ in range(11)] == [*range(1, 12)]  # 10 comes after 9
    assert folder.newest() == 11


def test_a_number_that_another_process_took_meanwhile_is_not_taken(folder, monkeypatch):
    folder.claim()
    numbers = iter([0, 0, 1])  # what was seen before the other one came
    monkeypatch.setattr(folder, "newest", lambda: next(numbers))
    assert folder.claim() == 2


def test_only_the_newest_attempt_writes_the_result_and_only_once(folder):
    first, second = folder.claim(), folder.claim()
    assert not folder.write_result(first, {"score": 1})
    assert folder.result() is None
    assert folder.write_result(second, {"score": 2})
    assert not folder.write_result(second, {"score": 3})
    third = folder.claim()
    assert not folder.write_result(third, {"score": 4})
    assert folder.result() == {"attempt": 2, "score": 2}
    assert [path.name for path in folder.path.iterdir()] == ["attempts", "result.json"]


def test_a_result_that_comes_between_look_and_write_stays(folder, monkeypatch):
    number = folder.claim()
    monkeypatch.setattr(files.os, "fsync", lambda _: folder._result.write_text('{"of": "other"}'))
    monkeypatch.setattr(type(folder._result), "exists", lambda _: False)
    assert not folder.write_result(number, {})
    assert folder.result() == {"of": "other"}


def test_without_links_a_result_is_renamed(folder, monkeypatch):
    def no_links(*_):
        raise PermissionError

    monkeypatch.setattr(folders.os, "link", no_links)
    assert folder.write_result(folder.claim(), {"score": 1})
    assert folder.result() == {"attempt": 1, "score": 1}


@pytest.mark.parametrize(
    ("ends", "count"),
    [
        ([], 0),
        ([("crashed", None)], 1),
        ([("crashed", None), ("lost", None)], 2),
        ([("crashed", None), ("crashed", 50)], 1),  # it got further
        ([("crashed", 50), ("crashed", 50), ("crashed", 50)], 3),
        ([("crashed", 50), ("stopped", 50)], 0),
        ([("stopped", 50), ("crashed", 50)], 1),
        ([("crashed", 50), (None, 50), ("crashed", 50)], 2),  # the sweep was killed
    ],
)
def test_crashes_count_while_nothing_is_gained(folder, ends, count):
    for how, steps in ends:
        number = folder.claim()
        if steps is not None:
            save(folder, steps)
        if how is not None:
            folder.end(number, how)
    assert folder.crashes() == count


def test_an_attempt_has_ended_once_it_says_so(folder):
    assert folder.has_ended(0)
    number = folder.claim()
    assert not folder.has_ended(number)
    folder.end(number, folders.STOPPED)
    assert folder.has_ended(number)


def test_how_far_a_run_is_is_read_of_logs_that_are_being_written(folder):
    assert folder.standing() == (0, None, {})
    folder.run.mkdir(parents=True)
    rows = [
        {"steps": 10, "seed": 0, "episode_return": 100.0},
        {"steps": 20, "seed": 0, "episode_return": 1.0},
        {"steps": 20, "seed": 1, "episode_return": 3.0},
        {"steps": 20, "seed": 2, "episode_return": None},
    ]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (folder.run / "metrics.jsonl").write_text(log + '{"steps": 30, "epi')
    table = "steps,seed,policy,return_mean\n10,0,vote,1\n10,1,vote,2\n20,0,vote,5\n20,1,vote,7"
    (folder.run / "evaluations.csv").write_text(table)
    assert folder.standing() == (20, 2.0, {10: 1.5, 20: 5.0})
    (folder.run / "evaluations.csv").write_text(table + "\n")
    assert folder.standing().evaluations == {10: 1.5, 20: 6.0}
    (folder.run / "evaluations.csv").write_text("something else\n")
    assert folder.standing().evaluations == {}


def test_a_run_is_in_use_while_a_process_holds_it(folder):
    assert not folder.is_in_use()
    folder.run.mkdir(parents=True)
    assert not folder.is_in_use()
    with files.lock(folder.run):
        assert folder.is_in_use()


def test_a_run_without_a_checkpoint_is_cleared(folder):
    folder.clear()
    save(folder, 10)
    assert folder.saved_steps() == 10
    folder.clear()
    assert folder.saved_steps() is None
    assert not folder.run.exists()


def test_the_last_line_of_what_was_printed(folder):
    assert folder.last_line() == ""
    folder.path.mkdir()
    folder.log.write_text("one\nerror: two\n\n")
    assert folder.last_line() == "error: two"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"^cannot make sweep directory .*file: File exists$"):
        folders.make(tmp_path / "file")
    folders.make(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
