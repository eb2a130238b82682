"""Every agent learns: minutes each, left out by default (`python -m pytest -m slow`)."""

import csv

import pytest

from jdqn import config as config_lib
from jdqn import train

SETTINGS = {
    "train.num_seeds": 5,
    "train.update_period_steps": 2,
    "train.eval_episodes": 20,
    "agent.epsilon_eval": 0.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("agent", config_lib.names("agents"))
def test_every_agent_solves_cartpole_in_most_seeds(tmp_path, agent):
    """50,000 steps; solved: an evaluation of 20 full games with a mean of at least 475."""
    settings = SETTINGS | ({"network.heads": 3} if agent.startswith("bootstrapped") else {})
    config = config_lib.load_config(env="gymnax/CartPole-v1", agent=agent, overrides=settings)
    train.train(config, run_dir=tmp_path / "run")
    best: dict[str, float] = {}
    with (tmp_path / "run" / "evaluations.csv").open() as file:
        for row in csv.DictReader(file):
            best[row["seed"]] = max(best.get(row["seed"], 0.0), float(row["return_mean"]))
    assert len(best) == 5
    assert sum(value >= 475 for value in best.values()) >= 3, best
