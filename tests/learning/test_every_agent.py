"""Every agent's file: it trains for a moment, and goes with every preset."""

import json

import jax
import numpy as np
import pytest
from helpers import TINY
from learning_helpers import QUICKER, assert_finite

from jdqn import config as config_lib
from jdqn import train
from jdqn.runs import board


@pytest.fixture
def quick_compilation(monkeypatch):
    """Whatever the package compiles is compiled in a hurry."""
    jit = jax.jit

    def quick(function, compiler_options=None, **rest):
        return jit(function, compiler_options=QUICKER | (compiler_options or {}), **rest)

    monkeypatch.setattr(jax, "jit", quick)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# Nearly every component; the others learn CartPole in tests/test_learning.py.
QUICK = {"bootstrapped_rainbow"}
AGENTS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in config_lib.names("agents")
]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_trains(tmp_path, agent):
    overrides = TINY | {
        "train.steps": 800,
        "train.log_period_steps": 200,
        "train.eval_episodes": 0,
    }
    full = config_lib.load_config(agent=agent)
    smaller = {"network.heads": min(full.network.heads, 3)}
    smaller["network.atoms"] = min(full.network.atoms, 11)
    smaller |= {"network.quantile_samples": 8, "network.quantile_samples_target": 8}
    config = config_lib.load_config(
        env="jdqn/Chain", agent=agent, preset="classic", overrides=overrides | smaller
    )
    result = train.train(config, run_dir=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["steps"] for row in rows] == [200, 400, 600, 800]
    for row in rows:
        assert {"loss", "gradient_norm", "q_mean"} <= set(row)
        assert all(np.isfinite(x) for x in row.values() if isinstance(x, (int, float)))
        assert not any(isinstance(x, str) for x in row.values())  # "NaN"
    assert any(name.startswith("signal_to_noise/") for name in rows[-1]) == (
        config.network.noisy != "none"
    )
    figures = rows[-1].keys() - {"steps"}
    assert {f for f in figures if board.grouped(f).startswith("other/")} == set()
    assert ("disagreement" in rows[-1]) == (config.network.heads > 1)
    assert_finite(result.state.params)


@pytest.mark.parametrize("preset", config_lib.names("presets"))
@pytest.mark.parametrize("agent", config_lib.names("agents"))
def test_every_preset_loads_with_every_agent(agent, preset):
    config = config_lib.load_config(agent=agent, preset=preset)
    assert config.agent.name == agent
    bare = config_lib.load_config(agent=agent)
    # A preset only sizes.
    for switch in ("heads", "dueling", "noisy", "value_head", "atoms", "prior_scale"):
        assert getattr(config.network, switch) == getattr(bare.network, switch)
    for switch in ("n_step", "prioritization", "priority_exponent", "mask_probability"):
        assert getattr(config.replay, switch) == getattr(bare.replay, switch)
    for switch in ("double", "munchausen_scale"):
        assert getattr(config.agent, switch) == getattr(bare.agent, switch)
