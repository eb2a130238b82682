"""The configuration: layers, presets, command-line values, and one sentence for each mistake."""

import shutil
import tomllib

import pydantic
import pytest

from jdqn import config
from jdqn.config import ConfigError, load_config

# Sizes and scales, what an environment needs; anything else is the algorithm's.
PRESET_FIELDS = {
    "env.num_envs",
    "env.frame_stack",
    "env.size",
    "network.torso",
    "network.torso_hidden",
    "network.hidden",
    "network.v_min",
    "network.v_max",
    "replay.capacity",
    "replay.batch_size",
    "optimizer.name",  # a learning rate and an eps mean nothing without it
    "optimizer.learning_rate",
    "optimizer.learning_rate_final",
    "optimizer.eps",
    "agent.reward_clip",
    "agent.target_period_steps",
    "agent.epsilon_decay_steps",
    "train.steps",
    "train.learning_starts_steps",
    "train.update_period_steps",
    "train.log_period_steps",
    "train.eval_period_steps",
    "train.eval_episodes",
    "train.checkpoint_period_steps",
}


def refusal(**arguments):
    """The sentence with which `load_config` refuses."""
    with pytest.raises(ConfigError) as info:
        load_config(**arguments)
    sentence = str(info.value)
    assert "\n" not in sentence
    return sentence


def from_command_line(*argv):
    parser = config.Parser()
    config.add_options(parser)
    return config.from_options(parser.parse(list(argv)))


