"""Whatever is typed behind a command: one line that says what is wrong, and nothing is touched."""

import functools

import countdown  # noqa: F401  named on stderr when it is imported, which is once
import pytest
from bad_inputs_helpers import check_refusal, fill

from jdqn import config as config_lib
from jdqn.config import Config, load_config
from jdqn.runs import memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    fill(path)
    return path


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Checks that a command refuses, run in a folder with files."""
    return functools.partial(check_refusal, folder, monkeypatch, capsys)


def fields(kind):
    """All fields of one JSON type, optional ones too."""
    for section, schema in Config.model_json_schema()["$defs"].items():
        for name, field in schema["properties"].items():
            if kind in [choice.get("type") for choice in (field, *field.get("anyOf", []))]:
                yield f"{section.lower()}.{name}"


# (option, value, words)
OF_A_KIND = [
    *((name, text, ["finite"]) for name in fields("number") for text in ("nan", "-inf", "1e400")),
    *((name, text, ["number"]) for name in fields("number") for text in ("true", "'1'", "1,2")),
    *((name, text, ["integer"]) for name in fields("integer") for text in ("false", "0.5", "²")),
    *((name, "10000000000000000000000", ["less than"]) for name in fields("integer")),
    *((name, text, ["true or false"]) for name in fields("boolean") for text in ("1", "yes")),
]


def test_the_fields_of_a_kind_are_found():
    assert len([*fields("number")]) >= 15
    assert len([*fields("integer")]) >= 20
    assert len([*fields("boolean")]) >= 5


@pytest.mark.parametrize(("name", "text", "said"), OF_A_KIND, ids=lambda x: ascii(x)[:40])
def test_a_value_of_another_kind_is_refused(refused, name, text, said):
    refused("train", ["--env=CartPole-v1", f"--{name}", text], [f"{name} = ", *said])


# Values of replay.batch_size, and how they are shown.
VALUES = {
    "words": ("many", "'many'"),
    "empty": ("", "empty"),
    "blank": (" ", "' '"),
    "brackets": ("[" * 3_000, "'[[["),
    "open brackets": ("[" * 200, "'[[["),
    "nested": ("[" * 200 + "]" * 200, "[[[[...]]]]"),
    "braces": ("{a=" * 3_000, "'{a="),
    "list": ("8,8", "[8, 8]"),
    "list of one": ("8,", "[8]"),
    "inline table": ("{a = 1}", "'{a = 1}'"),
    "date": ("2020-01-01", "'2020-01-01'"),
    "time": ("07:30:00", "'07:30:00'"),
    "digits": ("9" * 5_000, "'999"),
    "hexadecimal digits": ("0x" + "f" * 5_000, "0xfff"),
    "superscript": ("²", "'²'"),
    "NUL": ("8\0", "NUL"),
    "escaped NUL": ('"8\\u0000"', "'8\\x00'"),
    "another line": ("1\nother = 2", "'1\\nother = 2'"),
    "another section": ("1\n[train]\nsteps = 2", "'1\\n[train]"),
    "carriage return": ("1\r", "'1\\r'"),
    "comment": ("1 # one", "'1 # one'"),
    "terminal codes": ("\x1b[31m8", "'\\x1b[31m8'"),
    "bytes that are no text": ("8\udce9", "\\udce9"),
    "long word": ("x" * 100_000, "xxx...xxx"),
    "quote": ('"8', "'\"8'"),
    "negative": ("-8", "-8"),
    "negative with an exponent": ("-1e3", "-1000"),
    "zero": ("0", "0"),
    "too large": ("65537", "65537"),
}


@pytest.mark.parametrize(("text", "shown"), VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("door", ["train", "bench"])
def test_a_value_that_cannot_be_is_shown(refused, door, text, shown):
    has_name = shown not in ("NUL", "\\udce9")
    said = ["replay.batch_size", shown] if has_name else [shown]
    refused(door, ["--env=CartPole-v1", "--replay.batch_size", text], said)


OF_CARTPOLE = {
    "more than the replay": (
        "--replay.batch_size 60000 --replay.capacity 50000",
        ["replay.batch_size = 60000", "replay.capacity = 50000"],
    ),
    "agent": ("--agent dqm", ['"dqm"', '"dqn"']),
    "long agent": ("--agent " + "x" * 9_000, ["unknown agent", "rainbow"]),
    "agent of a file": ("--agent none.toml", ["cannot read none.toml", "No such file"]),
    "agent of a run": ("--agent fresh/config.toml", ["fresh/config.toml", "env.name", "--env"]),
    "preset": ("--preset clasic", ['"clasic"', '"classic"']),
    "preset for images": ("--preset minatar", ["env.preset = minatar", "vectors", "classic"]),
    "protocol": ("--protocol natur", ['"natur"', '"nature"']),
    "protocol of Atari": ("--protocol nature", ["env.protocol = nature", "CartPole-v1"]),
    "loss": ("--agent.loss hubber", ["'hubber'", "module:name", '"huber"']),
    "loss of a module": ("--agent.loss no_such:loss", ['"no_such:loss"', "no module", "path"]),
    "rule of a module": (
        "--agent.behaviour countdown:Countdown",
        ['"countdown:Countdown"', "raised TypeError"],
    ),
    "head of a module": ("--network.value_head countdown:no", ['"countdown:no"', 'has no "no"']),
    "function of Python's": ("--agent.loss os:system", ['"os:system"', "a module of yours"]),
    "function of a package": ("--agent.loss numpy:load", ['"numpy:load"', "installed package"]),
    "loss beside atoms": ("--agent.loss a:b --network.atoms 5", ["agent.loss = a:b", "atoms = 5"]),
    "double beside Munchausen": (
        "--agent munchausen --agent.double true",
        ["agent.double = true", "munchausen_scale = 0.9"],
    ),
    "clip above zero": ("--agent.munchausen_clip 1", ["munchausen_clip = 1", "less than or equal"]),
    "learning rate": ("--optimizer.learning_rate -1", ["learning_rate = -1", "greater than 0"]),
    "larger than float32": ("--optimizer.learning_rate 1e300", ["1e+300", "1e37"]),
    "smaller than float32": ("--optimizer.eps 1e-300", ["optimizer.eps = 1e-300", "1e-37"]),
    "steps": ("--steps many", ["train.steps", "'many'", "integer"]),
    "option without a value": ("--steps", ["--steps", "expected one argument"]),
    "option twice": ("--steps 8 --steps 9", ["--steps", "'9'", "'8'"]),
    "field twice": ("--steps 8 --train.steps 9", ["--train.steps", "'9'", "'8'"]),
    "environment twice": ("--env.name Pong", ["CartPole-v1", "Pong"]),
    "option": ("--replay.batchsize 8", ['"--replay.batchsize"', '"--replay.batch_size"']),
    "name of elsewhere": ("--lr 1e-3", ['"--lr"; here it is --optimizer.learning_rate']),
    "field of another section": ("--train.loss huber", ["here it is --agent.loss"]),
    "option of another command": ("--csv a.csv", ['"--csv"', "python -m jdqn.bench"]),
    "switch without a value": ("--agent.double", ["one argument: true or false"]),
    "choice without a value": (
        "--agent.loss --steps 8",
        ["--agent.loss", "huber, squared or module:name"],
    ),
    "long option": ("--" + "x" * 9_000, ["unknown option", "xxx ... xxx"]),
    "shortcut": ("--step 8", ['"--step"', '"--steps"']),
    "argument": ("CartPole-v1", ['"CartPole-v1"; did you mean "--env CartPole-v1"?']),
    "game as argument": ("Pong", ['did you mean "--env Pong"?']),
    "agent as argument": ("rainbow", ['did you mean "--agent rainbow"?']),
    "run as argument": ("fresh", ['did you mean "--resume fresh"?']),
    "file as argument": ("mine.toml", ['did you mean "--config mine.toml"?']),
    "any argument": ("64", ['unknown argument "64"']),
    "topic of help": ("--help replai", ["--help replai", '"replay"']),
    "agent of help": ("--help replay --agent dqm", ['"dqm"', '"dqn"']),
    "layers": ("--network.hidden " + ",".join(["8"] * 1_000), ["[8, 8", "at most 32"]),
    "torso layers": ("--network.torso_hidden " + "8," * 33, ["torso_hidden", "at most 32"]),
    "width": ("--network.hidden 8,0", ["network.hidden.1 = 0", "greater than 0"]),
    "widths in words": ("--network.hidden wide", ["network.hidden = 'wide'", "list"]),
    "widths in lists": ("--network.hidden [[8]]", ["network.hidden.0 = [8]", "integer"]),
    "choice": ("--agent.loss hubert", ["agent.loss = 'hubert'", "'huber'"]),
    "torso width": ("--network.torso_width 0", ["network.torso_width = 0", "greater than 0"]),
    "torso": ("--network.torso nature", ["network.torso", "nature", "image"]),
    "seeds": ("--num-seeds 2", ["train.num_seeds = 2", "JAX"]),
    "threads": ("--env.num_threads 1025", ["env.num_threads", "1024"]),
    "keyword arguments": ("--env.kwargs 5", ["env.kwargs = 5", "a table", "{size = 7}"]),
    "an open table": ("--env.kwargs {a=1", ["env.kwargs = '{a=1'", "a table"]),
    "a date in a table": ("--env.kwargs {a=2020-01-01}", ["a is 2020-01-01", "a number"]),
    "an unknown argument": ("--env.kwargs {siez=7}", ["siez", "Gymnasium cannot make it"]),
    "an argument of ours": ("--env.kwargs {id=7}", ["env.kwargs", "id is set by jdqn"]),
    "vectorization": ("--env.vectorization asink", ["'asink'", "'sync' or 'async'"]),
    "scale in words": ("--env.observation_scale many", ["'many'", '"bounds"', "a number"]),
    "scale of nothing": ("--env.observation_scale 0", ["observation_scale = 0", "1e-37"]),
    "scale of a truth": ("--env.observation_scale true", ["true", "a number"]),
    "scale of two": ("--env.observation_scale 1,2", ["[1.0, 2.0]: has 2 numbers", "4 entries"]),
    "size": ("--env.size 65536", ["env.size", "4096"]),
    "checkpoints": ("--train.checkpoint_keep 1e7", ["train.checkpoint_keep", "1000000"]),
    "capacity": ("--replay.capacity 1e12", ["replay.capacity = 1000000000000", "bytes"]),
    "widths": ("--network.hidden " + "65536," * 32, ["network.hidden = [65536", "bytes"]),
    "torso widths": (
        "--network.hidden 8 --network.torso_hidden " + "65536," * 32,
        ["network.torso_hidden = [65536", "bytes"],
    ),
    "run directory is empty": ("--run-dir=", ["--run-dir", "empty"]),
    "run directory under a file": ("--run-dir file/run", ["file/run", "run directory"]),
    "run directory is a file": ("--run-dir file", ["file", "is a file"]),
    "run directory is a pipe": ("--run-dir pipe", ["pipe", "is a file"]),
    "run directory is used": ("--run-dir used", ["used", "already used", "--run-dir"]),
    "run directory is long": ("--run-dir " + "n" * 9_000, ["run directory", "too long"]),
}


@pytest.mark.parametrize(("command", "said"), OF_CARTPOLE.values(), ids=OF_CARTPOLE.keys())
def test_training_refuses(refused, command, said):
    refused("train", ["--env=CartPole-v1", *command.split()], said)


ENVIRONMENTS = {
    "CartPol": ['"CartPol"', '"CartPole-v1"'],
    "PongNoFrameskip-v4": ['"PongNoFrameskip-v4"', '"Pong"'],
    "Pendulum-v1": ["Pendulum-v1", "Discrete actions"],
    "no_such_module:X-v0": ["no_such_module", "Python path"],
    "countdown:Countdwn-v0": ["countdown", '"Countdwn-v0"', '"Countdown-v0"'],
    "jdqn/Chian": ['"jdqn/Chian"', '"jdqn/Chain"'],
    "a\nb": ['"a\\nb"', "CartPole-v1"],
    "é": ['"é"', "CartPole-v1"],
    "x" * 9_000: ["unknown environment", "minatar/Breakout"],
    "a" * 9_000 + "-v1": ["unknown environment"],
    "": ["--env", "empty"],
}


@pytest.mark.parametrize(("name", "said"), ENVIRONMENTS.items(), ids=lambda x: ascii(x)[:30])
@pytest.mark.parametrize("door", ["train", "bench"])
def test_an_environment_that_is_not_there_is_refused(refused, door, name, said):
    refused(door, ["--env", name], said)


@pytest.mark.parametrize("name", ["5", "true", "[1]"])
def test_a_name_is_a_string(refused, name):
    refused("train", ["--env.name", name], [f"env.name = {name}", "string"])
    refused("train", ["--agent.name", name], [f"agent.name = {name}", "string"])


BENCH = {
    "--steps 0": ["--steps 0", "1 to"],
    "--steps ²": ["--steps '²'", "integer"],
    "--steps _": ["--steps '_'", "integer"],
    "--steps -1": ["--steps -1", "1 to"],
    "--steps 1.5": ["--steps 1.5", "integer"],
    "--steps 1e12": ["--steps 1000000000000", "1,000,000,000"],
    "--steps=": ["--steps", "empty"],
    "--peer dopamine": ["--peer dopamine", "known: sb3, cleanrl=SCRIPT"],
    "--peer cleanrl=": ["--peer cleanrl=", "known: sb3, cleanrl=SCRIPT"],
    "--peer cleanrl=nothing.py": ["--peer cleanrl=nothing.py", "no such file"],
    "--peer cleanrl=file": ["--peer cleanrl=file", "Atari", "CartPole-v1"],
    "--rounds 3": ["--rounds 3", "--peer"],
    "--peer sb3 --rounds 0": ["--rounds 0", "1 to"],
    "--profile file": ["--profile file", "no folder"],
    "--profile=": ["--profile", "empty"],
    "--profile new --peer sb3": ["--profile new", "--peer"],
    "--csv folder": ["--csv folder", "is a folder"],
    "--csv nowhere/bench.csv": ["--csv nowhere/bench.csv", "no folder nowhere"],
    "--csv file/bench.csv": ["--csv file/bench.csv", "no folder file"],
    "--csv=": ["--csv", "empty"],
    "--csv " + "n" * 9_000: ["nnn", "too long"],
    "--csv new.csv --replay.capacity 1e12": ["replay.capacity", "bytes"],
    "--csv good.csv --network.torso nature": ["network.torso", "image"],
    "--csv new.csv --num-seeds 2": ['"--num-seeds"'],
    "--csv new.csv --train.num_seeds 2": ["train.num_seeds = 2", "JAX"],
}


@pytest.mark.parametrize(("command", "said"), BENCH.items(), ids=lambda x: ascii(x)[:40])
def test_bench_refuses_before_it_measures(refused, command, said):
    refused("bench", ["--env=CartPole-v1", *command.split(" ")], said)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ("--replay.batch_size 40000", "replay.batch_size = 40000"),
        ("--env.frame_stack 255 --train.learning_starts_steps 5e4", "env.frame_stack = 255"),
    ],
)
def test_what_else_fills_the_memory_is_named(refused, monkeypatch, options, field):
    limit = memory.Limit(1_000_000, "a small machine")
    monkeypatch.setattr(memory, "available", lambda: limit)
    command = f"--env=CartPole-v1 --replay.capacity 50_000 {options}"
    refused("train", command.split(), [field, "1,000,000", "a small machine"])


GOOD = [
    ("--network.hidden 64,64", "network.hidden", (64, 64)),
    ("--network.hidden 64,", "network.hidden", (64,)),
    ("--network.hidden []", "network.hidden", ()),
    ("--network.hidden " + "8," * 32, "network.hidden", (8,) * 32),
    ("--replay.capacity 1e5", "replay.capacity", 100_000),
    ("--replay.capacity +5_000", "replay.capacity", 5_000),
    ("--replay.batch_size 0x20", "replay.batch_size", 32),
    ("--network.v_min -1e3", "network.v_min", -1000.0),
    ("--train.stop_return -1_0.5", "train.stop_return", -10.5),
    ("--train.stop_return none", "train.stop_return", None),
    ("--train.stop_return None", "train.stop_return", None),
    ("--agent.double True", "agent.double", True),
    ("--agent.double False", "agent.double", False),
    ("--optimizer.eps 1e-30", "optimizer.eps", 1e-30),
    ("--agent.reward_clip 0", "agent.reward_clip", 0.0),
    ('--agent.loss "squared"', "agent.loss", "squared"),
    ("--train.steps 8 --train.steps 8", "train.steps", 8),
    ("--config folder/ünïcode.toml", "train.seed", 3),
]


@pytest.mark.parametrize(("command", "dotted", "want"), GOOD)
def test_what_is_unusual_and_right_is_taken(tmp_path, monkeypatch, command, dotted, want):
    (tmp_path / "folder").mkdir()
    # As Windows writes it.
    text = "[train]\nseed = 3\n".replace("\n", "\r\n")
    (tmp_path / "folder/ünïcode.toml").write_bytes(text.encode("utf-8-sig"))
    monkeypatch.chdir(tmp_path)
    parser = config_lib.Parser()
    config_lib.add_options(parser)
    loaded = config_lib.from_options(parser.parse(["--env=CartPole-v1", *command.split()]))
    section, field = dotted.split(".")
    got = getattr(getattr(loaded, section), field)
    assert (got, type(got)) == (want, type(want))
    assert (
        load_config(env="CartPole-v1", overrides={dotted: want}).sections[section]
        == (loaded.sections[section])
    )
