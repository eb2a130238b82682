"""The logs of runs, whole and damaged."""

import numpy as np
import pytest

from jdqn.config import ConfigError
from jdqn.tools import logs


def table(path, text):
    path.write_text("steps,seed,return\n" + text)
    return logs.read_table(path, ["seed"], ["steps", "return"])


def test_rows_are_words_then_numbers_and_seeds_keep_their_order(tmp_path):
    found = logs.by_seed(table(tmp_path / "a.csv", "1,7,2.5\n2,3,0\n3,7,-1\n"))
    assert list(found) == ["7", "3"]
    np.testing.assert_array_equal(found["7"], [[1, 2.5], [3, -1]])


def test_a_file_that_nothing_was_written_into_has_no_rows(tmp_path):
    (tmp_path / "a.csv").touch()
    assert list(logs.read_table(tmp_path / "a.csv", ["seed"], ["steps"])) == []


@pytest.mark.parametrize("end", ["4,7", "4,7,", "4,7,nan", '4,7,"'])
def test_a_row_that_was_cut_off_is_left_out_with_a_word(tmp_path, capsys, end):
    assert len(list(table(tmp_path / "a.csv", "1,7,2.5\n" + end))) == 1
    assert capsys.readouterr().err == (
        f"warning: {tmp_path / 'a.csv'}: its last line is cut off and left out\n"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a.jsonl: nothing has been logged"),
        ('{"st', "a.jsonl: nothing has been logged"),
        ("{}\n", "a.jsonl, line 1: expected a JSON object with steps"),
        ('{"steps": 1}\n[1]\n', "line 2: expected a JSON object"),
        ('{"steps": 1}\n{"steps": NaN}\n', "line 2: expected a JSON object"),
        ('{"steps": null}\n{"steps": 1}\n', "line 1: expected a JSON object"),
        ('{"steps": 1' + 400 * "0" + "}\n", "line 1: expected a JSON object"),
    ],
)
def test_metrics_that_cannot_be_read(tmp_path, text, words):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=words):
        logs.read_metrics(tmp_path / "a.jsonl")


@pytest.mark.parametrize("end", ["", '{"steps": 2, "lo', '{"steps"', "3", "[[[["])
def test_a_last_line_of_metrics_that_was_cut_off_is_left_out(tmp_path, capsys, end):
    (tmp_path / "a.jsonl").write_text('{"steps": 1, "loss": 0.5, "seconds": null}\n' + end)
    assert logs.read_metrics(tmp_path / "a.jsonl") == [{"steps": 1.0, "loss": 0.5, "seconds": None}]
    assert ("cut off and left out" in capsys.readouterr().err) == bool(end)
