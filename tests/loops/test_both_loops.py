"""One truth for both loops: the fused loop learns what the host loop learns."""

import json

import chex
import jax
import numpy as np
import pytest
from helpers import tiny

from jdqn import loops

pytest.importorskip("gymnax")  # an extra


def both_loops(tmp_path, **overrides):
    """Parameters of the host loop and of the fused loop, their episodes checked to be the same."""
    config = tiny("gymnax/CartPole-v1", train__eval_episodes=0, **overrides)
    on_host = loops.train(config, run_dir=tmp_path / "host", on_host=True)
    one_program = loops.train(config, run_dir=tmp_path / "fused")
    episodes = [(tmp_path / d / "episodes.csv").read_text() for d in ("host", "fused")]
    assert episodes[0] == episodes[1]
    assert on_host.episodes == one_program.episodes > 0
    return [jax.tree.map(np.asarray, r.state.params) for r in (on_host, one_program)]


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({}, marks=pytest.mark.slow, id="uniform"),
        pytest.param(
            {"replay__priority_exponent": 0.6, "network__noisy": "factorised"},
            id="prioritised and noisy",
        ),
    ],
)
def test_host_and_fused_loop_agree_to_the_bit(tmp_path, switches):
    """Three-step double, 300 ticks, four updates a call."""
    chex.assert_trees_all_equal(
        *both_loops(
            tmp_path,
            train__steps=1200,
            train__update_period_steps=1,
            replay__n_step=3,
            agent__double=True,
            **switches,
        )
    )


def test_same_seed_same_run_to_the_bit_in_the_optimised_program(tmp_path):
    config = tiny("gymnax/CartPole-v1", train__eval_episodes=0, train__steps=200)
    one, two = (loops.train(config, run_dir=tmp_path / name) for name in ("one", "two"))
    chex.assert_trees_all_equal(*(jax.tree.map(np.asarray, r.state.params) for r in (one, two)))
    logs = [
        [row | {"seconds": 0, "steps_per_second": 0} for row in map(json.loads, path)]
        for path in ((r.run_dir / "metrics.jsonl").read_text().splitlines() for r in (one, two))
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 3


@pytest.mark.slow
def test_host_and_fused_loop_agree_where_a_call_makes_one_update(tmp_path):
    """XLA of jaxlib 0.10.2 inlines a scan of one step and rounds differently in the two loops."""
    parameters = both_loops(tmp_path, train__steps=120, train__update_period_steps=8)
    chex.assert_trees_all_close(*parameters, atol=1e-5, rtol=1e-5)
