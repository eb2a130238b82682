"""The command `python -m jdqn.train`, and training from Python."""

import re
import shlex
import tomllib

import pytest

from jdqn import train as door
from jdqn.config import load_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        door.main(["--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert "example: python -m jdqn.train" in printed
    assert "default" in printed


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--network.hidden=8,", "--network.torso_hidden", "[8]", "--replay.batch_size=8"]
    argv = ["--env", "CartPole-v1", "--steps", "2_000", "--seed", "5", "--train.eval_episodes=2"]
    argv += sizes
    door.main(argv)
    (path,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"CartPole-v1-dqn-5-\d{8}-\d{6}", path.name)
    config = load_config(file=path / "config.toml")
    assert (config.train.steps, config.train.seed) == (2000, 5)
    assert (config.network.hidden, config.replay.batch_size) == ((8,), 8)
    recorded = tomllib.loads((path / "config.toml").read_text())["versions"]["command"]
    assert recorded == shlex.join(["python", "-m", "jdqn.train", *argv])
    # No terminal here: plain lines, one for each event.
    printed = capsys.readouterr()
    title, *lines = printed.out.splitlines()
    assert printed.err == ""
    assert not {"\x1b", "\r"} & set(printed.out)
    assert all(words in title for words in ["CartPole-v1", "seed 5", "2,000 steps", str(path.name)])
    assert [line.split("  ")[0] for line in lines[:2]] == ["steps 1,000", "steps 2,000"]
    assert lines[2].startswith("evaluation at 2,000 steps: 2 full games")
