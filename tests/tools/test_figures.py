"""What a measurement is: a median after a warm-up, and a peak of memory."""

import types

import psutil
import pytest

from jdqn.tools import figures


class Clocked:
    """A function whose result is there only some milliseconds after it is waited for."""

    def __init__(self, *durations_ms):
        self.durations_ms = durations_ms
        self.now = 0.0  # s
        self.called = []

    def __call__(self, i):
        self.called.append(i)
        return types.SimpleNamespace(block_until_ready=self.wait)

    def wait(self):
        self.now += 1e-3 * self.durations_ms[self.called[-1]]


def test_a_time_is_the_median_of_results_waited_for_after_one_warm_up(monkeypatch):
    call = Clocked(1000, 7, 500, 2)
    clock = types.SimpleNamespace(perf_counter=lambda: call.now)
    monkeypatch.setattr(figures, "time", clock)
    assert figures.median_ms(call, 3) == pytest.approx(7)
    assert call.called == [0, 1, 2, 3]


def test_peak_memory_is_in_gigabytes_and_not_below_what_is_held():
    peak = figures.peak_host_gb()
    held = psutil.Process().memory_info().rss / 1e9
    assert 0.9 * held < peak < psutil.virtual_memory().total / 1e9
