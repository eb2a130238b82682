"""Videos that stand in a page."""

import base64
import os

import pytest

from jdqn.tools import media


def test_the_newest_video_of_each_folder_is_taken(tmp_path):
    for i, name in enumerate(["a/old.mp4", "a/new.gif", "b/game.MP4", "c/notes.txt"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
        os.utime(path, (i, i))
    found, left_out = media.videos({"Pong": [tmp_path / name for name in "abc"]})["Pong"]
    assert [(video.name, video.is_picture) for video in found] == [
        ("a/new.gif", True),
        ("b/game.MP4", False),
    ]
    start, _, data = found[1].uri.partition(",")
    assert start == "data:video/mp4;base64"
    assert base64.b64decode(data) == b"b/game.MP4"
    assert left_out == []


@pytest.mark.parametrize("limit", ["MOST_BYTES", "MOST_BYTES_TOGETHER"])
def test_what_is_too_large_is_left_out_with_a_word(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(media, limit, 10)
    (tmp_path / "a.mp4").write_bytes(b"x" * 11)
    found, (sentence,) = media.videos({"Pong": [tmp_path]})["Pong"]
    assert found == []
    assert sentence.startswith(f"{tmp_path / 'a.mp4'} is left out: 0.0 MB, at most ")


def test_a_link_is_no_video(tmp_path):
    """A run from a stranger must not put a file of the reader's into a page."""
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "game.gif").symlink_to(tmp_path / "secret")
    assert media.videos({"Pong": [tmp_path / "run"]}) == {"Pong": ([], [])}


def test_environments_share_what_a_page_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "MOST_BYTES_TOGETHER", 5)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "game.mp4").write_bytes(b"xyz")
    found = media.videos({name: [tmp_path / name] for name in ("a", "b")})
    assert [(len(shown), len(left_out)) for shown, left_out in found.values()] == [(1, 0), (0, 1)]
