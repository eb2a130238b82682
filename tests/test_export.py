"""The command `python -m jdqn.export`."""

import re

import pytest
from helpers import tiny
from trained_helpers import write_run

from jdqn import evaluate, export

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "run", tiny(train__seed=4))


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        export.main(["--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert "example: python -m jdqn.export" in printed
    assert "default" in printed


def test_the_command_writes_a_folder_that_evaluate_reads(run_dir, tmp_path, capsys):
    folder = tmp_path / "agents" / "cartpole"
    asked = ["--no-onnx", "--checkpoint", "best", "--seed", "4", "--episodes", "3"]
    export.main([str(run_dir), str(folder), *asked])
    lines = capsys.readouterr().out.splitlines()
    names = ["README.md", "config.toml", "model.safetensors"]
    assert [line.split("  ")[0] for line in lines[:3]] == [str(folder / name) for name in names]
    assert lines[3:] == [f"  python -m jdqn.{door} {folder}" for door in ("evaluate", "play")]
    of_run = []
    for path in (run_dir, folder):
        evaluate.main([str(path), "--episodes", "3"])
        of_run.append(capsys.readouterr().out)
    assert of_run[0] == of_run[1]
    assert "seed 4, after 80 steps; 3 full games" in of_run[0]
    scores = re.search(r"vote     mean (\S+) ± (\S+) .*median (\S+),", of_run[0]).groups()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| vote | {scores[0]} | {scores[1]} | {scores[2]} |" in card


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--seed", "first"], "--seed 'first': must be an integer"),
        (["--seed", "5"], "seed = 5: {run} has seed 4"),
        (["--episodes", "0"], "--episodes 0: must be an integer from 1 to 1,000,000"),
        (["--dtype", "int8"], "--dtype 'int8': must be float32 or float16"),
        (["--checkpoint", "60"], "--checkpoint '60': expected agent steps or best"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(run_dir, tmp_path, capsys, asked, said):
    with pytest.raises(SystemExit) as info:
        export.main([str(run_dir), str(tmp_path / "folder"), "--no-onnx", *asked])
    assert info.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {said.format(run=run_dir)}")
    assert printed.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
