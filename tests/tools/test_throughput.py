"""The speed of whole loops: which log events count, what is left behind, the peer beside it."""

import itertools
import json
import types

import jax
import pytest
from helpers import tiny

from jdqn import loops
from jdqn.tools import cleanrl, peers, throughput
from jdqn.tools.figures import Row


@pytest.fixture
def trained(monkeypatch):
    """Training that takes no time: what it was asked for, and the signal that ends it."""
    seen = types.SimpleNamespace(fields=None, stopped_by=0)

    def train(config, run_dir):
        print("a line of progress")
        seen.fields = config.train
        first = config.train.learning_starts_steps + 2 * config.train.log_period_steps
        run_dir.mkdir()
        with (run_dir / "metrics.jsonl").open("w") as file:
            for steps in range(16, config.train.steps + 1, 16):
                rate = 1.0 if steps <= first else steps  # slow, it compiles
                file.write(json.dumps({"steps": steps, "steps_per_second": rate}) + "\n")
        return types.SimpleNamespace(run_dir=run_dir, stopped_by=seen.stopped_by)

    monkeypatch.setattr(loops, "train", train)
    return seen


def test_a_rate_is_the_median_of_log_events_after_the_compilation(trained, capsys):
    row = throughput.loop_rate(tiny(train__stop_return=1.0), steps=64)
    assert row.value == (304 + 320 + 336 + 352) / 4
    assert "update every 4, median of 4 log events" in row.note
    fields = trained.fields
    assert (fields.learning_starts_steps, fields.log_period_steps) == (256, 16)
    assert (fields.eval_episodes, fields.checkpoint_period_steps) == (0, 0)
    assert fields.stop_return is None
    assert capsys.readouterr().out == ""


def test_a_signal_ends_the_measurement(trained):
    trained.stopped_by = 15
    with pytest.raises(SystemExit) as info:
        throughput.loop_rate(tiny(), steps=64)
    assert info.value.code == 128 + 15


@pytest.mark.usefixtures("quick_compilation")
def test_the_loop_gives_its_replay_back_before_stages_are_timed():
    """Two replays of a million frames would not fit into 16 GB."""
    capacity = 4 * 1_237  # of no other array
    config = tiny(replay__capacity=capacity, replay__importance_anneal_steps=100)
    rows = list(throughput.bench_loop(config, steps=64))
    assert [row.stage for row in rows] == ["whole loop", "peak host memory, loop"]
    assert all(row.value > 0 for row in rows)
    assert not [x for x in jax.live_arrays() if x.shape[:2] == (1_237, 4)]


def test_a_device_that_counts_its_memory_is_asked_for_the_peak(monkeypatch):
    device = types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 3 * 10**9})
    monkeypatch.setattr(jax, "devices", lambda: [device])
    _, row = throughput.peak_memory("loop")
    assert row == Row("peak device memory, loop", 3.0, "GB")


def test_a_peer_is_measured_by_turns_with_one_environment_and_more(monkeypatch):
    asked = []
    rates = itertools.count(1)

    def theirs(config, *, steps):
        asked.append((config.train.update_period_steps, config.env.num_envs))
        return 10.0 * config.env.num_envs

    def ours(config, *, steps):
        asked.append("ours")
        return Row("whole loop", 100.0 * next(rates), "steps/s")

    monkeypatch.setattr(peers, "sb3_steps_per_second", theirs)
    monkeypatch.setattr(throughput, "loop_rate", ours)
    rows = list(throughput.bench_peer(tiny(), steps=64, peer="sb3", rounds=3))
    assert asked == ["ours", (4, 1), (4, 4)] * 3
    assert [row.value for row in rows[:9]] == [100, 10, 40, 200, 10, 40, 300, 10, 40]
    assert rows[4].note == "round 2 of 3"
    assert rows[9:] == [
        Row("jdqn / SB3, 1 environments", 20.0, "×", "median of 3 rounds, 10.00 to 30.00"),
        Row("jdqn / SB3, 4 environments", 5.0, "×", "median of 3 rounds, 2.50 to 7.50"),
    ]
    config = tiny(env__num_envs=16, train__learning_starts_steps=64)
    many = throughput.bench_peer(config, steps=64, peer="sb3", rounds=1)
    assert [row.stage for row in many][1:4] == [f"SB3, {n} environments" for n in (1, 8, 16)]


def test_a_script_of_cleanrl_is_measured_too(monkeypatch):
    monkeypatch.setattr(throughput, "loop_rate", lambda *_, steps: Row("", 90.0, "steps/s"))
    monkeypatch.setattr(cleanrl, "steps_per_second", lambda script, *_, steps: float(str(script)))
    _, theirs, ratio = throughput.bench_peer(tiny(), steps=64, peer="cleanrl=45", rounds=1)
    assert theirs.value == 45
    assert ratio.value == 2
