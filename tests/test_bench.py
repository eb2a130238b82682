"""The command `python -m jdqn.bench`."""

import pytest

from jdqn import bench
from jdqn.config import ConfigError
from jdqn.tools.figures import Row


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        bench.main(["--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert "example: python -m jdqn.bench" in printed
    assert "default" in printed


def test_each_figure_is_written_when_it_is_measured(tmp_path, monkeypatch, capsys):
    table = tmp_path / "bench.csv"
    table.write_text("of another day\n")

    def measure(*_):
        yield Row("act", 1.5, "ms")
        assert table.read_text().splitlines() == ["stage,value,unit,note", "act,1.5,ms,"]
        yield Row("add", 2.5, "ms", "in place")

    monkeypatch.setattr(bench, "_measure", measure)
    bench.main(["--env", "CartPole-v1", "--csv", str(table)])
    assert table.read_text().splitlines()[2:] == ["add,2.5,ms,in place"]
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("dqn on CartPole-v1, 8 environments")
    assert [line.split()[:2] for line in lines] == [["act", "1.500"], ["add", "2.500"]]


def test_a_bench_that_is_refused_leaves_the_table_of_another_day(tmp_path, monkeypatch, capsys):
    table = tmp_path / "bench.csv"
    table.write_text("of another day\n")

    def measure(*_):
        raise ConfigError("cannot be measured")
        yield

    monkeypatch.setattr(bench, "_measure", measure)
    with pytest.raises(SystemExit):
        bench.main(["--env", "CartPole-v1", "--csv", str(table)])
    assert table.read_text() == "of another day\n"
    assert capsys.readouterr() == ("", "error: cannot be measured\n")
