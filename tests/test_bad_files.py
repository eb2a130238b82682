"""Whatever a command is pointed at: one line that says what is wrong, and nothing is touched."""

import functools
import os
import shlex
import subprocess
import sys

import pytest
from bad_inputs_helpers import HEADER, ROWS, check_answer, check_refusal, fill, tree

from jdqn import plots


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    fill(path)
    return path


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Checks that a command refuses, run in a folder with files."""
    return functools.partial(check_refusal, folder, monkeypatch, capsys)


CONFIGURATIONS = {
    "none.toml": ["none.toml", "No such file"],
    "file/user.toml": ["file/user.toml", "Not a directory"],
    "folder": ["folder", "TOML file"],
    "fresh": ["cannot read fresh", "did you mean fresh/config.toml?"],
    "pipe": ["pipe", "not a regular file"],
    "/dev/zero": ["/dev/zero", "not a regular file"],
    "n" * 9_000: ["cannot read nnn", "too long"],
    "a\nb.toml": ["a\\nb.toml", "No such file"],
    "": ["--config", "empty"],
    "broken.toml": ["broken.toml", "not valid TOML", "]"],
    "deep.toml": ["deep.toml", "brackets are too deep"],
    "nested.toml": ["replay.batch_size = [[[[...]]]]", "integer"],
    "digits.toml": ["digits.toml", "too many digits"],
    "hexadecimal.toml": ["replay.batch_size = 0xfff", "65536"],
    "dotted.toml": ['section "a"', "known: env, network"],
    "below.toml": ["replay.batch_size = {'x': 1}", "integer"],
    "quoted.toml": ['"replay.batch_size" = 3', "without quotes", "batch_size under [replay]"],
    "bare.toml": ["batch_size = 3", "in a section, [replay]"],
    "nameless.toml": ['"" = 3', "in a section"],
    "several.toml": ["replay = [{", "[replay]"],
    "inline.toml": ["replay.batch_size = {'a': 1}", "integer"],
    "date.toml": ["replay.batch_size = 2020-01-01", "integer"],
    "nan.toml": ["optimizer.eps = nan", "finite"],
    "nul.toml": ['"a\\x00b"', "CartPole-v1"],
    "number.toml": ["agent.name = 5", "string"],
    "above.toml": ['agent "../dqn"', "known: "],
    "line.toml": ['"replay.a\\nb"'],
    "name.toml": ['unknown field "replay.kkk', "mask_distribution"],
    "utf16.toml": ["utf16.toml", "not UTF-8"],
    "huge.toml": ["huge.toml", "1,000,000 bytes"],
    "protocol.toml": ["env.protocol = nature", "Atari"],
    "good.csv": ["good.csv", "not valid TOML"],
}


@pytest.mark.parametrize(("name", "said"), CONFIGURATIONS.items(), ids=lambda x: ascii(x)[:30])
@pytest.mark.parametrize("door", ["train", "bench"])
def test_a_configuration_file_that_cannot_be_is_refused(refused, door, name, said):
    refused(door, ["--config", name], said)


@pytest.mark.skipif(os.access("/", os.W_OK), reason="may read and write everything")
def test_what_is_not_permitted_is_refused(refused, folder):
    secret = folder / "secret.toml"
    secret.touch(mode=0)
    refused("train", ["--config", secret.name], [secret.name, "Permission denied"])
    refused("bench", ["--csv", secret.name], [secret.name, "no permission"])
    refused("plots", ["curve.png", f"DQN={secret.name}"], [secret.name, "Permission denied"])


EVALUATE = {
    "nothing": ([], ["RUN"]),
    "empty": ([""], ["RUN", "empty"]),
    "no run": (["none"], ["none: there is no such folder"]),
    "folder": (["folder"], ["folder is not a run directory"]),
    "file": (["file"], ["file is not a run directory"]),
    "folder of runs": (["."], ["no config.toml; runs in it, the newest first: ", "fresh"]),
    "episodes": (["fresh", "--episodes", "-5"], ["--episodes -5", "1 to 1,000,000"]),
    "configuration of a run": (
        ["fresh", "--agent.double", "true"],
        ['"--agent.double"', "it is an option of python -m jdqn.train"],
    ),
    "configuration": (["fresh/config.toml"], ["fresh/config.toml is not a run directory"]),
    "no checkpoint": (["fresh"], ["fresh", "no checkpoint"]),
    "long": (["n" * 9_000], ["nnn", "too long"]),
    "NUL": (["fresh\0"], ["'fresh\\x00'", "NUL"]),
    "no text": (["fresh\udce9"], ["'fresh\\udce9'", "UTF-8"]),
    "two runs": (["fresh", "folder"], ['argument "folder"']),
    "option": (["fresh", "--episode", "3"], ['"--episode"', '"--episodes"']),
    "no episodes": (["fresh", "--episodes", "0"], ["--episodes 0", "1 to 1,000,000"]),
    "few episodes": (["fresh", "--episodes", "few"], ["--episodes 'few'", "integer"]),
    "superscript": (["fresh", "--episodes", "²"], ["--episodes '²'", "integer"]),
    "half": (["fresh", "--episodes", "0.5"], ["--episodes 0.5", "integer"]),
    "negative": (["fresh", "--episodes", "-1"], ["--episodes -1", "1 to"]),
    "too many": (["fresh", "--episodes", "1e7"], ["--episodes 10000000", "1,000,000"]),
    "digits": (["fresh", "--episodes", "9" * 5_000], ["--episodes '999", "integer"]),
    "empty number": (["fresh", "--episodes="], ["--episodes", "empty"]),
    "no number": (["fresh", "--episodes"], ["--episodes", "expected one argument"]),
    "twice": (["fresh", "--episodes", "1", "--episodes=2"], ["--episodes", "'2'", "'1'"]),
    "epsilon above 1": (["fresh", "--epsilon", "2"], ["epsilon_eval = 2", "equal to 1"]),
    "no epsilon": (["fresh", "--epsilon", "nan"], ["epsilon_eval = nan", "finite"]),
    "boolean epsilon": (["fresh", "--epsilon", "true"], ["epsilon_eval = true", "number"]),
    "best of none": (["fresh", "--checkpoint", "best"], ["--checkpoint 'best'", "there are: none"]),
    "step of none": (
        ["fresh", "--checkpoint", "4_000"],
        ["--checkpoint '4_000'", "there are: none"],
    ),
    "way out": (["fresh", "--checkpoint", "../x"], ["--checkpoint '../x'", "steps or best"]),
    "step digits": (["fresh", "--checkpoint", "9" * 5_000], ["--checkpoint '999", "best"]),
    "step superscript": (["fresh", "--checkpoint", "²"], ["--checkpoint '²'", "best"]),
    "foreign": (["model"], ["model/model.safetensors", "damaged"]),
    "empty step": (["fresh", "--checkpoint="], ["--checkpoint", "empty"]),
}

RESUME = {
    "no run": (["none"], ["--resume none", "no such folder"]),
    "file": (["file"], ["--resume file", "config.toml"]),
    "configuration": (["fresh/config.toml"], ["--resume fresh/config.toml", "config.toml"]),
    "no checkpoint": (["fresh"], ["fresh", "no checkpoint"]),
    "nothing": ([], ["--resume", "expected one argument"]),
    "empty": ([""], ["--resume", "empty"]),
    "long": (["n" * 9_000], ["nnn", "too long"]),
    "NUL": (["fresh\0"], ["'fresh\\x00'", "NUL"]),
    "run directory": (["fresh", "--run-dir", "new"], ["--run-dir new", "--resume"]),
    "configuration too": (["fresh", "--config", "fresh/config.toml"], ["--config", "--resume"]),
    "preset": (["fresh", "--preset", "classic"], ["--preset classic", "--resume"]),
    "protocol": (["fresh", "--protocol", "nature"], ["--protocol nature", "--resume"]),
    "other agent": (["fresh", "--agent", "double"], ["agent dqn", "--agent double"]),
    "other environment": (["fresh", "--env", "Pong"], ["CartPole-v1", "Pong", "fresh/config"]),
    "another start": (["fresh", "--start-from", "fresh"], ["--start-from fresh", "--resume"]),
    "exported": (["model"], ["model is an exported agent", "--start-from model"]),
    "agent": (["fresh", "--agent", "dqm"], ['"dqm"', '"dqn"']),
    "value": (["fresh", "--train.eval_episodes", "few"], ["train.eval_episodes = 'few'"]),
    "option": (["fresh", "--train.step", "8"], ['"--train.step"', '"--train.steps"']),
}


@pytest.mark.parametrize(("argv", "said"), RESUME.values(), ids=RESUME.keys())
def test_going_on_refuses(refused, argv, said):
    refused("train", ["--resume", *argv], said)


START = {
    "no run": (["none"], ["none: there is no such folder"]),
    "no checkpoint": (["fresh"], ["fresh", "no checkpoint"]),
    "foreign": (["model"], ["model/model.safetensors", "damaged"]),
    "empty": ([""], ["--start-from", "empty"]),
    "used": (["fresh", "--run-dir", "used"], ["run directory used is already used"]),
}


@pytest.mark.parametrize(("argv", "said"), START.values(), ids=START.keys())
def test_starting_from_refuses(refused, argv, said):
    refused("train", ["--env=CartPole-v1", "--start-from", *argv], said)


EXPORT = {
    "nothing": ([], ["RUN, DIR"]),
    "no folder": (["fresh"], ["DIR"]),
    "no run": (["none", "new"], ["none: there is no such folder"]),
    "no checkpoint": (["fresh", "new"], ["fresh", "no checkpoint"]),
    "foreign": (["model", "new"], ["model/model.safetensors", "damaged"]),
    "used": (["fresh", "used"], ["DIR used is not empty", "new or empty"]),
    "a file": (["fresh", "file"], ["DIR file is a file"]),
    "dtype": (["fresh", "new", "--dtype", "half"], ["--dtype 'half'", "float32 or float16"]),
    "seed": (["fresh", "new", "--seed", "0.5"], ["--seed 0.5", "integer"]),
    "option": (["fresh", "new", "--onnx"], ['"--onnx"', '"--no-onnx"']),
}


@pytest.mark.parametrize(("argv", "said"), EXPORT.values(), ids=EXPORT.keys())
def test_export_refuses(refused, argv, said):
    refused("export", argv, said)


@pytest.mark.parametrize(("argv", "said"), EVALUATE.values(), ids=EVALUATE.keys())
def test_evaluation_refuses(refused, argv, said):
    refused("evaluate", argv, said)


PLOTS = {
    "nothing": ([], ["PICTURE", "LABEL=RUN"]),
    "no run": (["curve.png"], ["LABEL=RUN"]),
    "label alone": (["curve.png", "DQN="], ["DQN=", "LABEL=RUN"]),
    "comma": (["curve.png", "DQN=good.csv,"], ["DQN=good.csv,", "LABEL=RUN"]),
    "empty": (["curve.png", ""], ["LABEL=RUN", "empty"]),
    "label twice": (["curve.png", "a=good.csv", "a=good.csv"], ["a=good.csv", "given twice"]),
    "option": (["curve.png", "a=good.csv", "--points", "3"], ['option "--points"']),
    "no ending": (["curve", "a=good.csv"], ["PICTURE curve", ".png", ".svg", ".pdf"]),
    "unknown ending": (["curve.xyz", "a=good.csv"], ["PICTURE curve.xyz", ".png"]),
    "a film": (["curve.gif", "a=none"], ["curve.gif: must end in .png, .svg or .pdf"]),
    "another ending": (["curve.eps", "a=none"], ["curve.eps: must end in .png, .svg or .pdf"]),
    "picture left out": (["a=good.csv", "b=good.csv"], ["PICTURE a=good.csv", "curve.png a=good"]),
    "a run in its place": (["fresh"], ["PICTURE fresh", "comes first", "plots curve.png fresh"]),
    "a table in its place": (["good.csv"], ["PICTURE good.csv", "plots curve.png good.csv"]),
    "runs left out": (["curve.png"], ["no run is named", "plots curve.png DQN=runs/a"]),
    "folder": (["folder", "a=good.csv"], ["PICTURE folder", ".png"]),
    "pipe": (["pipe.png", "a=good.csv"], ["PICTURE pipe.png"]),
    "no folder": (["none/curve.png", "a=good.csv"], ["none/curve.png", "No such file"]),
    "below a file": (["file/curve.png", "a=good.csv"], ["file/curve.png", "Not a directory"]),
    "long picture": (["n" * 300 + ".png", "a=good.csv"], ["nnn.png", "too long"]),
    "no such run": (["curve.png", "DQN=none.csv"], ["cannot read none.csv", "No such file"]),
    "run without a table": (["curve.png", "folder"], ["folder is not a run directory"]),
    "run without episodes": (["curve.png", "fresh"], ["fresh/episodes.csv", "no episode"]),
    "table without episodes": (["curve.png", "header.csv"], ["header.csv", "no episode"]),
    "torn at once": (["curve.png", "torn.csv"], ["torn.csv", "no episode"]),
    "empty table": (["curve.png", "empty.csv"], ["empty.csv", "no episode"]),
    "other columns": (["curve.png", "columns.csv"], ["columns.csv", "no columns return"]),
    "wide header": (["curve.png", "wide_header.csv"], ["wide_header.csv", "no columns"]),
    "torn in the middle": (["curve.png", "middle.csv"], ["middle.csv, line 2", "4 columns"]),
    "words": (["curve.png", "words.csv"], ["words.csv, line 51", "numbers"]),
    "zeros": (["curve.png", "zeros.csv"], ["zeros.csv, line 2", "numbers"]),
    "quote": (["curve.png", "quote.csv"], ["quote.csv, line 50"]),
    "wide": (["curve.png", "wide.csv"], ["wide.csv, line 2"]),
    "infinite": (["curve.png", "infinite.csv"], ["infinite.csv, line 2", "numbers"]),
    "other encoding": (["curve.png", "latin.csv"], ["latin.csv", "not UTF-8"]),
    "pipe as a table": (["curve.png", "pipe.csv"], ["pipe.csv", "not a regular file"]),
    "device": (["curve.png", "/dev/zero"], ["/dev/zero", "not a regular file"]),
    "long run": (["curve.png", "n" * 9_000], ["nnn", "too long"]),
    "NUL": (["curve.png", "DQN=\0"], ["'DQN=\\x00'", "NUL"]),
}


@pytest.mark.parametrize(("argv", "said"), PLOTS.values(), ids=PLOTS.keys())
def test_plots_refuse(refused, argv, said):
    refused("plots", argv, said)


@pytest.mark.parametrize("end", ["500", "500,0", "500,0,4", '500,"0', "\0\0\0"])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, capsys, end):
    table = tmp_path / "run.csv"
    table.write_text(HEADER + ROWS + end)
    plots.main([str(tmp_path / "curve.png"), f"$\\frac={table}"])
    printed = capsys.readouterr()
    assert "\n| $\\frac | 1 | 490 | 25.00 |\nwritten: " in printed.out
    assert printed.err == f"warning: {table}: its last line is cut off and left out\n"


# Started as a shell would start them. The first are quick, they do not import jax.
COMMANDS = {
    "train --replay.batch_size [[[[": ["replay.batch_size = '[[[['", "integer"],
    "train --config /dev/zero": ["/dev/zero", "regular file"],
    "evaluate --episodes ² none": ["--episodes", "integer"],
    "plots curve.png DQN=": ["DQN=", "LABEL=RUN"],
    "plots curve.xyz DQN=good.csv": ["curve.xyz", ".png"],
    "train --env CartPol": ['"CartPol"', '"CartPole-v1"'],
    "train --env CartPole-v1 --replay.capacity 1e12": ["replay.capacity", "bytes"],
    "evaluate fresh": ["fresh", "no checkpoint"],
    "bench --env CartPole-v1 --csv new.csv --replay.capacity 1e12": ["replay.capacity", "bytes"],
    "bench --csv nowhere/bench.csv": ["nowhere"],
}
QUICK = 3


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if i >= QUICK else [])
        for i, case in enumerate(COMMANDS.items())
    ],
    ids=lambda x: ascii(x)[:40],
)
def test_a_command_refuses_on_a_terminal_that_knows_ascii_only(folder, command, said):
    before = tree(folder)
    door, *argv = shlex.split(command)
    answer = subprocess.run(
        [sys.executable, "-m", f"jdqn.{door}", *argv],
        cwd=folder,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    check_answer(answer.returncode, answer.stdout, answer.stderr, said)
    assert tree(folder) == before


def test_results_are_printed_where_only_ascii_can_be(folder, tmp_path):
    """± and γ become question marks."""
    asked = [
        ["plots", str(tmp_path / "curve.png"), "DQN=good.csv,good.csv"],
        ["train", "--help", "agent"],
    ]

    for (door, *argv), words in zip(
        asked, ["25.00 ? 0.00", "\n      ? (number, 0 to 1)"], strict=True
    ):
        answer = subprocess.run(
            [sys.executable, "-m", f"jdqn.{door}", *argv],
            cwd=folder,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stderr == ""
        assert words in answer.stdout
