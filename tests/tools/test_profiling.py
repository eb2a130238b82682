"""A trace of the loop: what is in it, and that it ends."""

import gzip
import json
import types

import jax
import pytest
from helpers import tiny

from jdqn import loops
from jdqn.tools import profiling

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_trace_shows_what_a_tick_does_and_compiles_nothing(tmp_path):
    config = tiny(train__update_period_steps=8)
    traced, *programs, trace = profiling.trace(config, tmp_path / "new" / "trace")
    assert traced.value == 5 * 4 * 8
    assert traced.note == "40 ticks, 20 updates in 20 calls of learn"
    (path,) = (tmp_path / "new" / "trace").rglob("perfetto_trace.json.gz")
    assert str(path) in trace.note
    assert trace.value == path.stat().st_size / 1e6
    assert {"jit_act", "jit_add", "jit_learn"} <= {row.stage for row in programs}
    assert all(row.value > 0 for row in programs)
    with gzip.open(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    calls = {
        x["args"]["run_id"] for x in events if x.get("args", {}).get("hlo_module") == "jit_learn"
    }
    assert len(calls) == 20
    assert not [event for event in events if "backend_compile" in event.get("name", "")]


def test_programs_are_counted_once_where_threads_work_side_by_side():
    def event(name, ts, dur):
        return {"ph": "X", "ts": ts, "dur": dur, "args": {"hlo_module": name}}

    events = [event("a", 0, 1e3), event("a", 500, 1e3), event("a", 600, 100), event("a", 5e3, 1e3)]
    events += [event("b", 0, 2e3), {"ph": "M", "args": {"name": "thread"}}, {"ph": "X"}]
    assert profiling.busy_ms(events) == {"a": 2.5, "b": 2.0}


def test_a_run_that_is_stopped_ends_its_trace(tmp_path):
    tracer = profiling._Tracer(tmp_path, start_steps=100)
    assert not tracer.on_log({"steps": 100})
    for steps in (116, 132, 148):
        assert not tracer.on_log({"steps": steps})
    tracer.stop()
    assert list(tmp_path.rglob("perfetto_trace.json.gz"))
    with pytest.raises(RuntimeError):
        jax.profiler.stop_trace()  # there is none


def test_a_signal_ends_it(tmp_path, monkeypatch):
    stopped = types.SimpleNamespace(stopped_by=15)
    monkeypatch.setattr(loops, "train", lambda *_, **__: stopped)
    with pytest.raises(SystemExit) as info:
        list(profiling.trace(tiny(), tmp_path))
    assert info.value.code == 128 + 15
