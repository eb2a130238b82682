"""Trials: their order, their names, and that jdqn.train understands what they ask for."""

import pytest
from sweeps_helpers import make_plan, write

from jdqn import train
from jdqn.config import Parser, from_options
from jdqn.config.options import parse_table, parse_value
from jdqn.runs import stopping
from jdqn.tools.sweeps import plan


def test_trials_come_in_the_order_of_the_list(tmp_path):
    tables = {
        "sweep": {"games": ["jdqn/Chain", "CartPole-v1"], "agents": ["dqn", "c51"], "seeds": 2},
        "grid": {"replay": {"n_step": [1, 3]}, "agent.discount": [0.9]},
    }
    read = plan.read(write(tmp_path / "s.toml", **tables), {}, {})
    trials = read.trials()
    assert len(trials) == 16
    first = [(t.game, t.agent, t.settings["replay.n_step"], t.seed) for t in trials]
    assert first[:5] == [
        ("jdqn/Chain", "dqn", 1, 0),
        ("jdqn/Chain", "dqn", 1, 1),
        ("jdqn/Chain", "dqn", 3, 0),
        ("jdqn/Chain", "dqn", 3, 1),
        ("jdqn/Chain", "c51", 1, 0),
    ]
    assert len({trial.name for trial in trials}) == 16
    assert read.directory.as_posix() == "runs/s"


def test_a_name_stays_while_the_setting_does(tmp_path):
    before = {trial.name for trial in make_plan(tmp_path, seeds=2).trials()}
    after = {trial.name for trial in make_plan(tmp_path, seeds=[3, 1, 0]).trials()}
    assert before < after
    other = plan.read(str(tmp_path / "sweep.toml"), {}, {"replay.n_step": 3}).trials()
    assert not after & {trial.name for trial in other}


@pytest.mark.parametrize("what", ["config", "agents"])
def test_another_text_of_a_file_makes_other_trials(tmp_path, what):
    file = tmp_path / "mine.toml"
    names = []
    for n_step in (1, 3):
        file.write_text(f"[replay]\nn_step = {n_step}\n")
        value = str(file) if what == "config" else [str(file)]
        trials = make_plan(tmp_path, **{what: value}).trials()
        names += [trial.name for trial in trials]
    assert len({*names}) == 2


def test_options_lie_over_the_file(tmp_path):
    make_plan(tmp_path, seeds=5)
    options = {"sweep.agents": ["double"], "sweep.seeds": [7], "resources.at_once": 3}
    read = plan.read(str(tmp_path / "sweep.toml"), options, {"replay.n_step": 3})
    (trial,) = read.trials()
    assert (trial.agent, trial.seed) == ("double", 7)
    assert read.resources.at_once == 3
    assert "--replay.n_step=3" in trial.options
    alone = plan.read(None, {"sweep.games": ["jdqn/Chain"]}, {})
    assert [t.game for t in alone.trials()] == ["jdqn/Chain"]
    assert alone.directory.as_posix() == "runs/sweep"


VALUES = {
    "replay.n_step": 3,
    "optimizer.learning_rate": 1e-5,
    "agent.double": True,
    "network.hidden": [64, 32],
    "env.kwargs": {"sutton_barto_reward": True, "a b": "x, y"},
    "train.stop_return": "none",
    "agent.loss": "squared",
}


NESTED = {"mode": "easy", "é 😀": ["a:b", "none", "1e5", {"x": "\x7f\n\\"}], "True": "True"}


@pytest.mark.parametrize("value", [*VALUES.values(), "1e5", "true", "a b", "[1]", 0.1, 7, NESTED])
def test_a_value_is_typed_so_that_it_is_read_again(value):
    parse = parse_table if isinstance(value, dict) else parse_value
    assert parse(plan.as_option(value)) == value


@pytest.mark.parametrize("game", ["CartPole-v1", "Pong"])
def test_the_command_of_a_trial_means_what_was_planned(tmp_path, monkeypatch, game):
    """What is checked before anything starts is what is trained then."""
    seen = []
    parse = Parser.parse

    def remember(self, argv=None):
        seen.append(parse(self, argv))
        return seen[-1]

    monkeypatch.setattr(Parser, "parse", remember)
    monkeypatch.setattr(stopping, "command", lambda refuse, run: None)
    (tmp_path / "own.toml").write_text("[replay]\nbatch_size = 16\n")
    (tmp_path / "common.toml").write_text("[optimizer]\ndecay = 0.5\n")
    sweep = {
        "games": [game],
        "agents": [str(tmp_path / "own.toml")],
        "seeds": [4],
        "config": str(tmp_path / "common.toml"),
        "protocol": "nature" if game == "Pong" else "none",
    }
    read = plan.read(write(tmp_path / "s.toml", sweep=sweep, fields=VALUES), {}, {})
    (trial,) = read.trials()
    train.main([*trial.options, "--run-dir=x"])
    config = from_options(seen[0])
    assert config == read.config(game, sweep["agents"][0], {}, seed=4)
    assert (config.train.seed, config.agent.name, config.optimizer.decay) == (4, "own", 0.5)
    assert trial.name.startswith(f"{game}-own-4-")


def test_memory_is_what_is_said_or_what_atari_takes(tmp_path):
    small = make_plan(tmp_path).trials()[0].memory_bytes
    assert small == plan.PROCESS_BYTES
    assert make_plan(tmp_path, games=["Pong"]).trials()[0].memory_bytes == small + 7_056_000_000
    file = write(tmp_path / "s.toml", sweep={"games": ["Pong"]}, resources={"memory_gb": 0.5})
    assert plan.read(file, {}, {}).trials()[0].memory_bytes == 500_000_000
