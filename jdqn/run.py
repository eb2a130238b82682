"""What happens beside both loops: logs, evaluations, checkpoints. Nothing here trains."""

import contextlib
import datetime
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import psutil

from jdqn import agent as agent_lib
from jdqn import checkpoint, evaluate, metrics, priorities, replay
from jdqn.config import Config, ConfigError
from jdqn.records import Timestep

HELD_OUT_STATES = 1_000
# One for each seed.
States = Sequence[agent_lib.AgentState]
Learned = Sequence[dict[str, jax.Array]]


class Result(NamedTuple):
    """What a finished run leaves."""

    run_dir: pathlib.Path
    steps: int  # agent steps of one seed
    episodes: int  # of all seeds
    mean_return: float | None  # of the last 100 training episodes, mean over seeds
    evaluations: tuple[metrics.Evaluation, ...]  # the last one of each seed
    state: agent_lib.AgentState  # leaves [num_seeds, ...] where there are several
    stopped_by: int  # the signal that ended the run early; 0: none

    @property
    def evaluation(self) -> metrics.Evaluation | None:
        """The last evaluation of the first seed."""
        return self.evaluations[0] if self.evaluations else None


class Run:
    """The run directory and the progress of one run, of one seed or several."""

    def __init__(
        self,
        cfg: Config,
        run_dir: str | pathlib.Path | None,
        evaluator: evaluate.Evaluator,
        agent: agent_lib.Agent,
        memory: replay.Replay,
        command: str,
    ):
        fields = cfg.train
        path = pathlib.Path(run_dir) if run_dir else default_run_dir(cfg)
        self._cfg, self._evaluate = cfg, evaluator
        self._diagnose = jax.jit(agent.diagnose)
        self.held_out: Sequence[jax.Array] = ()  # what each seed's diagnostics are taken on
        self._seeds = range(fields.seed, fields.seed + fields.num_seeds)
        self._trackers = [metrics.EpisodeTracker(cfg.env.num_envs) for _ in self._seeds]
        self._directory = metrics.RunDirectory(path, cfg, command)
        several = f"s {self._seeds[0]} to {self._seeds[-1]}" if len(self._seeds) > 1 else ""
        self._progress = metrics.Progress(
            f"{cfg.agent.name} on {cfg.env.name}, seed{several or f' {fields.seed}'}, "
            f"{fields.steps:,} steps; replay {memory.capacity:,} transitions, "
            f"{memory.num_bytes * len(self._seeds) / 1e9:.2f} GB on "
            f"{jax.devices()[0].device_kind}; writing {path}",
            fields.steps,
        )
        self._started = self._logged_at = time.monotonic()
        self._steps = self._seen_steps = self._logged_steps = self._updates = 0
        self._evaluated: tuple[metrics.Evaluation, ...] = ()
        self._evaluated_steps = 0
        self._reached_steps: dict[int, int] = {}  # by seed, where stop_return was reached

    def book(self, tick: int, timesteps: Sequence[Timestep]) -> None:
        """Books one tick, a timestep for each seed."""
        self._steps = int(agent_lib.steps_at(self._cfg, tick))
        if agent_lib.learns_at(self._cfg, tick):
            self._updates += agent_lib.updates_per_call(self._cfg)
        for seed, tracker, timestep in zip(self._seeds, self._trackers, timesteps, strict=True):
            ended = tracker.add(timestep)
            self._directory.episodes(self._steps, seed, ended)
            if ended and tracker.reached(self._cfg.train.stop_return):
                self._reached_steps.setdefault(seed, self._steps)

    def look(self, states: States, learned: Learned) -> bool:
        """Logs, evaluates and saves what has come due since the last look.

        Returns whether every seed has reached `stop_return`.
        """
        fields = self._cfg.train
        if self._due(fields.log_period_steps):
            self._log(states, learned)
        if self._due(fields.checkpoint_period_steps):
            self._checkpoint(states)
        if fields.eval_episodes and self._due(fields.eval_period_steps):
            self._run_evaluation(states)
        self._seen_steps = self._steps
        return len(self._reached_steps) == len(self._seeds)

    def _due(self, period_steps: int) -> bool:
        """Whether a multiple of a period was passed since the last look."""
        return period_steps > 0 and self._steps // period_steps > self._seen_steps // period_steps

    def _log(self, states: States, learned: Learned) -> None:
        now = time.monotonic()
        # Evaluation time is not training time: _run_evaluation moves _logged_at on.
        rate = (self._steps - self._logged_steps) / max(now - self._logged_at, 1e-9)
        tick = self._steps // self._cfg.env.num_envs - 1
        diagnosed: list[Any] = [{}] * len(self._seeds)
        if self.held_out:
            pairs = zip(states, self.held_out, strict=True)
            diagnosed = jax.device_get([self._diagnose(*pair) for pair in pairs])
        rows = []
        for seed, tracker, values, found in zip(
            self._seeds, self._trackers, jax.device_get(learned), diagnosed, strict=True
        ):
            row: dict[str, Any] = {} if len(self._seeds) == 1 else {"seed": seed}
            row |= {
                "updates": self._updates,
                "episodes": tracker.num_episodes,
                "episode_return": tracker.recent_mean("episode_return"),
                "episode_length": tracker.recent_mean("length"),
                "epsilon": float(agent_lib.training_epsilon(self._cfg, tick)),
                **{name: float(value) for name, value in (values | found).items()},
                "steps_per_second": rate,
                "seconds": now - self._started,
            }
            self._directory.log(self._steps, row)
            rows.append(row)
            bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
            if bad:
                where = f"at step {self._steps:,}, seed {seed}"
                self._progress.say(f"warning: {', '.join(bad)} not finite {where}")
        self._progress.update(self._steps, _mean_row(rows))
        self._logged_at, self._logged_steps = now, self._steps

    def _run_evaluation(self, states: States) -> None:
        began, policy = time.monotonic(), self._cfg.agent.eval_policy
        self._evaluated = tuple(
            self._evaluate(one, seed + evaluate.TRAINING_SEED_OFFSET, policy)
            for seed, one in zip(self._seeds, states, strict=True)
        )
        self._evaluated_steps = self._steps
        for seed, result in zip(self._seeds, self._evaluated, strict=True):
            self._directory.evaluation(self._steps, seed, policy, result)
            of_seed = f", seed {seed}" if len(self._seeds) > 1 else ""
            self._progress.say(
                f"evaluation at {self._steps:,} steps{of_seed}: {result.episodes} full games, "
                f"mean {result.return_mean:.2f} ± {result.return_std_error:.2f}, median "
                f"{result.return_median:.2f}"
            )
        self._logged_at += time.monotonic() - began

    def _checkpoint(self, states: States) -> None:
        keep = self._cfg.train.checkpoint_keep
        checkpoint.save(self._directory.path, self._steps, _joined(states), keep=keep)

    def finish(self, states: States, learned: Learned, *, stopped_by: int) -> Result:
        """The last log event, checkpoint and evaluation."""
        seconds = time.monotonic() - self._started
        if self._logged_steps < self._steps:
            self._log(states, learned)
        self._checkpoint(states)
        evaluates = self._cfg.train.eval_episodes and not stopped_by
        if evaluates and self._evaluated_steps != self._steps:
            self._run_evaluation(states)
        path = self._directory.path
        if stopped_by:
            self._progress.say(
                f"stopped at {self._steps:,} steps; parameters saved, see how they play: "
                f"python -m jdqn.evaluate {path}"
            )
        for seed, steps in self._reached_steps.items():
            self._progress.say(
                f"seed {seed} reached a mean return of {self._cfg.train.stop_return:g} over the "
                f"last 100 episodes after {steps:,} steps; the run took {seconds:,.0f} s"
            )
        returns = [tracker.recent_mean("episode_return") for tracker in self._trackers]
        means = [mean for mean in returns if mean is not None]
        return Result(
            run_dir=path,
            steps=self._steps,
            episodes=sum(tracker.num_episodes for tracker in self._trackers),
            mean_return=sum(means) / len(means) if means else None,
            evaluations=self._evaluated,
            state=_joined(states),
            stopped_by=stopped_by,
        )

    def close(self) -> None:
        """Closes the files and the progress bar."""
        self._progress.close()
        self._directory.close()


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over seeds of each figure that every seed has."""
    shared = [k for k in rows[0] if all(row.get(k) is not None for row in rows)]
    return {k: sum(row[k] for row in rows) / len(rows) for k in shared}


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yields a list that SIGINT and SIGTERM append to, so that the loop ends between ticks."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received:  # the second time, at once
            raise KeyboardInterrupt
        received.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, for instance in a notebook's executor
        old = {}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _joined(states: States) -> Any:
    """One tree, with a leading axis where there are several seeds."""
    return states[0] if len(states) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *states)


def held_out(memory: replay.Replay) -> Callable[[replay.ReplayState], jax.Array]:
    """A function of the replay's state: up to 1,000 observations in it, `[B, S, ...]`.

    The mean of max Q over fixed states is the picture of van Hasselt et al. 2015. The draw has a
    key of its own and is uniform, whatever the agent draws by.
    """
    uniform = priorities.uniforms(jax.random.key(0), min(HELD_OUT_STATES, memory.capacity))

    def draw(state: replay.ReplayState) -> jax.Array:
        leaves = jnp.sign(state.priorities.leaves)
        state = state.replace(priorities=priorities.Priorities(leaves, leaves.sum(axis=(1, 2))))
        return memory.sample(state, uniform, 0).obs

    return jax.jit(draw)


def check_memory(cfg: Config, memory: replay.Replay) -> None:
    """Raises ConfigError where the replay cannot fit on the device."""
    device = jax.devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        available = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    else:
        available = psutil.virtual_memory().available
    num_bytes = memory.num_bytes * cfg.train.num_seeds
    if num_bytes > available:
        seeds = f" for {cfg.train.num_seeds} seeds" if cfg.train.num_seeds > 1 else ""
        raise ConfigError(
            f"replay.capacity = {cfg.replay.capacity}: needs {num_bytes:,} bytes{seeds}, "
            f"{available:,} are available on {device.device_kind}"
        )


def default_run_dir(cfg: Config) -> pathlib.Path:
    """`runs/ENV-AGENT-SEED-TIME`."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = cfg.env.name.replace("/", "_")
    return pathlib.Path("runs") / f"{name}-{cfg.agent.name}-{cfg.train.seed}-{now}"
