"""What happens beside both loops: logs, evaluations, checkpoints. Nothing here trains."""

import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jdqn import clock, learning
from jdqn.config import Config
from jdqn.records import Timestep
from jdqn.replay import Replay
from jdqn.runs import checkpoint, counters, directory, episodes, evaluation, progress
from jdqn.runs.episodes import Evaluation

# One for each seed.
States = Sequence[learning.AgentState]
Learned = Sequence[dict[str, jax.Array]]


class Result(NamedTuple):
    """What a finished run leaves."""

    run_dir: pathlib.Path
    steps: int  # agent steps of one seed
    episodes: int  # of all seeds
    mean_return: float | None  # of the last 100 training episodes, mean over seeds
    evaluations: tuple[Evaluation, ...]  # the last one of each seed
    state: learning.AgentState  # leaves [num_seeds, ...] where there are several
    stopped_by: int  # the signal that ended the run early; 0: none

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation of the first seed."""
        return self.evaluations[0] if self.evaluations else None


class Run:
    """One run, of one seed or several: its counters, its directory, its evaluator."""

    def __init__(
        self,
        config: Config,
        run_dir: str | pathlib.Path | None,
        agent: learning.Agent,
        replay: Replay,
        evaluate: evaluation.Evaluator,
        command: str,
    ):
        fields = config.train
        path = pathlib.Path(run_dir) if run_dir else directory.default_run_dir(config)
        self._config = config
        self._evaluate = evaluate
        self._diagnose = jax.jit(agent.diagnose)
        self._seeds = range(fields.seed, fields.seed + fields.num_seeds)
        self._directory = directory.RunDirectory(path, config, command)
        self._progress = progress.Progress(_title(config, replay, path), fields.steps)
        self._started = time.monotonic()
        self._logged_at = self._started
        self._evaluations: tuple[Evaluation, ...] = ()
        self.counters = counters.start(config)
        self.held_out: Sequence[jax.Array] = ()  # what each seed's diagnostics are taken on

    def count(self, tick: int, timesteps: Sequence[Timestep]) -> None:
        """Counts one tick, a timestep for each seed, and writes down the episodes that ended."""
        self.counters, ended = counters.count(self._config, self.counters, tick, timesteps)
        for seed, finished in zip(self._seeds, ended, strict=True):
            self._directory.episodes(self.counters.steps, seed, finished)

    def report(self, states: States, learned: Learned) -> bool:
        """Logs, evaluates and saves what has come due since the last report.

        Returns whether every seed has reached `stop_return`.
        """
        fields = self._config.train
        if self._is_due(fields.log_period_steps):
            self._log(states, learned)
        if self._is_due(fields.checkpoint_period_steps):
            self._checkpoint(states)
        if fields.eval_episodes and self._is_due(fields.eval_period_steps):
            self._run_evaluation(states)
        self.counters = self.counters._replace(reported_steps=self.counters.steps)
        return counters.NOT_REACHED not in self.counters.reached_steps

    def _is_due(self, period_steps: int) -> bool:
        """Whether a multiple of a period was passed since the last report."""
        return clock.has_passed(period_steps, self.counters.reported_steps, self.counters.steps)

    def _log(self, states: States, learned: Learned) -> None:
        now = time.monotonic()
        steps = self.counters.steps
        # Evaluation time is not training time: _run_evaluation moves _logged_at on.
        logged_steps = steps - self.counters.logged_steps
        diagnosed: list[Any] = [{}] * len(self._seeds)
        if self.held_out:
            pairs = zip(states, self.held_out, strict=True)
            diagnosed = jax.device_get([self._diagnose(*pair) for pair in pairs])
        fetched = jax.device_get(learned)
        rows = []
        for i, seed in enumerate(self._seeds):
            row: dict[str, Any] = {} if len(self._seeds) == 1 else {"seed": seed}
            row |= self._figures(i, fetched[i] | diagnosed[i])
            row["steps_per_second"] = logged_steps / max(now - self._logged_at, 1e-9)
            row["seconds"] = now - self._started
            self._directory.log(steps, row)
            rows.append(row)
            self._warn_of_non_finite(seed, row)
        self._progress.update(steps, _mean_row(rows))
        self._logged_at = now
        self.counters = self.counters._replace(logged_steps=steps)

    def _figures(self, i: int, values: dict[str, Any]) -> dict[str, Any]:
        """What a log event says of a seed, wall-clock apart."""
        of_seed = self.counters.episodes[i]
        tick = self.counters.steps // self._config.env.num_envs - 1
        return {
            "updates": self.counters.updates,
            "episodes": of_seed.num_episodes,
            "episode_return": episodes.mean_return(of_seed),
            "episode_length": episodes.mean_length(of_seed),
            "epsilon": float(clock.epsilon(self._config, tick)),
            **{name: float(value) for name, value in values.items()},
        }

    def _warn_of_non_finite(self, seed: int, row: dict[str, Any]) -> None:
        bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
        if bad:
            where = f"at step {self.counters.steps:,}, seed {seed}"
            self._progress.say(f"warning: {', '.join(bad)} not finite {where}")

    def _run_evaluation(self, states: States) -> None:
        began = time.monotonic()
        policy = self._config.agent.eval_policy
        steps = self.counters.steps
        self._evaluations = tuple(
            self._evaluate(one, seed + evaluation.TRAINING_SEED_OFFSET, policy)
            for seed, one in zip(self._seeds, states, strict=True)
        )
        self.counters = self.counters._replace(evaluated_steps=steps)
        for seed, result in zip(self._seeds, self._evaluations, strict=True):
            self._directory.evaluation(steps, seed, policy, result)
            of_seed = f", seed {seed}" if len(self._seeds) > 1 else ""
            self._progress.say(
                f"evaluation at {steps:,} steps{of_seed}: {result.episodes} full games, "
                f"mean {result.return_mean:.2f} ± {result.return_std_error:.2f}, median "
                f"{result.return_median:.2f}"
            )
        self._logged_at += time.monotonic() - began

    def _checkpoint(self, states: States) -> None:
        keep = self._config.train.checkpoint_keep
        checkpoint.save(self._directory.path, self.counters.steps, _joined(states), keep=keep)

    def finish(self, states: States, learned: Learned, *, stopped_by: int) -> Result:
        """The last log event, checkpoint and evaluation."""
        seconds = time.monotonic() - self._started
        steps = self.counters.steps
        if self.counters.logged_steps < steps:
            self._log(states, learned)
        self._checkpoint(states)
        evaluates = self._config.train.eval_episodes and not stopped_by
        if evaluates and self.counters.evaluated_steps != steps:
            self._run_evaluation(states)
        path = self._directory.path
        if stopped_by:
            self._progress.say(
                f"stopped at {steps:,} steps; parameters saved, see how they play: "
                f"python -m jdqn.evaluate {path}"
            )
        self._say_what_was_reached(seconds)
        returns = [episodes.mean_return(of_seed) for of_seed in self.counters.episodes]
        means = [mean for mean in returns if mean is not None]
        return Result(
            run_dir=path,
            steps=steps,
            episodes=sum(of_seed.num_episodes for of_seed in self.counters.episodes),
            mean_return=sum(means) / len(means) if means else None,
            evaluations=self._evaluations,
            state=_joined(states),
            stopped_by=stopped_by,
        )

    def _say_what_was_reached(self, seconds: float) -> None:
        target = self._config.train.stop_return
        for seed, steps in zip(self._seeds, self.counters.reached_steps, strict=True):
            if steps != counters.NOT_REACHED:
                self._progress.say(
                    f"seed {seed} reached a mean return of {target:g} over the last 100 episodes "
                    f"after {steps:,} steps; the run took {seconds:,.0f} s"
                )

    def close(self) -> None:
        """Closes the files and the progress bar."""
        self._progress.close()
        self._directory.close()


def _title(config: Config, replay: Replay, path: pathlib.Path) -> str:
    """The first line of a run."""
    fields = config.train
    first = fields.seed
    last = fields.seed + fields.num_seeds - 1
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    return (
        f"{config.agent.name} on {config.env.name}, {seeds}, "
        f"{fields.steps:,} steps; replay {replay.capacity:,} transitions, "
        f"{replay.num_bytes * fields.num_seeds / 1e9:.2f} GB on "
        f"{jax.devices()[0].device_kind}; writing {path}"
    )


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over seeds of each figure that every seed has."""
    shared = [k for k in rows[0] if all(row.get(k) is not None for row in rows)]
    return {k: sum(row[k] for row in rows) / len(rows) for k in shared}


def _joined(states: States) -> Any:
    """One tree, with a leading axis where there are several seeds."""
    return states[0] if len(states) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *states)
