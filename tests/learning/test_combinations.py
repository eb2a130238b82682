"""Switches together: a covering array, and each switch on its own."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import learning_helpers
import numpy as np
import pytest
from helpers import TINY, tiny
from learning_helpers import (
    SPEC,
    assert_finite,
    equal_to_the_bit,
    fill,
    quick_jit,
    random_steps,
    shapes,
)

from jdqn import config as config_lib
from jdqn import learning, replay

TICKS = 24  # 16 ring rows: they wrap

# --- Every pair of values -----------------------------------------------------------------------

# What each value sets, by dotted name.
SWITCHES = {
    "double": {value: {"agent.double": value} for value in (False, True)},
    "dueling": {value: {"network.dueling": value} for value in ("none", "mean", "max", "sum")},
    "noisy": {
        value: {"network.noisy": value, "network.noisy_sigma": 0.5}
        for value in ("none", "factorised", "independent")
    },
    "value_head": {
        "q": {"network.atoms": 1},
        "c51": {"network.atoms": 11},
        "qr": {"network.value_head": "quantile", "network.atoms": 5},
        "iqn": {
            "network.value_head": "implicit_quantile",
            "network.quantile_samples": 4,
            "network.quantile_samples_target": 5,
            "network.quantile_samples_acting": 3,
            "network.quantile_cosines": 6,
        },
    },
    "munchausen": {value: {"agent.munchausen_scale": float(value)} for value in (0, 0.9)},
    "n_step": {value: {"replay.n_step": value} for value in (1, 3)},
    "prioritization": {
        "uniform": {"replay.priority_exponent": 0.0},
        "part": {"replay.priority_exponent": 0.6, "replay.prioritization": "proportional"},
        "rank": {"replay.priority_exponent": 0.7, "replay.prioritization": "rank"},
    },
    "prior_scale": {value: {"network.prior_scale": float(value)} for value in (0, 3)},
    "heads": {value: {"network.heads": value} for value in (1, 3)},
    "mask": {
        "all": {"replay.mask_probability": 1.0},
        "half": {"replay.mask_probability": 0.5},
        "poisson": {"replay.mask_distribution": "poisson"},
    },
    "behaviour": {
        "head": {"agent.behaviour": "head"},
        "step": {"agent.behaviour": "head_per_step"},
        "vote": {"agent.behaviour": "vote"},
    },
    "loss": {value: {"agent.loss": value} for value in ("huber", "squared")},
    "bf16": {
        value: {"network.compute_dtype": "bfloat16" if value else "float32"} for value in (0, 1)
    },
    "impala": {
        0: {"network.torso": "mlp"},
        1: {"network.torso": "impala", "network.spectral_norm": True},
    },
}
IMAGES = SPEC._replace(frame_shape=(3, 1))  # the same frames, for `impala`
# Refused with a sentence: see tests/config/test_value_heads.py.
REFUSED = [{"double": True, "munchausen": 0.9}, {"value_head": "c51", "munchausen": 0.9}]
# fmt: off
ROWS = [
    (False, "max", "independent", "iqn", 0.9, 1, "uniform", 3, 3, "all", "head", "huber", 1, 1),
    (True, "sum", "factorised", "c51", 0, 3, "rank", 0, 1, "poisson", "head", "squared", 0, 1),
    (False, "mean", "none", "qr", 0.9, 3, "part", 0, 3, "half", "vote", "huber", 0, 1),
    (True, "none", "none", "iqn", 0, 1, "part", 3, 1, "half", "step", "squared", 1, 0),
    (False, "none", "factorised", "q", 0.9, 3, "rank", 3, 3, "poisson", "step", "huber", 1, 1),
    (True, "mean", "independent", "q", 0, 1, "uniform", 0, 1, "all", "vote", "squared", 0, 0),
    (True, "max", "factorised", "qr", 0, 1, "rank", 3, 3, "poisson", "vote", "squared", 1, 0),
    (False, "sum", "none", "c51", 0, 1, "uniform", 3, 3, "all", "step", "huber", 0, 0),
    (False, "sum", "independent", "iqn", 0.9, 3, "part", 0, 1, "poisson", "step", "squared", 1, 0),
    (False, "max", "none", "q", 0.9, 3, "part", 0, 1, "half", "head", "huber", 0, 0),
    (True, "none", "independent", "qr", 0, 3, "uniform", 0, 1, "all", "head", "huber", 0, 0),
    (True, "mean", "independent", "c51", 0, 1, "rank", 3, 1, "half", "step", "squared", 1, 0),
    (False, "mean", "factorised", "iqn", 0, 3, "uniform", 3, 3, "half", "vote", "squared", 0, 0),
    (False, "none", "factorised", "c51", 0, 1, "part", 0, 3, "all", "vote", "squared", 0, 0),
    (False, "sum", "none", "qr", 0.9, 3, "rank", 3, 3, "half", "step", "huber", 1, 0),
    (False, "sum", "none", "q", 0.9, 3, "uniform", 0, 1, "poisson", "vote", "huber", 1, 0),
    (True, "mean", "factorised", "iqn", 0, 3, "rank", 3, 3, "poisson", "head", "huber", 1, 0),
    (True, "max", "none", "c51", 0, 1, "rank", 0, 3, "all", "step", "squared", 0, 0),
]
# fmt: on


# Every value is in a row that is always run; the other pairs of values are in slow ones.
SLOW = (0, 4, 9, 12, 15, 17)


def test_the_rows_cover_every_pair_of_values():
    assert [len(row) for row in ROWS] == [len(SWITCHES)] * len(ROWS)
    for (i, one), (j, other) in itertools.combinations(enumerate(SWITCHES), 2):
        seen = {(row[i], row[j]) for row in ROWS}
        pairs = set(itertools.product(SWITCHES[one], SWITCHES[other]))
        assert seen == {pair for pair in pairs if {one: pair[0], other: pair[1]} not in REFUSED}


def test_every_value_is_in_a_row_that_is_always_run():
    run = [row for i, row in enumerate(ROWS) if i not in SLOW]
    for values, seen in zip(SWITCHES.values(), zip(*run, strict=True), strict=True):
        assert set(values) == set(seen)


def small(**overrides):
    """A configuration whose first learn call is that of the last tick of `start`."""
    early = {"train__learning_starts_steps": 4 * TICKS, "agent__target_period_steps": 400}
    return tiny(**{"train__steps": 4000} | early | overrides)


class Made(NamedTuple):
    """An agent with a full ring; `learn` is compiled once."""

    agent: learning.Agent
    state: learning.AgentState
    actor: learning.ActorState
    replay_state: replay.ReplayState
    learn: Any


def steps_of(spec):
    """Random steps with frames of its shape, and actions."""
    steps, actions = random_steps(4, TICKS)
    frame = steps.frame.reshape(*steps.frame.shape[:2], *spec.frame_shape)
    return steps._replace(frame=frame), actions


def make(config, spec=SPEC):
    memory = replay.make_replay(config, spec)
    agent = learning.make_agent(config, spec, memory)

    @quick_jit
    def start(steps, actions):
        return *agent.init(jax.random.key(0)), fill(memory)(steps, actions)

    # Optimised little, programs compute a value again where they use it: the maximum of dueling
    # advantages once had no gradient but NaN.
    return Made(agent, *start(*steps_of(spec)), quick_jit(agent.learn))


def after(made, calls, first=TICKS - 1):
    """Both states and the metrics of every call of `learn`."""
    state = made.state
    replay_state = made.replay_state
    seen = []
    for call in range(calls):
        state, replay_state, metrics = made.learn(state, replay_state, first + call)
        seen.append(metrics)
    return state, replay_state, seen


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if i in SLOW else ()) for i, row in enumerate(ROWS)],
    ids=lambda row: "-".join(map(str, row)),
)
def test_a_row_of_the_covering_array_learns_and_acts(row):
    chosen = dict(zip(SWITCHES, row, strict=True))
    overrides = {}
    for name, value in chosen.items():
        overrides |= SWITCHES[name][value]
    spec = IMAGES if chosen["impala"] else SPEC
    made = make(small(**overrides), spec)
    state, replay_state, seen = after(made, 3)

    assert made.learn._cache_size() == 1
    for metrics in seen:
        assert_finite(metrics)
        assert metrics["loss"] > 0
        assert metrics["gradient_norm"] > 0
    assert_finite((state.params, state.opt_state, replay_state.priorities.leaves))
    assert shapes((state, replay_state)) == shapes((made.state, made.replay_state))
    assert not any(equal_to_the_bit(state.params, made.state.params))  # every leaf learns
    assert all(equal_to_the_bit(state.target_params, made.state.params))  # none was due
    if chosen["impala"]:  # each power iteration goes on, in the online network alone
        assert not all(equal_to_the_bit(state.network_state, made.state.network_state))
        assert all(equal_to_the_bit(state.target_network_state, made.state.network_state))
    if chosen["prior_scale"]:
        assert all(equal_to_the_bit(state.prior_params, made.state.prior_params))
    else:
        assert state.prior_params is None
    leaves, before = (np.asarray(s.priorities.leaves) for s in (replay_state, made.replay_state))
    np.testing.assert_array_equal(leaves > 0, before > 0)
    assert (leaves > 0).sum() > 10
    assert np.array_equal(leaves, before) == (chosen["prioritization"] == "uniform")
    if chosen["prioritization"] == "rank":  # the first call sorted
        ranks = replay_state.priorities.ranks
        assert np.isfinite(np.asarray(ranks.sorted)).sum() == (before > 0).sum()
        assert made.replay_state.priorities.ranks.added > 0
        assert ranks.added == 0

    @quick_jit
    def acts(state, actor, step):
        seen = made.agent.act(state, actor, step, TICKS)
        voters = actor.replace(head=jnp.full_like(actor.head, learning.ALL_VOTE))
        return seen, made.agent.act_in_evaluation(state, voters, step, TICKS)

    step = jax.tree.map(lambda x: x[0], steps_of(spec)[0])
    for action, actor in acts(state, made.actor, step):
        assert action.shape == (4,)
        assert np.all((np.asarray(action) >= 0) & (np.asarray(action) < SPEC.num_actions))
        assert shapes(actor) == shapes(made.actor)
        np.testing.assert_array_equal(actor.stack[:, -1], step.frame)
        assert np.all(np.asarray(actor.head) < chosen["heads"])


# --- One switch at a time -----------------------------------------------------------------------

# Rainbow by its six switches over `dqn`, without its file.
REST = {"optimizer.max_gradient_norm": 10.0}
ACTING = {"agent.epsilon_start": 0.0, "agent.epsilon_end": 0.0}
RAINBOW = {
    "double": {"agent.double": True},
    "dueling": {"network.dueling": "mean"},
    "noisy": {"network.noisy": "factorised"},
    "categorical": {"network.atoms": 11},  # 51 compile longer
    "n_step": {"replay.n_step": 3},
    "prioritised": {"replay.priority_exponent": 0.5},
}
OFF = {
    "double": {"agent.double": False},
    "dueling": {"network.dueling": "none"},
    "noisy": {"network.noisy": "none"},
    "categorical": {"network.atoms": 1},
    "n_step": {"replay.n_step": 1},
    "prioritised": {"replay.priority_exponent": 0.0},
}


def load(agent, overrides):
    base = dict(TINY)
    early = {"train.steps": 4000, "train.learning_starts_steps": 4 * TICKS}
    early |= {"network.atoms": 11} if agent == "rainbow" else {}
    return config_lib.load_config(
        env="CartPole-v1",
        agent=agent,
        overrides=base | early | {"agent.target_period_steps": 400} | overrides,
    )


def program(agent, *layers):
    """What an agent does, before it is compiled: its start and its learning."""
    overrides = {name: value for layer in layers for name, value in layer.items()}
    return learning_helpers.program(load(agent, overrides))


def differ(one, other):
    if jax.tree.structure(one) != jax.tree.structure(other) or shapes_of(one) != shapes_of(other):
        return True
    return not all(equal_to_the_bit(one, other))


def shapes_of(tree):
    return [x.shape for x in jax.tree.leaves(tree)]


def test_rainbow_learns_what_its_six_switches_learn():
    """The agent's name and file mean nothing: only fields do."""
    rainbow = program("rainbow")
    assert rainbow == program("dqn", REST, ACTING, *RAINBOW.values())
    assert rainbow != program("rainbow", OFF["double"])


