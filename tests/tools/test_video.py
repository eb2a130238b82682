"""Videos: what is written can be read, in the times that were asked for."""

import io
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from jdqn.config import ConfigError, RunError
from jdqn.tools import video

SIZE = (64, 48)


def draw(i):
    """A square that moves over a background."""
    image = Image.new("RGB", SIZE, (10, 20, 30))
    image.paste((250, 200, 50), (4 * i, 8, 4 * i + 8, 16))
    return image


def test_a_gif_shows_each_picture_for_its_time(tmp_path):
    path = tmp_path / "game.gif"
    video.write(path, draw, [1, 1, 1, 15], 15)
    with Image.open(path) as image:
        assert image.n_frames == 4
        assert image.info["loop"] == 0
        times = []
        for i in range(4):
            image.seek(i)
            times.append(image.info["duration"])
            np.testing.assert_allclose(np.asarray(image.convert("RGB")), draw(i), atol=8)
    assert times == [70, 60, 70, 1000]


def test_a_gif_of_one_picture_is_one():
    with Image.open(io.BytesIO(video.gif(draw, [3], 15))) as image:
        assert image.size == SIZE


def test_pictures_that_hardly_change_cost_little(rng):
    noise = Image.fromarray(rng.integers(256, size=(48, 64, 3), dtype=np.uint8))
    alone = len(video.gif(lambda _: noise, [1], 15))

    def moving(i):
        picture = noise.copy()
        picture.paste((255, 255, 255), (i, 0, i + 4, 4))
        return picture

    assert len(video.gif(moving, [1] * 20, 15)) < 4 * alone


def test_times_of_a_gif_add_up():
    times = video.durations([1] * 300, 15)
    assert set(times) == {60, 70}
    assert sum(times) == 20_000
    assert video.durations([1], 1_000) == [20]


def test_an_mp4_is_what_every_player_knows(tmp_path):
    path = tmp_path / "game.mp4"
    video.write(path, draw, [1, 2, 1], 15)
    assert [file.name for file in tmp_path.iterdir()] == ["game.mp4"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo"]
    command += ["-pix_fmt", "rgb24", "-"]
    answer = subprocess.run(command, capture_output=True, check=True)
    assert b"h264" in answer.stderr
    assert b"yuv420p" in answer.stderr
    assert b"15 fps" in answer.stderr
    frames = np.frombuffer(answer.stdout, np.uint8).reshape(-1, SIZE[1], SIZE[0], 3)
    assert len(frames) == 4
    for frame, i in zip(frames, [0, 1, 1, 2], strict=True):
        assert np.abs(frame.astype(int) - np.asarray(draw(i))).mean() < 6


def test_what_ffmpeg_refuses_is_said():
    with pytest.raises(RunError, match=r"ffmpeg says .*not divisible by 2"):
        video.mp4(lambda _: Image.new("RGB", (65, 48)), [1], 15)


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_nothing_is_left_of_a_video_that_is_broken_off(tmp_path, ending):
    def breaks(i):
        if i == 2:
            raise KeyboardInterrupt
        return draw(i)

    with pytest.raises(KeyboardInterrupt):
        video.write(tmp_path / f"game.{ending}", breaks, [1] * 4, 15)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "folder.gif").mkdir()
    for name, said in {
        "game.avi": "must end in .mp4 or .gif",
        "game": "must end in .mp4 or .gif",
        "none/game.gif": "there is no folder",
        "folder.gif": "is there and no file",
    }.items():
        with pytest.raises(ConfigError, match=f"--video .*{name}: {said}"):
            video.check_path(tmp_path / name)
    video.check_path(tmp_path / "game.GIF")


def test_without_an_encoder_an_mp4_is_refused_before_anything_is_played(tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(ConfigError, match=r"--video .*game.mp4: there is no ffmpeg to encode MP4"):
        video.check_path(tmp_path / "game.mp4")
    video.check_path(tmp_path / "game.gif")


def test_numbers_are_spread():
    assert video.spread(3, 12) == [0, 1, 2]
    assert video.spread(100, 3) == [0, 50, 99]
