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


CONFIG = tiny(
    "jdqn/Chain",
    "prioritized_rank",
    env__num_envs=8,
    train__num_devices=4,
    train__learning_starts_steps=64,
    train__schedule_steps=400,
    train__steps=240,
    train__eval_episodes=0,
)


def test_a_run_goes_on_with_as_many_devices_to_the_bit(tmp_path, capsys):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    loops.train(CONFIG, run_dir=straight)
    loops.train(with_overrides(CONFIG, train__steps=160), run_dir=stopped)
    loops.train(CONFIG, run_dir=stopped, resumes=True)
    assert_same(straight, stopped)
    assert "train.num_devices was" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(4, 1), (1, 8), (4, 2)])
def test_a_run_goes_on_with_another_number_of_devices_and_says_so(tmp_path, capsys, first, second):
    loops.train(with_overrides(CONFIG, train__num_devices=first), run_dir=tmp_path)
    again = with_overrides(CONFIG, train__steps=320, train__num_devices=second)
    result = loops.train(again, run_dir=tmp_path, resumes=True)
    assert f"train.num_devices was {first} and is {second}: batches" in capsys.readouterr().out
    assert result.steps == 320
    assert newest(tmp_path)["config"]["train"]["num_devices"] == second
    assert directory.read_record(tmp_path)["resumed"][0]["steps"] == 240
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
