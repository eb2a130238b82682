"""The speed of whole training loops, ours and a peer's."""

import contextlib
import functools
import gc
import io
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jdqn import loops
from jdqn.config import Config, with_overrides
from jdqn.tools import cleanrl, peers
from jdqn.tools.figures import Row, peak_host_gb

PEER_STEPS = 4_000  # of a peer in a round


def loop_rate(config: Config, *, steps: int) -> Row:
    """Agent steps per second of each seed while learning, by the log of the training loop itself.

    Args:
      config: what is trained; learning starts as early as it may.
      steps: agent steps to measure.
    """
    # Not more log events than a run has: each looks at a thousand held-out states.
    log_period = max(steps // 4, 4 * max(config.env.num_envs, config.train.update_period_steps))
    short = shortened(config, log_periods=6, log_period_steps=log_period)
    start = short.train.learning_starts_steps
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        result = loops.train(short, run_dir=pathlib.Path(folder) / "run")
        if result.stopped_by:
            raise SystemExit(128 + result.stopped_by)
        lines = (result.run_dir / "metrics.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    # The first log event after the start holds the compilation.
    rates = [row["steps_per_second"] for row in log if row["steps"] > start + 2 * log_period]
    seeds = config.train.num_seeds
    several = f", each of {seeds} seeds" if seeds > 1 else ""
    period = config.train.update_period_steps
    note = f"update every {period}{several}, median of {len(rates)} log events"
    return Row("whole loop", float(np.median(rates)), "steps/s", note)


def shortened(config: Config, *, log_periods: int, log_period_steps: int) -> Config:
    """A run that does nothing but train, from as early as it may on, for so many log periods."""
    start = max(config.replay.batch_size, 64 * config.env.num_envs)
    return with_overrides(
        config,
        train__learning_starts_steps=start,
        train__steps=start + log_periods * log_period_steps,
        train__log_period_steps=log_period_steps,
        train__eval_episodes=0,
        train__checkpoint_period_steps=0,
        train__checkpoint_replay=False,
        train__stop_return=None,
    )


def bench_loop(config: Config, *, steps: int) -> Iterator[Row]:
    """The speed of the training loop, and the memory that it took."""
    yield loop_rate(config, steps=steps)
    yield from peak_memory("loop")
    gc.collect()  # its replay, before the stages fill one of their own


def peak_memory(what: str) -> Iterator[Row]:
    """The most memory that the process has held so far."""
    yield Row(f"peak host memory, {what}", peak_host_gb(), "GB")
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        yield Row(f"peak device memory, {what}", stats["peak_bytes_in_use"] / 1e9, "GB")


def bench_peer(config: Config, *, steps: int, peer: str, rounds: int) -> Iterator[Row]:
    """The loop and another library's, by turns, with the same batch and update period.

    Args:
      config: what is trained.
      steps: agent steps of ours in a round.
      peer: `sb3`, with one environment, 8 and as many as ours, or `cleanrl=SCRIPT`, with one.
      rounds: each measures ours once and each of theirs.

    Yields:
      Every rate; at the end the ratios, whose spread says what they are worth.
    """
    theirs = _rates_of(config, peer)
    ratios: dict[str, list[float]] = {name: [] for name in theirs}
    for number in range(1, rounds + 1):
        own = loop_rate(config, steps=steps)
        yield own
        for name, measure in theirs.items():
            rate = measure()
            ratios[name].append(own.value / rate)
            yield Row(name, rate, "steps/s", f"round {number} of {rounds}")
    for name, values in ratios.items():
        note = f"median of {rounds} rounds, {min(values):.2f} to {max(values):.2f}"
        yield Row(f"jdqn / {name}", float(np.median(values)), "×", note)


def _rates_of(config: Config, peer: str) -> dict[str, Callable[[], float]]:
    """What measures a peer, by its name and how many environments it has."""
    if peer != "sb3":
        script = pathlib.Path(peer.removeprefix("cleanrl="))
        return {"CleanRL": lambda: cleanrl.steps_per_second(script, config, steps=PEER_STEPS)}

    def rate(num_envs: int) -> float:
        rival = with_overrides(config, env__num_envs=num_envs)
        return peers.sb3_steps_per_second(rival, steps=PEER_STEPS)

    counts = [n for n in (1, 8) if n < config.env.num_envs] + [config.env.num_envs]
    return {f"SB3, {n} environments": functools.partial(rate, n) for n in counts}
