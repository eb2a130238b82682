"""`--env jax:my_module:make`: the page's example, and a world that belongs to a run's seed."""

import csv
import pathlib
import re
import sys

import jax
import numpy as np
import pytest
from envs_helpers import make_native, play_native
from helpers import tiny

from jdqn import envs, loops
from jdqn.config import load_config, with_overrides
from jdqn.runs import evaluation
from jdqn.runs.trained import load_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "jax_environments.md"

# Every reward is the number that was drawn for the run. The key in the state is a typed one.
WORLD = """
import jax
import jax.numpy as jnp

class World:
    num_actions = 2

    def draw_params(self, key):
        return jax.random.uniform(key)

    def reset_env(self, key, params):
        return jnp.zeros(3, bool), key

    def step_env(self, key, state, action, params):
        return jnp.zeros(3, bool), state, params, jnp.ones((), bool), {"text": "ignored"}

make = World
"""


def as_module(text, name, tmp_path, monkeypatch):
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_drawn_once_stays_through_a_run(tmp_path, monkeypatch, capsys):
    """In training, evaluation, the command's evaluation and going on; and each seed has its own."""
    as_module(WORLD, "ones_own_world", tmp_path, monkeypatch)
    of_run = {"train__seed": 5, "train__num_seeds": 2, "train__steps": 80}
    config = tiny("jax:ones_own_world:make", network__torso="impala", **of_run)
    run_dir = tmp_path / "run"
    loops.train(config, run_dir=run_dir)
    again = with_overrides(load_config(file=run_dir / "config.toml"), train__steps=160)
    loops.train(again, run_dir=run_dir, resumes=True)
    said = capsys.readouterr()
    assert "the environments go on exactly where they were" in said.out
    assert said.out.count('network.torso = "impala" is for images: observations of (3,)') == 2
    assert said.err.count("importing ones_own_world (") == 1

    want = {str(seed): float(jax.random.uniform(envs.world_key(seed))) for seed in (5, 6)}
    assert want["5"] != want["6"]
    for name, column in (("episodes.csv", "return"), ("evaluations.csv", "return_mean")):
        rows = table(run_dir / name)
        assert {row["seed"] for row in rows} == want.keys()
        assert int(rows[-1]["steps"]) > 80
        for row in rows:
            assert float(row[column]) == pytest.approx(want[row["seed"]], rel=1e-6)
    loaded = load_run(run_dir)
    play = evaluation.make_evaluator(loaded.config, loaded.agent)
    result = play(loaded.states[1], 6, evaluation.COMMAND_SEED_OFFSET, "vote")
    assert result.return_mean == pytest.approx(want["6"], rel=1e-6)


def test_on_the_host_it_is_the_same_world_and_can_be_brought_back(tmp_path, monkeypatch):
    as_module(WORLD, "ones_own_world", tmp_path, monkeypatch)
    config = tiny("jax:ones_own_world:make", train__seed=5)
    want = float(jax.random.uniform(envs.world_key(5)))
    for seed in (5, 10_005):
        env = envs.make_env(config, seed=seed)
        env.reset()
        env.send(np.zeros(4, np.int32))
        timestep = env.recv()
        np.testing.assert_allclose(timestep.reward, want, rtol=1e-6)
        back = envs.make_env(config, seed=seed)
        assert back.restore(env.save(), timestep)
        saved = [jax.random.key_data(env._state.inner).tolist() for env in (env, back)]
        assert saved[0] == saved[1]


def test_the_example_of_the_page_is_an_environment(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    as_module(code, "my_corridor", tmp_path, monkeypatch)
    env = make_native("jax:my_corridor:make", 4)
    assert env.spec == ((2,), np.float32, 2, 3, 1.0)
    steps = play_native(env, np.full((60, 4), 2))
    assert (steps.terminated & steps.last).any()
    assert (steps.reward[steps.terminated] == 1).all()
    truncated = steps.last & ~steps.terminated
    assert truncated.any()
    np.testing.assert_array_equal(steps.first[1:], steps.last[:-1])
