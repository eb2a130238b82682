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
