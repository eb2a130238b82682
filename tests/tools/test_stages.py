"""What the benchmark measures: every stage, and the whole loop."""

import itertools

import jax
import numpy as np
import pytest
from helpers import tiny

from jdqn.tools import figures, floor, stages, throughput

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def measured_briefly(monkeypatch):
    """A few calls for each figure."""
    for module in (stages, floor):
        monkeypatch.setattr(
            module, "median_ms", lambda call, calls: figures.median_ms(call, min(calls, 3))
        )


def test_bench_measures_every_stage():
    # The same programs in the loop, whose length and start of learning are its own.
    config = tiny(replay__importance_anneal_steps=100, train__learning_starts_steps=256)
    rows = [
        *throughput.bench_loop(config, steps=64),
        *stages.bench_stages(config, seconds=0.05),
    ]
    found = {row.stage: row.value for row in rows}
    expected = {
        "whole loop",
        "act",
        "add",
        "sample",
        "update",
        "floor of an update",
        "update / floor",
    }
    assert expected < set(found)
    assert all(np.isfinite(value) and value > 0 for value in found.values())


def test_the_loop_gives_its_replay_back_before_stages_are_timed():
    """Two replays of a million frames would not fit into 16 GB."""
    capacity = 4 * 1_237  # of no other array
    config = tiny(replay__capacity=capacity, replay__importance_anneal_steps=100)
    rows = list(throughput.bench_loop(config, steps=64))
    assert [row.stage for row in rows] == ["whole loop", "peak host memory, loop"]
    assert all(row.value > 0 for row in rows)
    assert not [x for x in jax.live_arrays() if x.shape[:2] == (1_237, 4)]


def test_bench_measures_the_sort_of_rank_based_replay():
    config = tiny(replay__prioritization="rank", replay__priority_exponent=0.7)
    rows = stages.bench_stages(config, seconds=0.05)
    found = {row.stage: row for row in itertools.islice(rows, 6)}
    assert found["refresh of ranks"].value > 0
    assert "once in 1000 updates" in found["refresh of ranks"].note
    assert found["draw + priority update"].value > 0
