"""The command line: values as in TOML, one option a field, one sentence for each mistake."""

import sys

import pytest

from jdqn import config as config_lib
from jdqn.config import Parser, add_options, load_config


def from_command_line(*argv):
    parser = config_lib.Parser()
    config_lib.add_options(parser)
    return config_lib.from_options(parser.parse(list(argv)))


@pytest.mark.parametrize(
    ("option", "text", "want"),
    [
        ("network.hidden", "128,64", (128, 64)),
        ("network.hidden", "[128, 64]", (128, 64)),
        ("network.hidden", "[128]", (128,)),
        ("network.hidden", "128", (128,)),
        ("network.hidden", "[]", ()),
        ("train.steps", "1_000_000", 1_000_000),
        ("train.steps", "1e6", 1_000_000),
        ("optimizer.learning_rate", "1e-3", 0.001),
        ("optimizer.learning_rate", "1", 1.0),
        ("agent.double", "true", True),
        ("agent.double", "false", False),
        ("agent.loss", "squared", "squared"),
        ("agent.loss", '"squared"', "squared"),
        ("train.stop_return", "-20.5", -20.5),
        ("train.stop_return", "none", None),
    ],
)
def test_command_line_values(option, text, want):
    section, field = option.split(".")
    loaded = from_command_line(f"--{option}", text)
    got = getattr(getattr(loaded, section), field)
    assert got == want
    assert type(got) is type(want)


def test_options_are_the_arguments_of_load_config(tmp_path):
    file = tmp_path / "user.toml"
    file.write_text("[train]\nseed = 3\nsteps = 10\n")
    loaded = from_command_line(
        "--env=CartPole-v1", "--agent=dqn", "--config", str(file), "--train.steps", "20"
    )
    assert loaded == load_config(env="CartPole-v1", file=file, overrides={"train.steps": 20})


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--replay.batchsize", "8"], ['"--replay.batchsize"', '"--replay.batch_size"']),
        (["--enve=Pong"], ['"--enve"', '"--env"']),
        (["Pong"], ['argument "Pong"']),
        (["--env"], ["--env", "expected one argument"]),
    ],
)
def test_a_wrong_option_gets_one_sentence(capsys, argv, said):
    with pytest.raises(SystemExit) as info:
        from_command_line(*argv)
    printed = capsys.readouterr()
    assert info.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    for words in said:
        assert words in printed.err


def test_a_closed_output_is_no_mistake(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    config_lib.Parser().parse([])
    sys.stdout.write("nowhere")
    sys.stdout.close()


def test_help_names_what_a_field_accepts(capsys):
    parser = Parser(prog="x")
    add_options(parser)
    with pytest.raises(SystemExit):
        parser.parse(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "(auto, nature, minatar, mlp, none; dqn: auto)" in printed
    assert "(huber, squared; dqn: huber)" in printed
