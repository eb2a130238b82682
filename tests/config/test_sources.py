"""What is said of where a configuration's values come from."""

import pytest

from jdqn.config import layers_of, load_config, protocol_of, with_overrides


def test_what_no_file_sets_otherwise_is_named_by_its_files_alone():
    assert layers_of(load_config(env="CartPole-v1")) == "agent dqn, preset classic"
    assert layers_of(load_config(env="Pong", agent="rainbow", protocol="machado")) == (
        "agent rainbow, protocol machado"
    )


def test_other_values_are_named_by_their_fields_a_few_of_them():
    fields = {"train.steps": 10_000, "agent.double": True, "optimizer.name": "rmsprop"}
    one = load_config(env="CartPole-v1", overrides=fields)
    assert layers_of(one) == (
        "agent dqn, preset classic; set beside them: optimizer.name, agent.double"
    )
    many = {f"agent.epsilon_{name}": 0.5 for name in ("start", "end", "eval")}
    many |= {"env.num_envs": 16, "optimizer.eps": 0.5, "replay.n_step": 2}
    said = layers_of(load_config(overrides=many))
    assert said.endswith(
        "env.num_envs, replay.n_step, optimizer.eps, agent.epsilon_start and 2 more"
    )


def test_an_agent_of_ones_own_is_told_from_those_of_jdqn(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[agent]\ndouble = true\n")
    assert layers_of(load_config(env="Pong", agent=str(file))) == (
        "agent mine (not of jdqn); set beside them: agent.double"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({}, "machado"),
        ({"env.num_envs": 16}, "machado"),  # not the protocol's to say
        ({"env.noop_max": 30}, "machado, but noop_max 30"),
        (
            {"env.full_action_space": False, "env.sticky_probability": 0.5},
            "machado, but sticky_probability 0.5, full_action_space false",
        ),
    ],
)
def test_what_differs_from_a_protocol_is_said(overrides, said):
    config = load_config(env="Pong", protocol="machado", overrides=overrides)
    assert protocol_of(config) == said
    line = layers_of(config)  # which does not say it twice
    assert line.partition("; ")[0] == f"agent dqn, protocol {said}"
    assert line.endswith(said) == ("env.num_envs" not in overrides)


def test_a_protocol_that_was_only_named_hides_nothing():
    config = with_overrides(load_config(env="Pong"), env__protocol="nature")
    assert protocol_of(config) == "nature, but max_episode_steps 27000"
    assert protocol_of(with_overrides(config, env__protocol="gone")) == "gone"
