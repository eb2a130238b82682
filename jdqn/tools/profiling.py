"""A trace of the training loop, for Perfetto and TensorBoard: `python -m jdqn.bench --profile`."""

import contextlib
import gzip
import io
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from jdqn import clock, loops
from jdqn.config import Config
from jdqn.runs.hooks import Hooks
from jdqn.tools import throughput
from jdqn.tools.figures import Row

TRACED_PERIODS = 5  # log periods, one call of `learn` or more in each
BEFORE = 3  # log periods: in them all is compiled


def trace(config: Config, folder: pathlib.Path) -> Iterator[Row]:
    """Trains for a moment, and writes what happens in the loop once all is compiled.

    Args:
      config: what is trained; learning starts as early as it may.
      folder: where `plugins/profile/TIME` is made, with the files of jax's profiler.

    Yields:
      The agent steps that are in the trace, how long each program ran in a tick, and the file.
    """
    period = 4 * max(config.env.num_envs, config.train.update_period_steps)
    periods = BEFORE + TRACED_PERIODS + 1
    short = throughput.shortened(config, log_periods=periods, log_period_steps=period)
    tracer = _Tracer(folder, short.train.learning_starts_steps)
    with tempfile.TemporaryDirectory() as run, contextlib.redirect_stdout(io.StringIO()):
        result = loops.train(short, run_dir=pathlib.Path(run) / "run", hooks=Hooks(tracer.on_log))
    tracer.stop()
    if result.stopped_by > 0:
        raise SystemExit(128 + result.stopped_by)
    ticks = tracer.traced_steps / config.env.num_envs
    updates = tracer.traced_steps / config.train.update_period_steps
    calls = updates / clock.updates_per_call(config)
    note = f"{ticks:.0f} ticks, {updates:.0f} updates in {calls:.0f} calls of learn"
    yield Row("traced", tracer.traced_steps, "steps", note)
    path = max(folder.rglob("perfetto_trace.json.gz"))  # the newest: folders are named by time
    with gzip.open(path, "rt", encoding="utf-8") as file:
        programs = busy_ms(json.load(file)["traceEvents"])
    for name, ms in sorted(programs.items(), key=lambda pair: -pair[1]):
        yield Row(name, ms / ticks, "ms/tick", "any thread or stream busy with it")
    yield Row(
        "trace", path.stat().st_size / 1e6, "MB", f"{path}; see it at https://ui.perfetto.dev"
    )


def busy_ms(events: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds in which at least one thread or stream was busy with each compiled program."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        name = event.get("args", {}).get("hlo_module")
        if name is not None and event.get("ph") == "X":
            spans.setdefault(name, []).append((event["ts"], event["ts"] + event["dur"]))
    return {name: _union_us(pairs) / 1e3 for name, pairs in spans.items()}


def _union_us(spans: list[tuple[float, float]]) -> float:
    total = 0.0
    seen = float("-inf")
    for began, ended in sorted(spans):
        total += max(ended - max(began, seen), 0.0)
        seen = max(seen, ended)
    return total


class _Tracer:
    """Starts and stops jax's profiler at the ends of log periods."""

    def __init__(self, folder: pathlib.Path, start_steps: int):
        self.traced_steps = 0
        self._folder = str(folder)
        self._start_steps = start_steps
        self._periods = 0
        self._began_steps: int | None = None

    def on_log(self, row: dict[str, Any]) -> bool:
        """Counts the periods in which there is learning; True: enough."""
        if row["steps"] <= self._start_steps:
            return False
        self._periods += 1
        if self._periods == BEFORE:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._began_steps = row["steps"]
        if self._periods < BEFORE + TRACED_PERIODS:
            return False
        self.traced_steps = row["steps"] - (self._began_steps or 0)
        self.stop()
        return True

    def stop(self) -> None:
        """Ends the trace, if there is one: also where a signal has ended the run."""
        if self._began_steps is not None:
            self._began_steps = None
            jax.profiler.stop_trace()
