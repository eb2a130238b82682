"""The layers of a configuration, its presets and files, and one sentence for each mistake."""

import shutil
import tomllib

import gymnasium
import numpy as np
import pytest
from config_helpers import refusal

from jdqn import config as config_lib
from jdqn.config import ConfigError, default_preset, layers, load_config
from jdqn.config.sources import layers_of

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
    "network.quantile_samples",
    "network.quantile_samples_target",
    "network.quantile_samples_acting",
    "network.quantile_cosines",
    "replay.capacity",
    "replay.batch_size",
    "optimizer.name",  # a learning rate and an eps mean nothing without it
    "optimizer.learning_rate",
    "optimizer.learning_rate_final",
    "optimizer.eps",
    "agent.reward_clip",
    "agent.target_period_steps",
    "agent.epsilon_decay_steps",
    "agent.epsilon_end",  # how much of the replay is to be random
    "agent.epsilon_eval",
    "train.steps",
    "train.learning_starts_steps",
    "train.update_period_steps",
    "train.log_period_steps",
    "train.eval_period_steps",
    "train.eval_episodes",
    "train.checkpoint_period_steps",
}


def layer_of(kind, name):
    """A file that ships with jdqn, as it is."""
    path = config_lib.config_dir() / kind / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def dotted_fields(layer):
    return {f"{section}.{field}" for section, fields in layer.items() for field in fields}


ORDER = ["dqn", "agent", "preset", "file", "protocol", "overrides"]


