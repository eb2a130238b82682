"""The command `python -m jdqn.plots`."""

import pytest

from jdqn import plots


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        plots.main(["--help"])
    assert info.value.code == 0
    assert "example: python -m jdqn.plots" in capsys.readouterr().out


def test_the_command_draws_and_prints(tmp_path, capsys):
    rows = [f"{10 * i},{k},{i + k},1\n" for i in range(1, 50) for k in range(3)]
    table = tmp_path / "run.csv"
    table.write_text("steps,seed,return,length\n" + "".join(rows))
    plots.main([str(tmp_path / "curve.png"), f"DQN={table}"])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "| DQN | 3 | 490 | 26.00 ± 2.48 |" in capsys.readouterr().out


def test_a_table_that_cannot_be_read_is_answered_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as info:
        plots.main([str(tmp_path / "curve.png"), f"DQN={tmp_path / 'none.csv'}"])
    assert info.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "cannot read" in printed.err
    assert not (tmp_path / "curve.png").exists()
