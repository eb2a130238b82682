"""Files of the user's: agents of their own, protocols in them, what a run recorded."""

import pytest
from config_helpers import refusal

from jdqn import config as config_lib
from jdqn.config import ConfigError, load_config
from jdqn.config.layers import provenance

AGENT = "[agent]\ndouble = true\n[replay]\nn_step = 3\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def record(write, config, name="run/config.toml"):
    """What a run of a configuration leaves."""
    return write(name, config_lib.to_toml(config, versions={"jdqn": "1"}))


# --- Agents -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["mine.toml", "./mine.toml", "agents/mine", "agents/mine.toml"])
def test_an_agent_of_ones_own_stands_in_the_place_of_one_that_ships(write, path):
    write(path.removeprefix("./"), AGENT)
    loaded = load_config(env="CartPole-v1", agent=path)
    same = {"agent.double": True, "replay.n_step": 3}
    shipped = load_config(env="CartPole-v1", overrides=same)
    assert loaded.agent.name == "mine"
    assert config_lib.with_overrides(loaded, agent__name="dqn") == shipped
    assert load_config(env="CartPole-v1", overrides={"agent.name": path}) == loaded


def test_it_lies_over_the_preset_and_may_name_itself(write):
    write("mine.toml", AGENT + "batch_size = 7\n")
    assert load_config(env="Pong", agent="mine.toml").replay.batch_size == 7
    mine = {"env": "CartPole-v1", "agent": "mine.toml"}
    loaded = load_config(**mine)
    assert (loaded.replay.batch_size, loaded.replay.capacity) == (7, 100_000)
    assert provenance(**mine)["replay.batch_size"] == "mine.toml"
    assert provenance(**mine)["replay.capacity"] == "preset classic"
    over = load_config(**mine, file=write("over.toml", "[replay]\nbatch_size = 9\n"))
    assert over.replay.batch_size == 9
    write("other.toml", '[agent]\nname = "my_agent"\n')
    assert load_config(agent="other.toml").agent.name == "my_agent"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("mine.toml", "[agent", ["mine.toml", "not valid TOML"]),
        ("mine.toml", "[agent]\ndubble = true", ['"agent.dubble"', '"agent.double"']),
        ("mine.toml", "double = true", ["double = true", "[agent]"]),
        ("mine.toml", "[replay]\nbatch_size = '3'", ["mine.toml: replay.batch_size", "integer"]),
        ("mine.toml", "[agent]\nname = 5", ["agent.name = 5", "string"]),
        ("mine.toml", '[agent]\nname = "../x"', ["agent.name = '../x'", "letters"]),
        ("mine.toml", '[env]\nname = "Pong"', ["mine.toml", "env.name", "--env"]),
        ("mine.toml", '[env]\nprotocol = "nature"', ["env.protocol", "--protocol"]),
        ("rainbow.toml", AGENT, ["--agent rainbow.toml", "ships with jdqn", "agent.name"]),
        ("my agent.toml", AGENT, ["agent.name = 'my agent'", "letters"]),
    ],
)
def test_a_mistake_in_an_agent_of_ones_own_gets_one_sentence(write, name, text, said):
    message = refusal(agent=write(name, text))
    for words in said:
        assert words in message


def test_a_file_does_not_point_to_another(write):
    write("mine.toml", AGENT)
    file = write("user.toml", '[agent]\nname = "./mine.toml"\n')
    assert "unknown agent" in refusal(file=file)


# --- Protocols ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config_lib.names("protocols"))
def test_a_protocol_sets_fields_of_the_environment_alone(name):
    loaded = load_config(env="Pong", protocol=name)
    assert loaded.env.protocol == name
    assert loaded.env.max_episode_steps * loaded.env.frame_skip == 5 * 60 * 60
    plain = load_config(env="Pong")
    assert loaded.sections | {"env": plain.env} == plain.sections


def test_the_published_protocols():
    nature = load_config(protocol="nature").env
    assert (nature.noop_max, nature.sticky_probability, nature.full_action_space) == (30, 0, False)
    assert nature.life_loss_terminates
    machado = load_config(protocol="machado").env
    assert (machado.noop_max, machado.sticky_probability) == (1, 0.25)
    assert machado.full_action_space
    assert not machado.life_loss_terminates


def test_a_protocol_in_a_file_lies_under_what_else_the_file_says(write):
    file = write("user.toml", '[env]\nprotocol = "machado"\nnoop_max = 5\n')
    loaded = load_config(file=file)
    assert (loaded.env.sticky_probability, loaded.env.noop_max) == (0.25, 5)
    assert load_config(file=file, protocol="machado").env.noop_max == 1
    assert load_config(file=file, protocol="nature").env.sticky_probability == 0


# --- What a run recorded ------------------------------------------------------------------------


def test_the_record_of_a_run_needs_no_other_file(write):
    write("mine.toml", AGENT)
    overrides = {"env.noop_max": 5}
    arguments = {"agent": "mine.toml", "protocol": "machado", "preset": "pong"}
    loaded = load_config(env="Pong", overrides=overrides, **arguments)
    file = record(write, loaded)
    write("mine.toml", "broken")
    assert load_config(file=file) == loaded
    assert load_config(file=file, env="Breakout").replay == loaded.replay  # as large a game


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"agent": "rainbow"}, ["run with agent dqn", "--agent rainbow"]),
        ({"preset": "minatar"}, ["run with preset classic", "--preset minatar"]),
        ({"env": "Pong"}, ["run on CartPole-v1 (preset classic)", "Pong (preset none)"]),
        ({"env": "jdqn/Chain"}, ["preset classic", "jdqn/Chain (preset chain)"]),
    ],
)
def test_a_record_hides_nothing_that_is_asked_for(write, arguments, said):
    file = record(write, load_config(env="CartPole-v1"))
    message = refusal(file=file, **arguments)
    for words in [file, *said]:
        assert words in message


def test_a_record_of_before_presets_were_recorded_is_read(write):
    text = config_lib.to_toml(load_config(env="CartPole-v1"), versions={"jdqn": "1"})
    lines = [line for line in text.splitlines() if not line.startswith(("preset", "protocol"))]
    file = write("old.toml", "\n".join(lines))
    assert load_config(file=file) == load_config(env="CartPole-v1")
    with pytest.raises(ConfigError, match="run on CartPole-v1"):
        load_config(file=file, env="Pong")
