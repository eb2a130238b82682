"""The fields of a configuration: one sentence for each value and combination that cannot be."""

import pydantic
import pytest
from config_helpers import refusal

from jdqn import config as config_lib
from jdqn.config import load_config

# (overrides, what the sentence must say)
MISTAKES = {
    "no number": (
        {"replay.batch_size": "many"},
        ["replay.batch_size", "'many'", "integer"],
    ),
    "a fraction": (
        {"replay.batch_size": 1.5},
        ["replay.batch_size", "1.5", "integer"],
    ),
    "no list": (
        {"network.hidden": "wide"},
        ["network.hidden", "wide", "list"],
    ),
    "a width of zero": (
        {"network.hidden": [64, 0]},
        ["network.hidden", "0", "greater than 0"],
    ),
    "no such choice": (
        {"agent.loss": "hubert"},
        ["agent.loss", "'hubert'", "'huber'", "'squared'"],
    ),
    "no boolean": (
        {"agent.double": "perhaps"},
        ["agent.double", "'perhaps'", "boolean"],
    ),
    "negative learning rate": (
        {"optimizer.learning_rate": -0.1},
        ["optimizer.learning_rate", "-0.1", "greater than 0"],
    ),
    "devices in words": (
        {"train.num_devices": "many"},
        ["train.num_devices = 'many'", '"all"', "1 to 65,536"],
    ),
    "no device": (
        {"train.num_devices": 0},
        ["train.num_devices = 0", "1 to 65,536"],
    ),
    "devices for environments": (
        {"train.num_devices": 3},
        ["train.num_devices = 3", "must divide env.num_envs = "],
    ),
    "devices for a batch": (
        {"train.num_devices": 4, "env.num_envs": 8, "replay.batch_size": 30},
        ["train.num_devices = 4", "must divide replay.batch_size = 30"],
    ),
    "devices for several seeds": (
        {"train.num_devices": 2, "train.num_seeds": 3},
        ["train.num_devices = 2", "must be 1 with train.num_seeds = 3"],
    ),
    "not a number": (
        {"optimizer.learning_rate": float("nan")},
        ["optimizer.learning_rate", "nan", "finite"],
    ),
    "infinite": (
        {"agent.reward_clip": float("inf")},
        ["agent.reward_clip", "inf", "finite"],
    ),
    "no probability": (
        {"agent.discount": 1.01},
        ["agent.discount", "1.01", "less than or equal to 1"],
    ),
    "negative seed": (
        {"train.seed": -1},
        ["train.seed", "-1", "0"],
    ),
    "batch larger than the replay": (
        {"replay.batch_size": 999, "replay.capacity": 998},
        ["replay.batch_size", "999", "replay.capacity", "998"],
    ),
    "ring too short": (
        {"replay.capacity": 32 * 7 - 1, "replay.n_step": 3},
        ["replay.capacity", "223", "n_step", "frame_stack", "224"],
    ),
    "learns before the first batch": (
        {"train.learning_starts_steps": 159},
        ["train.learning_starts_steps", "159", "160"],
    ),
    "environments against updates": (
        {"env.num_envs": 10},
        ["env.num_envs = 10", "train.update_period_steps = 4", "8 and 12"],
    ),
    "fewer environments than the period": (
        {"env.num_envs": 4, "train.update_period_steps": 6},
        ["env.num_envs = 4", "train.update_period_steps = 6", "3 and 6"],
    ),
    "target against updates": (
        {"agent.target_period_steps": 10_001},
        ["agent.target_period_steps = 10001", "train.update_period_steps = 4", "10000 and 10004"],
    ),
    "target below updates": (
        {"agent.target_period_steps": 3},
        ["agent.target_period_steps = 3", "train.update_period_steps = 4", "is 4"],
    ),
}


@pytest.mark.parametrize(("overrides", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gets_one_sentence(overrides, said):
    message = refusal(overrides=overrides)
    for words in said:
        assert words in message


@pytest.mark.parametrize("num_envs", [1, 2, 4, 8, 12])
def test_environments_that_fit_the_update_period_are_taken(num_envs):
    assert load_config(overrides={"env.num_envs": num_envs}).env.num_envs == num_envs


def test_every_field_is_required_and_described():
    """Defaults lie in a file, help in the schema."""
    for section in config_lib.Config.model_fields.values():
        for info in section.annotation.model_fields.values():
            assert info.is_required()
            assert info.description


def test_frozen():
    loaded = load_config()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.train.seed = 1
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.train = load_config(overrides={"train.seed": 1}).train
