"""The command line: values as in TOML, one option a field, one sentence for each mistake."""

import re
import sys

import pytest

import jdqn
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
        ("env.observation_scale", "bounds", "bounds"),
        ("env.observation_scale", "2", 2.0),
        ("env.observation_scale", "1,2.5", (1.0, 2.5)),
    ],
)
def test_command_line_values(option, text, want):
    section, field = option.split(".")
    loaded = from_command_line(f"--{option}", text)
    got = getattr(getattr(loaded, section), field)
    assert got == want
    assert type(got) is type(want)


def test_a_table_is_typed_as_in_toml():
    text = ' {size = 7, "colour #" = "#fff", map = ["ab", "cd"], inner = {p = 2.0}} '
    loaded = from_command_line("--env.kwargs", text)
    want = {"size": 7, "colour #": "#fff", "map": ["ab", "cd"], "inner": {"p": 2.0}}
    assert loaded.env.kwargs.plain() == want


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


def help_of(capsys, *argv):
    """What help prints, which ends with status 0."""
    parser = Parser(prog="python -m jdqn.train")
    add_options(parser)
    with pytest.raises(SystemExit) as info:
        parser.parse(list(argv))
    assert info.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--env", "Pong", "--help"]])
def test_help_is_short_and_says_where_more_is(capsys, argv):
    lines = help_of(capsys, *argv).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert any("--help replay" in line for line in lines)


@pytest.mark.parametrize(
    "argv",
    [
        ["--env", "Pong", "--agent", "rainbow", "--help", "network"],
        ["--help", "network", "--env", "Pong", "--agent", "rainbow"],
        ["--env", "Pong", "--help=network", "--agent=rainbow"],
    ],
)
def test_help_of_a_section_knows_what_is_asked_for_beside_it(capsys, argv):
    printed = help_of(capsys, *argv)
    assert "rainbow on Pong" in printed
    assert re.search(r"--network.atoms 51 +rainbow.toml", printed)
    assert "--replay" not in printed


def test_an_option_without_a_topic_behind_help_is_none(capsys):
    assert help_of(capsys, "--help", "--seed").startswith("usage")


def test_a_parser_without_fields_has_one_help(capsys):
    with pytest.raises(SystemExit):
        Parser(prog="x").parse(["--help", "replay"])
    assert capsys.readouterr().out.startswith("usage")


def test_every_command_tells_its_version(capsys):
    with pytest.raises(SystemExit) as info:
        Parser(prog="any").parse(["--env", "x", "--version"])
    assert info.value.code == 0
    assert capsys.readouterr().out == f"jdqn {jdqn.__version__}\n"
