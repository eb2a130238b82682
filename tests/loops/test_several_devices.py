"""Both loops over several devices."""

import re

import jax
import numpy as np
import pytest
from devices_helpers import needs_several
from helpers import tiny
from runs_helpers import log, table

from jdqn import config as config_lib
from jdqn import devices, envs, loops
from jdqn.devices import WHOLE
from jdqn.loops import fused, shared

pytestmark = [needs_several, pytest.mark.usefixtures("quick_compilation")]

NUM_TICKS = 24


def parts_of(num_devices, **overrides):
    """The fused loop of eight environments on some devices."""
    config = tiny(
        "jdqn/Chain",
        **{
            "env__num_envs": 8,
            "train__num_devices": num_devices,
            "train__learning_starts_steps": 64,
            "network__heads": 2,
            "replay__mask_probability": 0.5,
        }
        | overrides,
    )
    env = envs.make_native_env(config, num_envs=8)
    return fused.Parts(config, env, *shared.build(config, env.spec), NUM_TICKS)


@pytest.mark.slow
def test_environments_actions_and_rows_do_not_depend_on_the_number_of_devices():
    played = []
    for num_devices in (1, 8):
        parts = parts_of(num_devices)
        (carry,) = fused.start(parts)
        carry, seen = fused._jit(fused.warm_up, parts, False, 1)(carry, 0, NUM_TICKS)
        assert len(carry.timestep.frame.sharding.device_set) == num_devices
        assert seen.reward.sharding.is_fully_replicated
        rows = carry.replay_state.rows
        plain = (rows, carry.actor.stack, carry.actor.head, carry.timestep, seen)
        played.append(jax.device_get((plain, carry.env_state.replace(key=None))))
    for x, y in zip(*map(jax.tree.leaves, played), strict=True):
        assert np.array_equal(x, y)
    assert np.unique(played[0][0][0].action).size > 1


def exchanged(text):
    """Entries of the largest array that devices exchange in an optimised program."""
    names = "all-gather|all-to-all|all-reduce|collective-permute|collective-broadcast"
    sizes = [0]
    for line in text.splitlines():
        if re.search(rf" (?:{names})(?:-start)?\(", line):
            results = line.partition("=")[2].split("(")[0] + line.partition("=")[2].split(")")[0]
            shapes = re.findall(r"\w\[([\d,]*)\]", results)
            sizes += [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]
    return max(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["proportional", "rank"])
def test_no_device_gets_anothers_part_of_the_replay(by):
    """On the optimised program: parameters and counts are exchanged, no rows or leaves."""
    by = {"replay__prioritization": by, "replay__priority_exponent": 0.6}
    parts = parts_of(8, replay__capacity=80_000, **by)
    (carry,) = fused.start(parts)
    most = sum(leaf.size for leaf in jax.tree.leaves(carry.state.params)) + 8 * NUM_TICKS * 8
    leaves = carry.replay_state.priorities.leaves
    assert most < leaves.size / 10
    program = fused._jit(fused.act_and_learn, parts, False, 2).lower(carry, 0, 16).compile()
    assert 0 < exchanged(program.as_text()) <= most
    whole = devices.placed(devices.make_mesh(parts.config), WHOLE)
    text = jax.jit(lambda x: x + 1, out_shardings=whole).lower(leaves).compile().as_text()
    assert exchanged(text) >= leaves.size


@pytest.mark.slow
def test_the_host_loop_trains_on_several_devices(tmp_path):
    runs = []
    for number in (1, 4):
        fields = {"env__num_envs": 8, "train__learning_starts_steps": 200}
        config = tiny("CartPole-v1", "rainbow", **fields, train__num_devices=number)
        runs.append(loops.train(config, run_dir=tmp_path / str(number)))
    early = [
        [row for row in table(run.run_dir / "episodes.csv") if int(row["steps"]) < 200]
        for run in runs
    ]
    assert early[0] == early[1]
    assert early[0]
    assert all(np.isfinite(row["loss"]) for row in log(runs[1].run_dir)[3:])


@pytest.mark.slow
def test_cartpole_is_learned_on_several_devices(tmp_path):
    pytest.importorskip("gymnax")  # an extra
    fields = {"train.num_devices": 4}
    config = config_lib.load_config(env="gymnax/CartPole-v1", overrides=fields)
    run_dir = loops.train(config, run_dir=tmp_path / "run").run_dir
    assert max(float(row["return_mean"]) for row in table(run_dir / "evaluations.csv")) >= 475
