"""The command `python -m jdqn.bench`."""

import pytest

from jdqn import bench


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        bench.main(["--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert "example: python -m jdqn.bench" in printed
    assert "default" in printed


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--steps x", "--steps x"),
        ("--peer dopamine", "known: sb3"),
        ("--csv nowhere/bench.csv", "nowhere"),
        ("--env CartPol", '"CartPole-v1"'),
    ],
)
def test_bench_refuses_before_it_measures(tmp_path, monkeypatch, capsys, option, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as info:
        bench.main(["--env", "CartPole-v1", *option.split()])
    assert info.value.code == 2
    assert words in capsys.readouterr().err