@pytest.mark.parametrize("top", ORDER)
def test_the_later_layer_wins(tmp_path, monkeypatch, top):
    default = layer_of("agents", "dqn")["train"]["steps"]
    shutil.copytree(config_lib.config_dir(), tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(layers, "config_dir", lambda: tmp_path)
    paths = {
        "agent": tmp_path / "agents/other.toml",
        "preset": tmp_path / "presets/mine.toml",
        "file": tmp_path / "user.toml",
        "protocol": tmp_path / "protocols/ours.toml",
    }
    for layer, path in paths.items():
        sets = ORDER.index(layer) <= ORDER.index(top)
        path.write_text(f"[train]\nsteps = {1000 + ORDER.index(layer)}\n" if sets else "")
    arguments = {"agent": "other", "preset": "mine", "file": paths["file"], "protocol": "ours"}
    if top == "overrides":
        arguments["overrides"] = {"train.steps": 1005}
    loaded = load_config(**arguments)
    assert loaded.train.steps == (default if top == "dqn" else 1000 + ORDER.index(top))
    assert (loaded.env.preset, loaded.env.protocol) == ("mine", "ours")
    assert loaded.agent.name == "other"
    assert loaded.train.learning_starts_steps == load_config().train.learning_starts_steps


@pytest.mark.parametrize("agent", config_lib.names("agents"))
@pytest.mark.parametrize("preset", [None, *config_lib.names("presets")])
def test_every_agent_loads_with_every_preset(agent, preset):
    loaded = load_config(agent=agent, preset=preset)
    assert loaded.agent.name == agent


@pytest.mark.parametrize("preset", config_lib.names("presets"))
def test_a_preset_sets_sizes_and_scales_only(preset):
    fields = dotted_fields(layer_of("presets", preset))
    assert fields
    assert fields <= PRESET_FIELDS


def test_defaults_lie_in_dqn_toml_and_nowhere_else():
    """That no field has one in the schema is tested beside it."""
    sections = config_lib.Config.model_fields
    known = {name: info.annotation.model_fields for name, info in sections.items()}
    assert dotted_fields(layer_of("agents", "dqn")) == dotted_fields(known)


def test_a_preset_gives_no_epsilon_to_an_agent_without(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text("[agent]\nepsilon_start = 0.0\nepsilon_end = 0.0\n")
    for name in (str(own), "noisy", "rainbow", "bootstrapped_prior", "bootstrapped_rainbow"):
        agent = load_config(env="CartPole-v1", agent=name).agent
        assert (agent.epsilon_start, agent.epsilon_end) == (0.0, 0.0)
        assert agent.target_period_steps == 256  # the rest of the preset is there
    assert load_config(env="CartPole-v1", agent="double").agent.epsilon_end == 0.2
    asked = load_config(env="CartPole-v1", agent="noisy", overrides={"agent.epsilon_end": 0.1})
    assert asked.agent.epsilon_end == 0.1
    noisy = load_config(env="CartPole-v1", agent="noisy")
    assert layers_of(noisy) == "agent noisy, preset classic"


def test_the_environment_chooses_the_preset(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[env]\nname = "CartPole-v1"\n')
    classic = load_config(preset="classic").replay
    atari = load_config(env="Breakout").replay
    assert classic != atari
    assert load_config(env="CartPole-v1").replay == classic
    assert load_config(overrides={"env.name": "CartPole-v1"}).replay == classic
    assert load_config(file=file).replay == classic
    assert load_config(file=file, env="Pong").replay == atari
    assert load_config(env="Pong", preset="classic").replay == classic


def test_the_preset_is_recorded_by_its_name(tmp_path):
    assert load_config(env="CartPole-v1").env.preset == "classic"
    assert load_config(env="CartPole-v1", preset="auto").env.preset == "classic"
    assert load_config(env="Breakout").env.preset == "none"
    none = load_config(env="CartPole-v1", preset="none")
    assert none.env.preset == "none"
    assert none.replay == load_config(env="Breakout").replay
    file = tmp_path / "mine.toml"
    file.write_text('[env]\npreset = "pong"\n')
    assert load_config(file=file) == load_config(preset="pong")
    assert load_config(file=file, preset="none") == load_config()


def test_presets_follow_the_family():
    assert default_preset("minatar/Breakout") == "minatar"
    assert default_preset("bsuite/DeepSea") == "deep_sea"
    assert default_preset("gymnax/CartPole-v1") == "classic"
    assert default_preset("jax:my_module:make") == "classic"
    for name in ("my_module:MyEnv-v0", "my_module:ns/MyEnv", "ns/MyEnv-v0", "ns/MyEnv"):
        assert default_preset(name) == "classic"
    assert default_preset("Breakout") is None


def test_an_id_without_a_version_is_gymnasiums_where_it_is_registered(monkeypatch):
    assert default_preset("MyEnv") is None
    monkeypatch.setitem(gymnasium.registry, "MyEnv", None)
    assert default_preset("MyEnv") == "classic"


def test_two_names_for_the_environment_are_not_mixed():
    message = refusal(env="CartPole-v1", overrides={"env.name": "Pong"})
    assert "CartPole-v1" in message
    assert "Pong" in message
    assert load_config(overrides={"env.name": "Pong"}) == load_config(env="Pong")


def test_the_recorded_agent_is_the_one_that_was_loaded():
    message = refusal(agent="dqn", overrides={"agent.name": "no_such_agent"})
    assert "no_such_agent" in message


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
    file.write_text(config_lib.to_toml(loaded, versions={"jdqn": "1"}), encoding="utf-8")
    assert loaded.optimizer.learning_rate_final is None
    assert load_config(file=file) == loaded


def test_with_overrides_checks_again():
    loaded = load_config()
    changed = config_lib.with_overrides(loaded, train__seed=5)
    assert changed.train.seed == 5
    assert loaded.train.seed == 0
    with pytest.raises(ConfigError, match=r"train\.seed = -5"):
        config_lib.with_overrides(loaded, train__seed=-5)
    with pytest.raises(ConfigError, match=r"replay\.batch_size"):
        config_lib.with_overrides(loaded, replay__batch_size=loaded.replay.capacity + 1)


# (arguments, what the sentence must say)
MISTAKES = {
    "unknown agent": (
        {"agent": "dqnn"},
        ["agent", '"dqnn"', 'did you mean "dqn"?'],
    ),
    "unknown agent, nothing near": (
        {"agent": "zzzz"},
        ['"zzzz"', "known: ", "dqn"],
    ),
    "unknown preset": (
        {"preset": "clasic"},
        ["preset", '"clasic"', 'did you mean "classic"?'],
    ),
    "unknown section": (
        {"overrides": {"optimiser.eps": 1.0}},
        ["section", '"optimiser"', 'did you mean "optimizer"?'],
    ),
    "unknown field": (
        {"overrides": {"replay.batchsize": 8}},
        ['"replay.batchsize"', 'did you mean "replay.batch_size"?'],
    ),
    "unknown protocol": (
        {"protocol": "natur"},
        ["protocol", '"natur"', 'did you mean "nature"?'],
    ),
    "two protocols": (
        {"protocol": "nature", "overrides": {"env.protocol": "machado"}},
        ["--protocol nature", "--env.protocol machado"],
    ),
    "protocol of another environment": (
        {"env": "CartPole-v1", "protocol": "nature"},
        ["env.protocol = nature", "Atari", '"CartPole-v1"'],
    ),
    "preset that is no name": (
        {"overrides": {"env.preset": 3}},
        ["env.preset = 3", "string"],
    ),
    "missing agent": (
        {"agent": "./no_such.toml"},
        ["cannot read no_such.toml", "No such file"],
    ),
    "missing file": (
        {"file": "no/such.toml"},
        ["no/such.toml", "No such file"],
    ),
}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wrong_name_gets_one_sentence(arguments, said):
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


def test_overrides_take_the_numbers_that_programs_have():
    given = {"train.steps": 1e4, "replay.batch_size": np.int64(7), "agent.discount": np.float32(0)}
    loaded = load_config(env="CartPole-v1", overrides=given)
    assert (loaded.train.steps, loaded.replay.batch_size, loaded.agent.discount) == (10_000, 7, 0)
    assert type(loaded.replay.batch_size) is int
    given = {"network.hidden": [np.int32(8)], "agent.double": np.bool_(True)}
    loaded = load_config(overrides=given | {"env.observation_scale": np.array([1.0, 2.5])})
    assert (loaded.network.hidden, loaded.agent.double) == ((8,), True)
    assert loaded.env.observation_scale == (1.0, 2.5)
    with pytest.raises(ConfigError, match=r'expected dotted names, such as "train\.steps"'):
        load_config(overrides={"train": {"steps": 3}})
    for value in (1.5, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"train\.steps = "):
            load_config(overrides={"train.steps": value})
