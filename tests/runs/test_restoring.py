"""Runs of several devices go on: on as many to the bit, on another number too, which is said."""

import jax
import numpy as np
import pytest
from devices_helpers import needs_several
from helpers import tiny
from runs_helpers import assert_same, newest

from jdqn import loops
from jdqn.config import with_overrides
from jdqn.runs import directory

pytestmark = [needs_several, pytest.mark.usefixtures("quick_compilation")]


def test_a_run_goes_on_with_as_many_devices_to_the_bit_and_with_another_number(tmp_path, capsys):
    config = tiny(
        "jdqn/Chain",
        "prioritized_rank",
        env__num_envs=8,
        train__num_devices=4,
        train__learning_starts_steps=64,
        train__schedule_steps=400,
        train__steps=320,
        train__eval_episodes=0,
    )
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    loops.train(config, run_dir=straight)
    loops.train(with_overrides(config, train__steps=160), run_dir=stopped)
    loops.train(config, run_dir=stopped, resumes=True)
    assert_same(straight, stopped)
    assert "train.num_devices was" not in capsys.readouterr().out
    again = with_overrides(config, train__steps=400, train__num_devices=1)
    result = loops.train(again, run_dir=stopped, resumes=True)
    assert "train.num_devices was 4 and is 1: batches" in capsys.readouterr().out
    assert result.steps == 400
    assert newest(stopped)["config"]["train"]["num_devices"] == 1
    assert directory.read_record(stopped)["resumed"][1]["steps"] == 320
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