@pytest.mark.parametrize("top", ["dqn", "agent", "preset", "file", "overrides"])
def test_the_later_layer_wins(tmp_path, monkeypatch, top):
    shutil.copytree(config.config_dir(), tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(config, "config_dir", lambda: tmp_path)
    paths = {
        "agent": tmp_path / "agents/other.toml",
        "preset": tmp_path / "presets/mine.toml",
        "file": tmp_path / "user.toml",
    }
    arguments = {"agent": "other", "preset": "mine", "file": paths["file"]}
    layers = ["dqn", *paths, "overrides"]
    for layer, path in paths.items():
        sets = layers.index(layer) <= layers.index(top)
        path.write_text(f"[train]\nsteps = {1000 + layers.index(layer)}\n" if sets else "")
    if top == "overrides":
        arguments["overrides"] = {"train.steps": 1004}
    with (tmp_path / "agents/dqn.toml").open("rb") as file:
        default = tomllib.load(file)["train"]["steps"]
    loaded = load_config(**arguments)
    assert loaded.train.steps == (default if top == "dqn" else 1000 + layers.index(top))
    assert loaded.agent.name == "other"
    assert loaded.train.learning_starts_steps == load_config().train.learning_starts_steps


@pytest.mark.parametrize("agent", config.names("agents"))
@pytest.mark.parametrize("preset", [None, *config.names("presets")])
def test_every_agent_loads_with_every_preset(agent, preset):
    loaded = load_config(agent=agent, preset=preset)
    assert loaded.agent.name == agent


@pytest.mark.parametrize("preset", config.names("presets"))
def test_a_preset_sets_sizes_and_scales_only(preset):
    path = config.config_dir() / "presets" / f"{preset}.toml"
    layer = tomllib.loads(path.read_text(encoding="utf-8"))
    fields = {f"{section}.{field}" for section, values in layer.items() for field in values}
    assert fields
    assert fields <= PRESET_FIELDS


def test_defaults_lie_in_dqn_toml_and_nowhere_else():
    fields = [
        (section, field, info)
        for section, model in config.Config.model_fields.items()
        for field, info in model.annotation.model_fields.items()
    ]
    path = config.config_dir() / "agents/dqn.toml"
    layer = tomllib.loads(path.read_text(encoding="utf-8"))
    assert {(s, f) for s, f, _ in fields} == {(s, f) for s in layer for f in layer[s]}
    assert all(info.is_required() and info.description for _, _, info in fields)


def test_the_environment_chooses_the_preset(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[env]\nname = "CartPole-v1"\n')
    classic, atari = load_config(preset="classic").replay, load_config(env="Breakout").replay
    assert classic != atari
    assert load_config(env="CartPole-v1").replay == classic
    assert load_config(overrides={"env.name": "CartPole-v1"}).replay == classic
    assert load_config(file=file).replay == classic
    assert load_config(file=file, env="Pong").replay == atari
    assert load_config(env="Pong", preset="classic").replay == classic


def test_two_names_for_the_environment_are_not_mixed():
    message = refusal(env="CartPole-v1", overrides={"env.name": "Pong"})
    assert "CartPole-v1" in message
    assert "Pong" in message
    assert load_config(overrides={"env.name": "Pong"}) == load_config(env="Pong")


def test_the_recorded_agent_is_the_one_that_was_loaded():
    message = refusal(agent="dqn", overrides={"agent.name": "no_such_agent"})
    assert "no_such_agent" in message


def test_frozen():
    loaded = load_config()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.train.seed = 1
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.train = load_config(overrides={"train.seed": 1}).train


def test_toml_round_trip(tmp_path):
    loaded = load_config(
        env="Acrobot-v1",
        overrides={
            "train.seed": 7,
            "train.stop_return": -100.5,
            "optimizer.learning_rate_final": "none",
            "network.hidden": [3, 4],
        },
    )
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(loaded, versions={"jdqn": "1"}), encoding="utf-8")
    assert loaded.optimizer.learning_rate_final is None
    assert load_config(file=file) == loaded


# (arguments, what the sentence must say)
MISTAKES = {
    "unknown agent": (dict(agent="dqnn"), ["agent", '"dqnn"', 'did you mean "dqn"?']),
    "unknown agent, nothing near": (dict(agent="zzzz"), ['"zzzz"', "known: ", "dqn"]),
    "unknown preset": (dict(preset="clasic"), ["preset", '"clasic"', 'did you mean "classic"?']),
    "unknown section": (
        dict(overrides={"optimiser.eps": 1.0}),
        ["section", '"optimiser"', 'did you mean "optimizer"?'],
    ),
    "unknown field": (
        dict(overrides={"replay.batchsize": 8}),
        ['"replay.batchsize"', 'did you mean "replay.batch_size"?'],
    ),
    "no number": (
        dict(overrides={"replay.batch_size": "many"}),
        ["replay.batch_size", "'many'", "integer"],
    ),
    "a fraction": (
        dict(overrides={"replay.batch_size": 1.5}),
        ["replay.batch_size", "1.5", "integer"],
    ),
    "no list": (dict(overrides={"network.hidden": "wide"}), ["network.hidden", "wide", "list"]),
    "a width of zero": (
        dict(overrides={"network.hidden": [64, 0]}),
        ["network.hidden", "0", "greater than 0"],
    ),
    "no such choice": (
        dict(overrides={"agent.loss": "hubert"}),
        ["agent.loss", "'hubert'", "'huber'", "'squared'"],
    ),
    "no boolean": (
        dict(overrides={"agent.double": "perhaps"}),
        ["agent.double", "'perhaps'", "boolean"],
    ),
    "negative learning rate": (
        dict(overrides={"optimizer.learning_rate": -0.1}),
        ["optimizer.learning_rate", "-0.1", "greater than 0"],
    ),
    "not a number": (
        dict(overrides={"optimizer.learning_rate": float("nan")}),
        ["optimizer.learning_rate", "nan", "finite"],
    ),
    "infinite": (
        dict(overrides={"agent.reward_clip": float("inf")}),
        ["agent.reward_clip", "inf", "finite"],
    ),
    "no probability": (
        dict(overrides={"agent.discount": 1.01}),
        ["agent.discount", "1.01", "less than or equal to 1"],
    ),
    "batch larger than the replay": (
        dict(overrides={"replay.batch_size": 999, "replay.capacity": 998}),
        ["replay.batch_size", "999", "replay.capacity", "998"],
    ),
    "ring too short": (
        dict(overrides={"replay.capacity": 32 * 7 - 1, "replay.n_step": 3}),
        ["replay.capacity", "223", "n_step", "frame_stack", "224"],
    ),
    "environments against updates": (
        dict(overrides={"env.num_envs": 10}),
        ["env.num_envs = 10", "train.update_period_steps = 4", "8 and 12"],
    ),
    "fewer environments than the period": (
        dict(overrides={"env.num_envs": 4, "train.update_period_steps": 6}),
        ["env.num_envs = 4", "train.update_period_steps = 6", "3 and 6"],
    ),
    "target against updates": (
        dict(overrides={"agent.target_period_steps": 10_001}),
        ["agent.target_period_steps = 10001", "train.update_period_steps = 4", "10000 and 10004"],
    ),
    "target below updates": (
        dict(overrides={"agent.target_period_steps": 3}),
        ["agent.target_period_steps = 3", "train.update_period_steps = 4", "is 4"],
    ),
    "learns before the first batch": (
        dict(overrides={"train.learning_starts_steps": 159}),
        ["train.learning_starts_steps", "159", "160"],
    ),
    "negative seed": (dict(overrides={"train.seed": -1}), ["train.seed", "-1", "0"]),
    "missing file": (dict(file="no/such.toml"), ["no/such.toml", "No such file"]),
}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gets_one_sentence(arguments, said):
    message = refusal(**arguments)
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[replay\nbatch_size = 3", ["not valid TOML", "line 1"]),
        ("[replay]\nbatch_size = 3\nbatch_size = 4", ["not valid TOML", "overwrite"]),
        ("replay = 3", ["replay", "3", "[replay]"]),
        ('env = "Pong"', ["env", "Pong", "[env]"]),
        ('agent = "dqn"', ["agent", "dqn", "[agent]"]),
        ("[replay]\nbatchsize = 3", ['"replay.batchsize"', '"replay.batch_size"']),
    ],
)
def test_a_mistake_in_a_file_gets_one_sentence(tmp_path, text, said):
    file = tmp_path / "user.toml"
    file.write_text(text)
    message = refusal(file=file)
    for words in said:
        assert words in message


def test_a_file_that_is_no_text_gets_one_sentence(tmp_path):
    file = tmp_path / "picture.toml"
    file.write_bytes(b"\xff\xd8\x00")
    assert "not valid TOML" in refusal(file=file)


@pytest.mark.parametrize("num_envs", [1, 2, 4, 8, 12])
def test_environments_that_fit_the_update_period_are_taken(num_envs):
    assert load_config(overrides={"env.num_envs": num_envs}).env.num_envs == num_envs


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
    got = getattr(getattr(from_command_line(f"--{option}", text), section), field)
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


def test_with_overrides_checks_again():
    loaded = load_config()
    changed = config.with_overrides(loaded, train__seed=5)
    assert (changed.train.seed, loaded.train.seed) == (5, 0)
    with pytest.raises(ConfigError, match=r"train\.seed = -5"):
        config.with_overrides(loaded, train__seed=-5)
    with pytest.raises(ConfigError, match=r"replay\.batch_size"):
        config.with_overrides(loaded, replay__batch_size=loaded.replay.capacity + 1)
