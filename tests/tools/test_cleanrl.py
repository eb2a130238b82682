"""CleanRL's script beside ours: what it is asked, and how its speed is heard."""

import pathlib
import sys
import types

import pytest
from helpers import tiny

from jdqn.config import ConfigError
from jdqn.tools import cleanrl

TALKS = """
import sys
import of_its_own
open(of_its_own.asked, "w").write(" ".join(sys.argv[1:]))
print("a game has ended")
for line in range(10):
    print("SPS:", line)
"""


@pytest.fixture
def script(tmp_path):
    """A script that talks as CleanRL's do, in a folder with a Python of its own."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "of_its_own.py").write_text(f"asked = {str(tmp_path / 'asked')!r}\n")
    (tmp_path / "cleanrl").mkdir()
    path = tmp_path / "cleanrl" / "dqn_atari.py"
    path.write_text(TALKS)
    return path


def config():
    return tiny("Breakout", network__torso_hidden=[], env__frame_stack=4, replay__capacity=4_000)


def test_its_speed_is_that_between_its_lines_once_it_is_warm(script, tmp_path, monkeypatch):
    times = iter([0.0, 20.0, 40.0, *(50.0 + 0.5 * line for line in range(8))])
    monkeypatch.setattr(cleanrl, "time", types.SimpleNamespace(monotonic=times.__next__))
    rate = cleanrl.steps_per_second(script, config(), steps=700)
    assert rate == 100 / 0.5  # the tens of seconds before do not count
    asked = (tmp_path / "asked").read_text()
    assert "--env-id BreakoutNoFrameskip-v4 " in asked
    assert "--buffer-size 4000 --batch-size 8 --train-frequency 4" in asked


def test_a_script_that_fails_or_ends_early_says_so(script):
    with pytest.raises(ConfigError, match="it has said SPS: 10 times only"):
        cleanrl.steps_per_second(script, config(), steps=10_000)
    script.write_text("import a_library_it_needs")
    with pytest.raises(ConfigError, match=r"it failed: ModuleNotFoundError.*a_library_it_needs"):
        cleanrl.steps_per_second(script, config(), steps=700)


def test_it_needs_a_python_of_its_own(tmp_path):
    path = tmp_path / "dqn_atari.py"
    path.touch()
    with pytest.raises(ConfigError, match=r"in a \.venv beside or above it"):
        cleanrl.check(path, config())
    assert pathlib.Path(path).exists()
