"""Periods are agent steps, whatever the loop: what is due when."""

import contextlib

import jax
import psutil
import pytest
from helpers import tiny
from runs_helpers import log

from jdqn import loops
from jdqn.runs.hooks import Hooks

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_periods_mean_the_same_in_both_loops(tmp_path):
    """None of them a multiple of another, nor of the environments, nor of the update period.

    After the first of each nothing is traced or compiled anew.
    """
    config = tiny(
        "jdqn/Chain",
        train__steps=402,
        train__update_period_steps=8,
        train__log_period_steps=90,
        train__eval_period_steps=42,
        train__checkpoint_period_steps=50,
        train__checkpoint_keep=20,
    )
    with compilations() as happened:
        hooks = Hooks(on_log=lambda row: happened.append(f"logged {row['steps']}"))
        on_host = loops.train(config, run_dir=tmp_path / "host", on_host=True, hooks=hooks)
        of_host = len(happened)
        fused = loops.train(config, run_dir=tmp_path / "fused", hooks=hooks)
    for told in (happened[:of_host], happened[of_host:]):
        assert len(told[: told.index("logged 180")]) > 10  # compilations are heard
        assert told[told.index("logged 180") :] == [f"logged {n}" for n in (180, 272, 360, 404)]
    lines = [(tmp_path / d / "evaluations.csv").read_text().splitlines() for d in ("host", "fused")]
    assert lines[0] == lines[1]
    due = [m for m in range(4, 405, 4) if m // 42 > (m - 4) // 42]
    assert len(due) == 9
    assert [int(line.split(",")[0]) for line in lines[0][1:]] == [*due, 404]
    for kind in ("*.manifest", "metrics.jsonl"):
        found = [sorted(p.name for p in (tmp_path / d).rglob(kind)) for d in ("host", "fused")]
        assert found[0] == found[1]
    logged = [[row["steps"] for row in log(tmp_path / d)] for d in ("host", "fused")]
    assert logged[0] == logged[1] == [92, 180, 272, 360, 404]
    assert on_host.steps == fused.steps == 404


@contextlib.contextmanager
def compilations():
    """A list that grows by a line whenever jax traces or compiles."""
    happened = []

    def listen(event, _duration, **_):
        if event.startswith("/jax/core/compile"):
            happened.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield happened
    jax.monitoring.unregister_event_duration_listener(listen)


def test_both_loops_stop_at_the_same_step(tmp_path):
    config = tiny(
        "jdqn/Chain",
        train__steps=4000,
        train__learning_starts_steps=4000,
        train__eval_episodes=0,
        train__log_period_steps=300,
        train__stop_return=-1.0,
    )
    results = [
        loops.train(config, run_dir=tmp_path / str(on_host), on_host=on_host)
        for on_host in (False, True)
    ]
    assert results[0].steps == results[1].steps < 4000
    assert results[0].steps % 300 == 0


@pytest.mark.slow
@pytest.mark.parametrize(("on_host", "steps"), [(True, 20_000), (False, 100_000)])
def test_memory_does_not_grow(tmp_path, on_host, steps):
    """Once every kind of event has been: megabytes of the process from a quarter of the run on."""
    config = tiny(
        "jdqn/Chain",
        env__num_envs=8,
        train__steps=steps,
        train__log_period_steps=steps // 40,
        train__eval_period_steps=steps // 20,
        train__checkpoint_period_steps=steps // 20,
    )
    held = []
    hooks = Hooks(on_log=lambda _: held.append(psutil.Process().memory_info().rss / 1e6))
    loops.train(config, run_dir=tmp_path / "run", on_host=on_host, hooks=hooks)
    assert len(held) == 40
    assert held[-1] - held[9] < 8, held