@pytest.mark.parametrize("switch", RAINBOW)
def test_rainbow_less_a_switch_is_dqn_with_the_others(switch):
    """To the field; equal fields learn the same, by the test above."""

    def fields(agent, *layers):
        merged = {name: value for layer in layers for name, value in layer.items()}
        sections = load(agent, merged).sections
        return {name: section.model_dump() | {"name": ""} for name, section in sections.items()}

    others = [layer for name, layer in RAINBOW.items() if name != switch]
    assert fields("rainbow", OFF[switch]) == fields("dqn", REST, ACTING, *others)
    assert fields("rainbow", OFF[switch]) != fields("rainbow")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"replay.prioritization": "rank"}, "priority_exponent = 0: must be above 0"),
        (
            {"replay.mask_distribution": "poisson", "replay.mask_probability": 0.5},
            "mask_probability = 0.5: must be 1",
        ),
    ],
)
def test_combinations_that_mean_nothing_are_refused(overrides, words):
    with pytest.raises(config_lib.ConfigError, match=words):
        config_lib.load_config(overrides=overrides)


def test_double_changes_nothing_for_c51_while_online_and_target_are_equal():
    made = {
        double: make(small(agent__double=double, network__atoms=11, network__dueling="mean"))
        for double in (False, True)
    }
    one, other = (after(made[double], 1)[0].params for double in (False, True))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    assert differ(one, made[False].state.params)
    # With a target of its own it does.
    apart = []
    for double in (False, True):
        parts = made[double]
        shifted = jax.tree.map(lambda x: -x, parts.state.target_params)
        parts = parts._replace(state=parts.state.replace(target_params=shifted))
        apart.append(after(parts, 1)[0].params)
    assert differ(*apart)
