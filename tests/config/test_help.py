"""What `--help TOPIC` shows."""

import pytest

from jdqn.config import Config, ConfigError, help, load_config
from jdqn.config.layers import provenance


def shown(topic, **layers):
    return help.section_help(topic, load_config(**layers), provenance(**layers))


def test_every_field_is_explained_once_with_its_value_and_where_it_is_from(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown("all", env="CartPole-v1", agent="double").splitlines()
    fields = [line.split()[0] for line in lines if line.startswith("  --")]
    sections = Config.model_fields.items()
    assert fields == [f"--{s}.{f}" for s, info in sections for f in info.annotation.model_fields]
    assert max(map(len, lines)) < 80
    values = {tuple(line.split(maxsplit=2)) for line in lines}
    assert ("--agent.double", "true", "double.toml") in values
    assert ("--network.noisy", "none", "dqn.toml") in values
    assert ("--train.log_period_steps", "1_000", "preset classic") in values
    assert ("--env.name", "CartPole-v1", "an option") in values


@pytest.mark.parametrize("topic", ["replay.n_step", "--replay.n_step"])
def test_a_single_field_is_a_topic(topic):
    _, _, _, value, text = shown(topic, overrides={"replay.n_step": 5}).splitlines()
    assert value.split() == ["--replay.n_step", "5", "an", "option"]
    assert text.strip() == "N, rewards summed before the bootstrap (integer, 1 to 255)"


@pytest.mark.parametrize(
    ("dotted", "want"),
    [
        ("agent.double", "true or false"),
        ("agent.loss", "huber, squared or module:name"),
        ("agent.behaviour", "head, head_per_step, vote or module:name"),
        ("agent.name", "name"),
        ("agent.discount", "number, 0 to 1"),
        ("agent.reward_clip", "number, 0 or more"),
        ("network.hidden", "list such as [128,128]"),
        ("network.heads", "integer, 1 to 1,024"),
        ("optimizer.decay", "number, 0 to below 1"),
        ("optimizer.eps", "number, above 0"),
        ("optimizer.learning_rate_final", "number, above 0 or none"),
        ("train.stop_return", "number or none"),
        ("replay.mask_probability", "number, above 0 to 1"),
    ],
)
def test_what_a_field_accepts_is_said_in_words(dotted, want):
    assert help.accepted(dotted) == want


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("netwrok", '"network"'),
        ("x", "known: all, env"),
        ("optimizer.nam", '"optimizer.name"'),
    ],
)
def test_what_is_no_topic_is_refused(topic, said):
    with pytest.raises(ConfigError, match=f"--help {topic}: .*{said}"):
        shown(topic)
