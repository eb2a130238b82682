"""Fields that change nothing are named; what is named changes nothing, and does beside another."""

import pytest
from helpers import tiny
from learning_helpers import program

from jdqn.config import effects, load_config

# Another value of each, and what it takes to have an effect.
BESIDE = {
    "network.noisy_sigma": (0.3, {"network__noisy": "factorised"}),
    "network.v_min": (-3.0, {"network__atoms": 5}),
    "network.v_max": (3.0, {"network__atoms": 5}),
    "network.quantile_samples": (3, {"network__value_head": "implicit_quantile"}),
    "network.quantile_samples_target": (3, {"network__value_head": "implicit_quantile"}),
    "network.quantile_samples_acting": (3, {"network__value_head": "implicit_quantile"}),
    "network.quantile_cosines": (3, {"network__value_head": "implicit_quantile"}),
    "replay.priority_epsilon": (0.1, {"replay__priority_exponent": 0.5}),
    "replay.importance_exponent": (0.2, {"replay__priority_exponent": 0.5}),
    "replay.importance_exponent_final": (0.7, {"replay__priority_exponent": 0.5}),
    "replay.importance_anneal_steps": (70, {"replay__priority_exponent": 0.5}),
    "replay.rank_refresh_updates": (
        7,
        {"replay__prioritization": "rank", "replay__priority_exponent": 0.5},
    ),
    "optimizer.decay": (0.5, {"optimizer__name": "rmsprop"}),
    "agent.munchausen_temperature": (0.5, {"agent__munchausen_scale": 0.9}),
    "agent.munchausen_clip": (-3.0, {"agent__munchausen_scale": 0.9}),
    "agent.behaviour": ("head_per_step", {"network__heads": 2}),
    "agent.eval_policy": ("mean", {"network__heads": 2}),
}
# The rest is asked when acting, or logged all the same.
LEARNED = [
    *("network.noisy_sigma", "network.v_min", "network.quantile_samples"),
    *("network.quantile_samples_target", "network.quantile_cosines", "replay.priority_epsilon"),
    *("replay.rank_refresh_updates", "optimizer.decay", "agent.munchausen_temperature"),
    "agent.munchausen_clip",
]
WHERE = {
    **{f"env.{name}": value for name, value in {"size": 12, "stochastic": True}.items()},
    **{"env.num_threads": 2, "env.backend": "ale", "env.frame_skip": 2},
    "env.sticky_probability": 0.25,
    **{"env.full_action_space": True, "env.noop_max": 3, "env.fire_on_reset": True},
    "env.life_loss_terminates": False,
}


def said(overrides, **layers):
    return effects.without_effect(load_config(overrides=overrides, **layers))


def test_every_field_is_tried_here():
    named = [field for _, _, fields in effects.IDLE for field in fields]
    assert sorted(named) == sorted([*BESIDE, *WHERE, "agent.loss"])


@pytest.mark.parametrize("field", BESIDE)
def test_what_has_no_effect_is_named(field):
    value, beside = BESIDE[field]
    dotted = {k.replace("__", "."): v for k, v in beside.items()}
    assert f"{field} (for " in said({field: value}, env="CartPole-v1")
    assert said(dotted | {field: value}, env="CartPole-v1") is None
    assert said(dotted, env="CartPole-v1") is None


@pytest.mark.parametrize("field", WHERE)
def test_what_an_environment_does_not_have_is_named(field):
    home = "bsuite/DeepSea" if field in ("env.size", "env.stochastic") else "Pong"
    other = "Pong" if home != "Pong" else "minatar/Breakout"
    assert f"{field} (for " in said({field: WHERE[field]}, env=other)
    assert said({field: WHERE[field]}, env=home) is None


def test_c51_has_a_loss_of_its_own():
    told = said({"agent.loss": "squared", "optimizer.decay": 0.5}, agent="c51")
    assert told == (
        "without effect here: optimizer.decay (for rmsprop), agent.loss (C51 has a loss of its own)"
    )
    assert said({"agent.loss": "squared"}, agent="qr") is None


def test_what_the_files_say_is_not_named():
    assert said({}, env="CartPole-v1", agent="rainbow") is None  # the preset has quantiles
    assert said({}, env="Pong", agent="rainbow", protocol="machado") is None


@pytest.mark.parametrize("field", LEARNED)
def test_what_is_named_changes_nothing_that_is_learned(field):
    value, beside = BESIDE[field]
    changed = {field.replace(".", "__"): value}
    assert program(tiny(**changed)) == program(tiny())
    assert program(tiny(**beside | changed)) != program(tiny(**beside))
