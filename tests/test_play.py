"""The command `python -m jdqn.play`."""

import functools

import pytest
from bad_inputs_helpers import check_refusal, fill
from PIL import Image

from jdqn import play


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    fill(path)
    (path / "half").mkdir()  # a checkpoint that was not finished
    (path / "half" / "config.toml").write_bytes((path / "fresh" / "config.toml").read_bytes())
    (path / "half" / "checkpoints").mkdir()
    return path


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    return functools.partial(check_refusal, folder, monkeypatch, capsys)


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        play.main(["--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert "example: python -m jdqn.play" in printed
    assert "default" in printed


def test_an_environment_is_played_at_random(tmp_path, capsys):
    path = tmp_path / "game.gif"
    asked = ["--env", "jdqn/Chain", "--env.size", "5", "--agent", "random", "--video", str(path)]
    play.main([*asked, "--games", "2", "--seed", "3", "--fps", "20", "--seconds", "1.1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *("jdqn/Chain, random actions", "game of seed 3", "game of seed 4", "written")
    ]
    assert "14 steps" in lines[1]
    with Image.open(path) as image:
        assert image.info["duration"] == 50


RANDOM = ["--env", "CartPole-v1", "--agent", "random"]
VIDEO = ["--video", "new.gif"]
BAD = {
    "nothing": ([], ["RUN is missing", "--env NAME --agent random"]),
    "no run": (["none", *VIDEO], ["none: there is no such folder"]),
    "no checkpoint": (["fresh", *VIDEO], ["fresh", "no checkpoint"]),
    "half-written": (["half", *VIDEO], ["half", "no finished checkpoint"]),
    "damaged": (["model", *VIDEO], ["model/model.safetensors", "damaged"]),
    "such a step": (["fresh", *VIDEO, "--checkpoint", "7"], ["--checkpoint '7'", "none"]),
    "two runs": (["fresh", "half"], ["RUN half", "one run"]),
    "run and env": (["fresh", "--env", "Pong"], ["--env 'Pong'", "RUN fresh has its own"]),
    "run and agent": (["fresh", "--agent", "random"], ["--agent 'random'", "has its own"]),
    "run and field": (["fresh", "--env.size", "3"], ["--env.size 3", "RUN fresh has its own"]),
    "no agent": (["--env", "Pong"], ["--agent is missing", "random"]),
    "other agent": (["--env", "Pong", "--agent", "dqn"], ["--agent 'dqn'", "random", "run dir"]),
    "agent alone": (["--agent", "random"], ["RUN is missing"]),
    "random policy": ([*RANDOM, "--policy", "vote"], ["--policy vote", "trained agent"]),
    "random epsilon": ([*RANDOM, "--epsilon", "1"], ["--epsilon 1", "trained agent"]),
    "random checkpoint": ([*RANDOM, "--checkpoint", "9"], ["--checkpoint 9", "trained agent"]),
    "random run seed": ([*RANDOM, "--run-seed", "9"], ["--run-seed 9", "trained agent"]),
    "games and best": (["fresh", "--games", "2", "--best-of", "3"], ["--best-of 3", "--games 2"]),
    "no games": ([*RANDOM, "--games", "0"], ["--games 0", "1 to 10,000"]),
    "best of few": ([*RANDOM, "--best-of", "few"], ["--best-of 'few'", "integer"]),
    "seed": ([*RANDOM, "--seed", "-1"], ["--seed -1", "0 to 2,000,000,000"]),
    "run seed": (["fresh", "--run-seed", "0.5"], ["--run-seed 0.5", "integer"]),
    "fps": ([*RANDOM, "--fps", "0"], ["--fps 0", "1 to 60"]),
    "start": ([*RANDOM, "--start", "soon"], ["--start 'soon'", "number"]),
    "seconds": ([*RANDOM, "--seconds", "true"], ["--seconds true", "0.1 to"]),
    "ending": ([*RANDOM, "--video", "new.avi"], ["--video new.avi", ".mp4 or .gif"]),
    "no folder": ([*RANDOM, "--video", "no/new.gif"], ["--video no/new.gif", "no folder no"]),
    "folder": ([*RANDOM, "--video", "folder"], ["--video folder", ".mp4 or .gif"]),
    "no run, no terminal": (["none"], ["none: there is no such folder"]),
    "no terminal": (RANDOM, ["stdout is no terminal", "--video game.mp4"]),
    "no environment": (
        ["--env", "CartPol", "--agent", "random", *VIDEO],
        ['"CartPol"', '"CartPole-v1"'],
    ),
    "field": ([*RANDOM, *VIDEO, "--env.size", "0"], ["env.size = 0", "greater than 0"]),
    "option": (["fresh", "--vidoe", "x.gif"], ['"--vidoe"', '"--video"']),
}


@pytest.mark.parametrize(("argv", "said"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_shown_is_refused(refused, argv, said):
    refused("play", argv, said)
