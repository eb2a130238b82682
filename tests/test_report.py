"""The command `python -m jdqn.report`."""

import functools
import os

import pytest
from bad_inputs_helpers import check_refusal, fill
from report_helpers import write_run

from jdqn import report
from jdqn.tools.sweeps.folders import Folder


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        report.main(["--help"])
    assert info.value.code == 0
    assert "example: python -m jdqn.report" in capsys.readouterr().out


def test_the_command_writes_one_page(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", seeds=(0, 1))
    page = tmp_path / "page.html"
    report.main([str(tmp_path / "runs"), "--out", str(page), "--solved", "15"])
    assert capsys.readouterr().out == f"written: {page} (0.0 MB)\n"
    text = page.read_text(encoding="utf-8")
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert "Solved: a score of 15 or more." in text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    fill(path)
    write_run(path / "run")
    (write_run(path / "unlogged") / "metrics.jsonl").write_text("")
    (write_run(path / "torn") / "metrics.jsonl").write_text('{"steps": 1')
    (write_run(path / "of_one", seeds=(0, 1)) / "metrics.jsonl").write_text(
        '{"steps": 1, "seed": 0, "seconds": 1}\n'
    )
    (write_run(path / "middle") / "evaluations.csv").write_text(
        "steps,seed,policy,return_mean\n1\n2,0,vote,3\n"
    )
    write_run(path / "double", agent="double")
    (path / "page.html").mkdir()
    (path / "none_inside" / "deep").mkdir(parents=True)
    (path / "locked").mkdir()
    return path


OUT = ["--out", "new.html"]
REFUSED = {
    "nothing": ([], ["RUN", "no run is named", "jdqn.report runs --out page.html"]),
    "no page": (["run"], ["--out", "missing"]),
    "a folder": (["run", "--out", "page.html"], ["--out page.html", "is a folder"]),
    "another ending": (["run", "--out", "page.pdf"], ["--out page.pdf", "must end in .html"]),
    "no ending": (["run", "--out", "page"], ["--out page", "must end in .html"]),
    "no such folder": (["run", "--out", "none/p.html"], ["none/p.html", "no folder none"]),
    "below a file": (["run", "--out", "file/p.html"], ["file/p.html", "no folder file"]),
    "long page": (["run", "--out", "n" * 300 + ".html"], ["--out nnn", "too long"]),
    "empty page": (["run", "--out", ""], ["--out is empty"]),
    "no such run": (["none", *OUT], ["RUN none", "is no folder"]),
    "a table": (["good.csv", *OUT], ["RUN good.csv", "is no folder"]),
    "no run": (["folder", *OUT], ["RUN folder is not a run directory"]),
    "a folder without runs": (["none_inside", *OUT], ["RUN none_inside is not a run directory"]),
    "an exported agent": (["model", *OUT], ["RUN model", "has no episodes.csv"]),
    "no episode": (["fresh", *OUT], ["fresh/episodes.csv", "no episode has ended"]),
    "no metrics": (["unlogged", *OUT], ["unlogged/metrics.jsonl", "nothing has been logged"]),
    "torn metrics": (["torn", *OUT], ["torn/metrics.jsonl", "nothing has been logged"]),
    "metrics of one seed": (["of_one", *OUT], ["of_one/metrics.jsonl", "logged of seed 1"]),
    "a torn evaluation": (["middle", *OUT], ["middle/evaluations.csv, line 2", "4 columns"]),
    "label alone": (["A=", *OUT], ["A=", "LABEL=RUN"]),
    "label twice": (["A=run", "A=double", *OUT], ["A=double", "given twice"]),
    "run twice": (["A=run", "B=run", *OUT], ["run: run is given twice"]),
    "no seeds of one": (["A=run,double", *OUT], ["both have seed 0", "agent.double"]),
    "solved": (["run", *OUT, "--solved", "yes"], ["--solved yes", "must be a number"]),
    "solved elsewhere": (["run", *OUT, "--solved", "Pong=3"], ["no run is on Pong"]),
    "NUL": (["run\0", *OUT], ["NUL"]),
    "option": (["run", *OUT, "--title", "x"], ['option "--title"']),
}


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    return functools.partial(check_refusal, folder, monkeypatch, capsys)


@pytest.mark.parametrize(("argv", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(refused, argv, said):
    refused("report", argv, said)


def test_a_folder_that_is_read_only_is_refused(refused, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "locked")
    refused("report", ["run", "--out", "locked/p.html"], ["locked/p.html", "locked is read-only"])


def test_a_page_that_cannot_be_written_is_told_and_leaves_nothing(refused, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jdqn.runs.files.write_whole", full)
    refused("report", ["run", *OUT], ["--out new.html", "cannot be written: No space left"])


def test_last_lines_that_were_cut_off_are_left_out(tmp_path, capsys):
    run = write_run(tmp_path / "run", seeds=(0, 1))
    for name, text in {
        "episodes.csv": "1000,",
        "metrics.jsonl": '{"st',
        "evaluations.csv": "1",
    }.items():
        with (run / name).open("a") as file:
            file.write(text)
    report.main([str(run), "--out", str(tmp_path / "page.html")])
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"warning: {run / name}: its last line is cut off and left out"
        for name in ("episodes.csv", "metrics.jsonl", "evaluations.csv")
    ]
    assert (tmp_path / "page.html").is_file()


def test_a_sweep_is_reported_as_a_whole(tmp_path):
    trials = tmp_path / "sweep" / "trials"
    for n_step in (1, 3):
        for env in ("CartPole-v1", "Acrobot-v1"):
            trial = Folder(trials / f"{env}-{n_step}")
            write_run(trial.run, env, level=10.0 * n_step, replay__n_step=n_step)
            trial.write_result(trial.claim(), {"status": "done"})
    Folder(trials / "pending").claim()
    page = tmp_path / "page.html"
    report.main([str(tmp_path / "sweep"), "--out", str(page)])
    text = page.read_text(encoding="utf-8")
    assert f"The sweep {tmp_path / 'sweep'} has begun 5 trials: 4 done, 1 not ended." in text
    assert '<table class="games">' in text
    assert "<b>60.0</b>" in text
    assert text.count("Best settings") == 2
    assert "<td>replay.n_step 3</td>" in text
    assert "Performance profile" in text


def test_a_run_may_be_called_as_a_setting_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "lr=0.01,n=3")
    report.main(["runs/lr=0.01,n=3", "--out", "page.html"])
    assert "dqn was trained on CartPole-v1" in (tmp_path / "page.html").read_text(encoding="utf-8")


def end(trial, status, sentence=""):
    trial.write_result(trial.claim(), {"status": status, "sentence": sentence})


def test_what_failed_is_left_out_of_a_sweeps_scores_and_what_was_pruned_is_marked(tmp_path, capsys):
    """One run without an evaluation would else change the score of all others."""
    trials = {}
    for n_step, seed, level in (
        (1, 0, 10.0),
        (1, 1, 10.0),
        (3, 0, 40.0),
        (3, 1, 40.0),
        (5, 0, 30.0),
    ):
        trials[n_step, seed] = trial = Folder(tmp_path / "sweep" / "trials" / f"{n_step}-{seed}")
        failed = (n_step, seed) == (3, 1)
        run = {"replay__n_step": n_step, "evaluates": not failed}
        write_run(trial.run, seeds=(seed,), level=level, steps=500 if n_step == 5 else 1_000, **run)
        status = "failed" if failed else "pruned" if n_step == 5 else "done"
        end(trial, status, "the loss is not finite" * failed)
    page = tmp_path / "page.html"
    report.main([str(tmp_path / "sweep"), "--out", str(page)])
    text = page.read_text(encoding="utf-8")
    out = trials[3, 1].run
    assert capsys.readouterr().err == f"note: left out: {out} has failed: the loss is not finite\n"
    assert "CartPole-v1: trials that failed are left out: 1 of dqn, n_step 3." in text
    assert "of each seed's last evaluation" in text
    for words in ("1", "3 (1 failed)", "5 (pruned)"):
        assert f"<td>dqn, n_step {words}</td>" in text
    best = [f"<td>replay.n_step {words}</td>" for words in ("1", "3 (1 failed)", "5 (pruned)")]
    assert sorted(best, key=text.index) == best
    assert "At the end dqn, n_step 1 scored" in text


def test_a_sweep_that_has_nothing_to_show_yet_is_no_folder_without_runs(refused, folder):
    Folder(folder / "young" / "trials" / "a").claim()
    refused("report", ["young", *OUT], ["RUN young: there is nothing to show yet", "1 not ended"])
