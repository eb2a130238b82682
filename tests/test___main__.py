"""`python -m jdqn` lists the commands."""

import runpy
import sys

from test_architecture import DOORS


def test_every_command_is_named(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "jdqn.__main__", raising=False)  # another test's
    runpy.run_module("jdqn", run_name="__main__")
    printed = capsys.readouterr().out
    for door in DOORS:
        assert f"python -m jdqn.{door} " in printed
