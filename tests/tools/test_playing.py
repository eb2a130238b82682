"""Who plays, which game is shown, and what is said of it."""

import io
import sys

import pytest
from helpers import tiny
from PIL import Image
from trained_helpers import write_run

from jdqn.config import ConfigError
from jdqn.tools import games, playing
from jdqn.tools.playing import Asked

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def cast():
    return playing.at_random(tiny("jdqn/Chain", env__size=3))


def returns(cast, seeds):
    return [[*games.play(cast.config, None, seed=seed, policy="vote")][-1].score for seed in seeds]


def test_the_best_game_is_shown_and_is_said_to_be(cast, tmp_path, capsys):
    scores = returns(cast, range(15))
    first = min(range(10), key=lambda i: scores[i])
    scores = scores[first : first + 5]
    best = max(range(5), key=lambda i: scores[i])
    assert best > 0
    path = tmp_path / "game.gif"
    playing.play(cast, Asked(games=5, is_best=True, seed=first, video=path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "jdqn/Chain, random actions"
    assert [line.split(":")[0] for line in lines[1:6]] == [
        f"game of seed {i}" for i in range(first, first + 5)
    ]
    assert lines[1].endswith(f"return {scores[0]:g}, 12 steps")
    assert (
        f"the best of 5 games: seed {first + best}, return {scores[best]:g} (selected" in lines[6]
    )
    assert lines[7].startswith(f"written: {path} (0.0 MB, 1.8 s)")  # 12 steps, and the end held


def test_games_come_one_after_another(cast, tmp_path, capsys):
    path = tmp_path / "game.mp4"
    playing.play(cast, Asked(games=2, seed=7, video=path))
    assert "(0.0 MB, 3.6 s)" in capsys.readouterr().out
    assert path.stat().st_size > 1_000


def test_a_part_is_shown_and_the_rest_is_said_to_be_left_out(cast, tmp_path, capsys):
    path = tmp_path / "game.gif"
    playing.play(cast, Asked(seed=7, video=path, start=0.2, seconds=0.4, fps=10))
    assert "0.4 s; 4 of 13 pictures, see --start and --seconds)" in capsys.readouterr().out
    with Image.open(path) as image:
        assert image.n_frames <= 4
    with pytest.raises(ConfigError, match=r"--start 60: all that was played takes 0.9 s"):
        playing.play(cast, Asked(seed=7, video=path, start=60))


def test_a_long_gif_is_cut_and_an_mp4_is_not(cast, tmp_path):
    film = playing._new_film(Asked(video=tmp_path / "x.gif"))
    assert film._end == 450
    assert playing._new_film(Asked(video=tmp_path / "x.mp4"))._end is None


def test_a_terminal_shows_the_games(cast, monkeypatch, capsys):
    from rich.console import Console

    from jdqn.tools import terminal

    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    monkeypatch.setattr(terminal, "Console", lambda: console)
    monkeypatch.setattr(terminal, "HOLD_SECONDS", 0.0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for is_best in (False, True):
        playing.play(cast, Asked(games=2, is_best=is_best, seed=7, fps=1_000))
        printed = capsys.readouterr().out.splitlines()
        assert [line[:12] for line in printed[1:3]] == ["game of seed"] * 2
    shown = console.file.getvalue()
    assert shown.count("game over") == 3
    assert "▶" in shown


def test_ctrl_c_leaves_the_terminal_with_the_score_so_far(cast, monkeypatch, capsys):
    from jdqn.tools import terminal

    def interrupted(self, moment):
        if moment.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(terminal.Terminal, "show", interrupted)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    playing.play(cast, Asked(games=2, seed=7))
    assert "left at: game of seed 7: return" in capsys.readouterr().out.splitlines()[-1]


def test_the_agent_of_a_run_plays(tmp_path, capsys):
    config = tiny("jdqn/Chain", "bootstrapped", network__heads=2, train__seed=4, train__num_seeds=2)
    run = write_run(tmp_path / "run", config)
    cast = playing.of_run(run, checkpoint="best", run_seed=5, epsilon=0.25)
    assert cast.config.train.seed == 5
    path = tmp_path / "game.gif"
    playing.play(cast, Asked(policy="head_1", video=path))
    head, game, _ = capsys.readouterr().out.splitlines()
    assert head == "jdqn/Chain, bootstrapped, 2 heads, after 80 steps; head_1, epsilon 0.25"
    assert game.startswith("game of seed 20005: return ")
    first = playing.of_run(run, checkpoint=None, run_seed=None, epsilon=None)
    assert first.config.train.seed == 4
    with pytest.raises(ConfigError, match=r"seed = 6: .* has seeds 4 to 5"):
        playing.of_run(run, checkpoint=None, run_seed=6, epsilon=None)
    with pytest.raises(
        ConfigError, match="--policy 'head_2': must be vote, mean, head_0 to head_1"
    ):
        playing.play(cast, Asked(policy="head_2", video=path))
