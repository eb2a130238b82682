"""What may stand beside which value head."""

import pytest
from config_helpers import refusal

from jdqn.config import load_config

# (overrides, what the sentence must say)
MISTAKES = {
    "atoms on one another": (
        {"network.atoms": 51, "network.v_min": 10.0},
        ["network.v_min = 10: must lie well below network.v_max = 10"],
    ),
    "a loss that C51 does not use": (
        {"network.atoms": 51, "agent.loss": "mine:loss"},
        ["agent.loss = mine:loss: of no use with network.atoms = 51"],
    ),
    "atoms beside drawn quantiles": (
        {"network.atoms": 51, "network.value_head": "implicit_quantile"},
        ["network.atoms = 51: must be 1 with network.value_head = implicit_quantile"],
    ),
    "a distribution of one quantile": (
        {"network.value_head": "quantile"},
        ["network.atoms = 1: must be above 1 with network.value_head = quantile", "200"],
    ),
    "an action selected for a target that weighs all": (
        {"agent.munchausen_scale": 0.9, "agent.double": True},
        ["agent.double = true: must be false with agent.munchausen_scale = 0.9", "selects none"],
    ),
    "Munchausen over fixed atoms": (
        {"agent.munchausen_scale": 0.5, "network.atoms": 51},
        ["network.atoms = 51: must be 1 with agent.munchausen_scale = 0.5", "fixed atoms"],
    ),
    "Munchausen over a head of one's own": (
        {"agent.munchausen_scale": 0.9, "network.value_head": "mine:head"},
        ['network.value_head = "mine:head": must be one of jdqn\'s', "munchausen_scale = 0.9"],
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_one_sentence_says_what_is_wrong(kind):
    overrides, words = MISTAKES[kind]
    sentence = refusal(overrides=overrides)
    assert all(word in sentence for word in words), sentence


def test_without_its_scale_munchausen_refuses_nothing():
    beside = {"agent.double": True, "network.atoms": 51, "agent.munchausen_clip": -3.0}
    assert load_config(overrides=beside).agent.munchausen_scale == 0
