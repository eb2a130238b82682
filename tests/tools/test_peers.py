"""Other libraries, beside which the loop is measured."""

import sys

import pytest

from jdqn.config import ConfigError
from jdqn.tools import peers


def test_a_missing_peer_is_answered_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[bench\]'"):
        peers.sb3_steps_per_second(None, steps=1)
