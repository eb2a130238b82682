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


@pytest.fixture
def runs(tmp_path):
    """Two runs of different environments, one of them of two seeds, the second cut short."""
    for name, env, rows in [
        ("a", "CartPole-v1", [(10, 0), (1_000, 0), (10, 1), (700, 1)]),
        ("b", "Pong", [(2_000, 0)]),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text(f'[env]\nname = "{env}"\n')
        lines = "".join(f"{steps},{seed},5,1\n" for steps, seed in rows)
        (tmp_path / name / "episodes.csv").write_text("steps,seed,return,length\n" + lines)
    return tmp_path


def test_the_picture_says_what_it_shows(runs, capsys):
    plots.main([str(runs / "curve.svg"), f"A={runs / 'a'}"])
    picture = (runs / "curve.svg").read_text()
    for words in ["Training on CartPole-v1", "A, 2 seeds, 95% interval", "<!-- 600 -->"]:
        assert words in picture
    assert capsys.readouterr().err == (
        "note: A ends at 700 steps, where the shortest of 2 seeds does; the longest goes to 1,000\n"
    )


def test_a_picture_may_be_called_as_a_setting_is(runs):
    plots.main([str(runs / "lr=0.01.PNG"), f"A={runs / 'a'}"])
    assert (runs / "lr=0.01.PNG").read_bytes().startswith(b"\x89PNG")


def test_steps_have_thousands_separators_and_a_single_seed_no_interval(runs):
    plots.main([str(runs / "curve.svg"), f"B={runs / 'b'}"])
    picture = (runs / "curve.svg").read_text()
    assert "<!-- 2,000 -->" in picture
    assert "<!-- B, 1 seed -->" in picture


def test_a_picture_that_cannot_be_written_leaves_nothing(runs, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jdqn.runs.files.os.fsync", full)
    with pytest.raises(SystemExit):
        plots.main([str(runs / "curve.svg"), f"B={runs / 'b'}"])
    said = f"error: PICTURE {runs / 'curve.svg'}: cannot be written: No space left on device"
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in runs.iterdir()) == ["a", "b"]


def test_several_environments_are_drawn_where_every_run_has_a_label(runs):
    plots.main([str(runs / "curve.svg"), f"A={runs / 'a'}", f"B={runs / 'b'}"])
    assert "Training on CartPole-v1, Pong" in (runs / "curve.svg").read_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["A=a,b"], "error: A: its runs are on CartPole-v1 and Pong; a band is over seeds of one"),
        (["A=a", "b"], "error: the runs are on CartPole-v1 and Pong, whose returns have no axis"),
    ],
)
def test_several_environments_are_refused_elsewhere(runs, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(runs)
    with pytest.raises(SystemExit) as info:
        plots.main(["curve.png", *argv])
    assert info.value.code == 2
    assert said in capsys.readouterr().err
    assert not (runs / "curve.png").exists()
