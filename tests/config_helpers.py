"""What tests of the configuration share."""

import pytest

from jdqn.config import ConfigError, load_config


def refusal(**arguments):
    """The sentence with which `load_config` refuses."""
    with pytest.raises(ConfigError) as info:
        load_config(**arguments)
    sentence = str(info.value)
    assert "\n" not in sentence
    return sentence
