"""Kinds of values; what is refused and in which words is in `test_schema`."""

import pytest
from config_helpers import refusal

from jdqn.config import load_config


@pytest.mark.parametrize("value", [1, 2, 8, "all"])
def test_devices_are_a_number_or_all(value):
    config = load_config(env="Pong", overrides={"train.num_devices": value})
    assert config.train.num_devices == value


@pytest.mark.parametrize("value", [True, 1.5, "ALL", -1, 65_537])
def test_nothing_else_is_a_number_of_devices(value):
    assert "train.num_devices = " in refusal(env="Pong", overrides={"train.num_devices": value})
