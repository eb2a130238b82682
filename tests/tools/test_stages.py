"""What the benchmark measures of every stage."""

import itertools

import numpy as np
import pytest
from helpers import tiny

from jdqn.tools import figures, floor, stages

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def measured_briefly(monkeypatch):
    """A few calls for each figure."""
    for module in (stages, floor):
        monkeypatch.setattr(
            module, "median_ms", lambda call, calls: figures.median_ms(call, min(calls, 3))
        )


def test_bench_measures_every_stage():
    rows = stages.bench_stages(tiny(), seconds=0.05)
    found = {row.stage: row.value for row in rows}
    expected = {"act", "add", "sample", "update", "floor of an update", "update / floor"}
    assert expected < set(found)
    assert all(np.isfinite(value) and value > 0 for value in found.values())


def test_bench_measures_the_sort_of_rank_based_replay():
    config = tiny(replay__prioritization="rank", replay__priority_exponent=0.7)
    rows = stages.bench_stages(config, seconds=0.05)
    found = {row.stage: row for row in itertools.islice(rows, 6)}
    assert found["refresh of ranks"].value > 0
    assert "once in 1000 updates" in found["refresh of ranks"].note
    assert found["draw + priority update"].value > 0
