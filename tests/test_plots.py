"""The command `python -m jdqn.plots`."""

import pytest
from report_helpers import write_run

from jdqn import plots
from jdqn.tools.sweeps.folders import Folder


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


@pytest.fixture
def sweep(tmp_path):
    """Two agents, two seeds each, and one more that has failed."""
    for agent in ("dqn", "double"):
        for seed in (0, 1):
            trial = Folder(tmp_path / "sweep" / "trials" / f"{agent}-{seed}")
            write_run(trial.run, agent=agent, seeds=(seed,))
            trial.write_result(trial.claim(), {"status": "done"})
    failed = Folder(tmp_path / "sweep" / "trials" / "failed")
    write_run(failed.run, seeds=(2,))
    failed.write_result(failed.claim(), {"status": "failed", "sentence": "not finite"})
    return tmp_path


def test_a_folder_of_runs_is_drawn_as_a_report_puts_it_together(sweep, monkeypatch, capsys):
    monkeypatch.chdir(sweep)
    write_run(sweep / "single", agent="c51")
    plots.main(["curve.svg", "sweep", "C51=single"])
    picture = (sweep / "curve.svg").read_text()
    for words in ("double, 2 seeds", "dqn, 2 seeds", "C51, 1 seed", "Training on CartPole-v1"):
        assert words in picture
    assert capsys.readouterr().err == (
        "note: left out: sweep/trials/failed/run has failed: not finite\n"
    )


def test_a_folder_of_runs_may_have_a_label(sweep, monkeypatch, capsys):
    monkeypatch.chdir(sweep)
    for seed in (0, 1):
        write_run(sweep / "runs" / str(seed), seeds=(seed,))
        write_run(sweep / f"more-{seed}", seeds=(seed,), level=3.0)
    plots.main(["curve.png", "A=runs", "B=more-0,more-1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[:9] for row in rows[1:]] == ["| A | 2 |", "| B | 2 |"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["A=sweep"], "error: A: sweep/trials/dqn-0/run and sweep/trials/double-0/run both have"),
        (["A=games"], "error: A: its runs are on CartPole-v1 and Acrobot-v1; a band is over seeds"),
        (["rules"], "error: dqn: its runs are on CartPole-v1 (max_episode_steps 27,000) and Cart"),
        (["none"], "error: RUN none is not a run directory: it has no config.toml"),
        (["sweep", "dqn=single"], "error: dqn: is the name of two curves, expected LABEL=RUN"),
    ],
)
def test_a_folder_of_runs_that_is_no_curve_is_refused(sweep, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(sweep)
    write_run(sweep / "single")
    write_run(sweep / "games" / "a")
    write_run(sweep / "games" / "b", env="Acrobot-v1")
    write_run(sweep / "rules" / "a")
    write_run(sweep / "rules" / "b", env__max_episode_steps=99)
    (sweep / "none").mkdir()
    with pytest.raises(SystemExit) as info:
        plots.main(["curve.png", *argv])
    assert info.value.code == 2
    assert said in capsys.readouterr().err
    assert not (sweep / "curve.png").exists()
