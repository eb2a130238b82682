"""Runs as commands are told them."""

import pathlib

import pytest

from jdqn.config import ConfigError
from jdqn.tools import labels


def test_labels_and_runs():
    found = labels.read(["a=runs/x,runs/y", "runs/z", "b=c=runs/w", "=runs/v"])
    assert found == [
        ("a", ("runs/x", "runs/y")),
        (None, ("runs/z",)),
        ("b", ("c=runs/w",)),
        (None, ("runs/v",)),
    ]


@pytest.mark.parametrize(
    ("text", "label", "paths"),
    [
        ("lr=0.01", None, ["lr=0.01"]),
        ("a,b", None, ["a,b"]),
        ("lr=0.01,n=3", None, ["lr=0.01,n=3"]),
        ("A=lr=0.01", "A", ["lr=0.01"]),
        ("A=a,b", "A", ["a,b"]),
        ("A=lr=0.01,a,b", "A", ["lr=0.01", "a,b"]),
        ("A=lr=0.01,n=3,a,b,a,lr=0.01", "A", ["lr=0.01,n=3", "a,b", "a", "lr=0.01"]),
        ("n=3=a,lr=0.01", "n=3", ["a", "lr=0.01"]),
        ("n=3=none", "n", ["3=none"]),
        ("lr=0.01,a", None, ["lr=0.01", "a"]),
        ("A=lr=0.01,none", "A", ["lr=0.01", "none"]),
    ],
)
def test_runs_that_are_there_may_have_signs_in_their_names(
    tmp_path, monkeypatch, text, label, paths
):
    for name in ("a", "a,b", "lr=0.01", "lr=0.01,n=3"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert labels.read([text]) == [(label, tuple(paths))]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a="], "a=: a run has no name, expected LABEL=RUN"),
        (["x,,y"], "x,,y: a run has no name"),
        (["a=x", "a=y"], "a=y: label given twice"),
        (["x", "x"], "x: label given twice"),
    ],
)
def test_what_is_no_label_and_run(texts, words):
    with pytest.raises(ConfigError, match=words):
        labels.read(texts)


def test_a_folder_is_searched_for_runs_but_not_inside_them(tmp_path):
    for name in ("b", "a/deep/down", "a/deep/down/checkpoints/copy"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "config.toml").touch()
        (tmp_path / name / "episodes.csv").touch()
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "config.toml").touch()
    assert labels.runs_in(tmp_path) == [tmp_path / "a/deep/down", tmp_path / "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[env]\nname = "Pong"', "Pong"),
        ("[env]\nname = 3", None),
        ("env = 3", None),
        ("[env", None),
        (None, None),
    ],
)
def test_the_environment_of_a_run(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "config.toml").write_text(text)
    assert labels.environment_of(pathlib.Path(tmp_path)) == expected
