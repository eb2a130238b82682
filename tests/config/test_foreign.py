"""Names that people bring from other packages."""

import pytest

from jdqn.config import Parser, add_options
from jdqn.config.foreign import FOREIGN, elsewhere, ours


@pytest.fixture(scope="module")
def known():
    """The options of `jdqn.train`."""
    parser = Parser()
    add_options(parser)
    own = ["--run-dir", "--resume", "--steps", "--seed"]
    return [*own, *(option for action in parser._actions for option in action.option_strings)]


@pytest.mark.parametrize("name", FOREIGN)
def test_every_name_of_the_table_stands_for_an_option(known, name):
    assert ours(f"--{name}", known) is not None
    assert f"--{name}" not in known


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("--lr", "--optimizer.learning_rate"),
        ("--learning-rate", "--optimizer.learning_rate"),
        ("--learning_rate", "--optimizer.learning_rate"),
        ("--gamma", "--agent.discount"),
        ("--total-timesteps", "--steps"),
        ("--batch-size", "--replay.batch_size"),
        ("--buffer-size", "--replay.capacity"),
        ("--exploration-fraction", "--agent.epsilon_decay_steps (in agent steps)"),
        ("--env-id", "--env"),
        ("--num-envs", "--env.num_envs"),
        ("--replay.learning_rate", "--optimizer.learning_rate"),
        ("--double", "--agent.double"),
        ("--name", None),
        ("--gin_files", None),
    ],
)
def test_what_is_called_otherwise_elsewhere(known, name, want):
    assert ours(name, known) == want


def test_a_command_without_the_option_does_not_propose_it():
    assert ours("--lr", ["--episodes"]) is None


@pytest.mark.parametrize(
    ("name", "door"),
    [
        ("--episodes", "evaluate"),
        ("--csv", "bench"),
        ("--resume", "train"),
        ("--agent.double", "train"),
        ("--agent.dubbel", None),
        ("--double", None),
    ],
)
def test_an_option_of_another_command(name, door):
    assert elsewhere(name) == door
