"""The loop writes in place: no whole array is copied in its compiled programs."""

import functools
import re

import jax
import numpy as np
import pytest
from helpers import tiny

from jdqn import envs, kernels
from jdqn.loops import fused, shared

pytest.importorskip("gymnax")  # an extra


def copies(text, shapes):
    """Copies in an optimised program of arrays of some shapes."""
    found = []
    for shape in shapes:
        size = ",".join(map(str, shape))
        found += re.findall(rf"= \(?\w+\[{size}\][^=]* copy(?:-start)?\(", text)
    return found


def arrays(carry, rule):
    """Shapes of the large arrays of a replay."""
    state = carry.replay_state
    rows = state.rows
    shapes = [x.shape for x in (rows.frame, rows.action, rows.reward, rows.last, rows.mask)]
    if rule != "rank":  # a sort may copy, once in a thousand updates
        shapes.append(state.priorities.leaves.shape)
    return shapes


@pytest.mark.parametrize(
    ("period", "rule"),
    [
        (8, "proportional"),
        pytest.param(4, "rank", marks=pytest.mark.slow),
        pytest.param(1, "uniform", marks=pytest.mark.slow),
        pytest.param(4, "uniform", marks=pytest.mark.slow),
    ],
)
def test_no_whole_array_is_copied_in_the_loop(period, rule):
    """On the optimised program; CI repeats it on another release of jax."""
    config = tiny(
        "gymnax/CartPole-v1",
        replay__capacity=40_000,
        replay__priority_exponent=0.0 if rule == "uniform" else 0.6,
        replay__prioritization="rank" if rule == "rank" else "proportional",
        train__update_period_steps=period,
        replay__n_step=3,
    )
    env = envs.make_native_env(config, num_envs=4)
    memory, agent = shared.build(config, env.spec)
    parts = fused.Parts(config, env, memory, agent, max_ticks=16)
    carry = jax.eval_shape(functools.partial(fused.init, parts), 0)
    large = arrays(carry, rule)
    for part in (fused.warm_up, fused.act_and_learn):
        program = kernels.jit_learning(functools.partial(part, parts), 0)
        assert copies(program.lower(carry, 0, 16).compile().as_text(), large) == []

    # Not donated: copied once, and each of them seen.
    action = jax.ShapeDtypeStruct((4,), np.int32)
    program = jax.jit(memory.add).lower(carry.replay_state, carry.timestep, action, 0).compile()
    for shape in large:
        assert copies(program.as_text(), [shape])
    if rule == "proportional":  # in the loop too
        program = jax.jit(functools.partial(fused.act_and_learn, parts)).lower(carry, 0, 16)
        assert copies(program.compile().as_text(), large)
