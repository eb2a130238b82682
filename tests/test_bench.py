"""The command `python -m jdqn.bench`."""

import pytest

from jdqn import bench
from jdqn.config import ConfigError
from jdqn.tools import stages, throughput
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


def test_beside_a_peer_stages_and_floor_are_measured_too(monkeypatch, capsys):
    def rows(*stages):
        return lambda *_, **__: iter([Row(stage, 1.0, "ms") for stage in stages])

    monkeypatch.setattr(bench, "_check_peer", lambda *_: None)
    monkeypatch.setattr(throughput, "bench_peer", rows("whole loop", "jdqn / SB3"))
    monkeypatch.setattr(stages, "bench_stages", rows("update", "floor of an update"))
    bench.main(["--env", "CartPole-v1", "--peer", "sb3"])
    names = [line[:26].strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert names[:4] == ["whole loop", "jdqn / SB3", "update", "floor of an update"]
