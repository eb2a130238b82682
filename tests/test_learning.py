"""Every agent learns: minutes each, left out by default (`python -m pytest -m slow`)."""

import pytest
from runs_helpers import table

from jdqn import config as config_lib
from jdqn import train

HEADS = {"network.heads": 3}  # ten take an hour


@pytest.mark.slow
@pytest.mark.parametrize("agent", config_lib.names("agents"))
def test_every_agent_solves_cartpole_in_most_seeds(tmp_path, agent):
    """The preset as it stands; solved: an evaluation of 20 full games has a mean of 475 or more."""
    settings = {"train.num_seeds": 5} | (HEADS if agent.startswith("bootstrapped") else {})
    config = config_lib.load_config(env="gymnax/CartPole-v1", agent=agent, overrides=settings)
    train.train(config, run_dir=tmp_path / "run")
    best: dict[str, float] = {}
    for row in table(tmp_path / "run" / "evaluations.csv"):
        best[row["seed"]] = max(best.get(row["seed"], 0.0), float(row["return_mean"]))
    assert len(best) == 5
    assert sum(value >= 475 for value in best.values()) >= 3, best


@pytest.mark.slow
def test_cartpole_is_solved(tmp_path):
    """On the host too; the best of the evaluations in 3 of 3 seeds."""
    for seed in range(3):
        config = config_lib.load_config(env="CartPole-v1", overrides={"train.seed": seed})
        run_dir = train.train(config, run_dir=tmp_path / str(seed)).run_dir
        returns = [float(row["return_mean"]) for row in table(run_dir / "evaluations.csv")]
        assert max(returns) >= 475
