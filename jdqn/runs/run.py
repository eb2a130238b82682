"""What happens beside both loops: logs, evaluations, checkpoints. Nothing here trains."""

import pathlib
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdqn import clock, learning
from jdqn.config import Config, RunError
from jdqn.envs import EnvError
from jdqn.records import Timestep
from jdqn.replay import Replay
from jdqn.runs import counters, directory, episodes, evaluation, processes, progress, stopping
from jdqn.runs.checkpoint import Checkpoints, Position
from jdqn.runs.directory import RunDirectory
from jdqn.runs.episodes import Evaluation
from jdqn.runs.hooks import Hooks

# One for each seed.
States = Sequence[learning.AgentState]
Learned = Sequence[dict[str, jax.Array]]

# The first checkpoint does not wait for its period: compiled, and nothing lost, after a minute.
FIRST_CHECKPOINT_SECONDS = 60.0


class Result(NamedTuple):
    """What a finished run leaves."""

    run_dir: pathlib.Path
    steps: int  # agent steps of one seed
    episodes: int  # of all seeds
    mean_return: float | None  # of the last 100 training episodes, mean over seeds
    evaluations: tuple[Evaluation, ...]  # the last one of each seed
    state: learning.AgentState  # leaves [num_seeds, ...] where there are several
    stopped_by: int  # what ended the run early: a signal, or `stopping.ON_LOG`; 0: nothing

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation of the first seed."""
        return self.evaluations[0] if self.evaluations else None

    def __repr__(self) -> str:
        """Without the state, which is pages long."""
        return (
            f"Result(run_dir={str(self.run_dir)!r}, steps={self.steps}, episodes={self.episodes}, "
            f"mean_return={self.mean_return}, evaluations={self.evaluations}, "
            f"stopped_by={self.stopped_by})"
        )


class Run:
    """One run, of one seed or several: its counters, its directory, its evaluator."""

    def __init__(
        self,
        config: Config,
        agent: learning.Agent,
        evaluate: evaluation.Evaluator,
        run_dir: RunDirectory,
        checkpoints: Checkpoints,
        stop: stopping.Stop,
        title: str,
        *,
        from_python: bool = False,
        hooks: Hooks | None = None,
        quiet: bool = False,
        counted: counters.Counters | None = None,
        held_out: Sequence[jax.Array] = (),
    ):
        """A new run, or with `counted` and `held_out` one that goes on."""
        fields = config.train
        self.counters = counted or counters.start(config)
        self._config = config
        self._evaluate = evaluate
        self._diagnose = stopping.Compiled(jax.jit(agent.diagnose))
        self._seeds = range(fields.seed, fields.seed + fields.num_seeds)
        self._directory = run_dir
        self._checkpoints = checkpoints
        self._stop = stop
        self._from_python = from_python
        self._hooks = hooks or Hooks()
        self._held_out = held_out  # what each seed's diagnostics are taken on
        self._saved_steps = self.counters.steps if counted else None
        self._tried_steps = self._saved_steps  # at the last attempt to save
        self._started = time.monotonic() - self.counters.seconds
        self._logged_at = time.monotonic()
        self._first_tick_at: float | None = None
        learns = self.counters.empty_replay_steps + fields.learning_starts_steps
        self._progress = progress.Progress(
            title, self.counters.steps, learns, fields.steps, stop.heard, quiet=quiet
        )

    # --- What the loop tells ---------------------------------------------------------------------

    def count(self, tick: int, timesteps: Sequence[Timestep]) -> None:
        """Counts one tick, a timestep for each seed, and writes down the episodes that ended."""
        self._first_tick_at = self._first_tick_at or time.monotonic()
        self.counters, ended = counters.count(self._config, self.counters, tick, timesteps)
        for seed, finished in zip(self._seeds, ended, strict=True):
            self._directory.episodes(self.counters.steps, seed, finished)

    def hold_out(self, observations: Sequence[jax.Array]) -> None:
        """Takes what each seed's diagnostics are taken on, for the whole run."""
        self._held_out = self._held_out or observations

    def report(self, states: States, learned: Learned, position: Position) -> bool:
        """Logs, evaluates and saves what has come due since the last report.

        Returns whether a log period has ended and every seed has reached `stop_return`.

        Raises:
          RunError: something is not finite, or an environment failed in an evaluation.
        """
        fields = self._config.train
        self._progress.reach(self.counters.steps)
        logs = self._is_due(fields.log_period_steps)
        owed = self.counters.evaluation_owed or self._is_due(fields.eval_period_steps)
        saves = self._is_due(fields.checkpoint_period_steps) or self._is_first_due()
        if logs:
            self._log(states, learned)
        if fields.eval_episodes and owed:
            self._run_evaluation(states, position)
        # Last: a checkpoint comes after all that is due at its step.
        self.counters = self.counters._replace(reported_steps=self.counters.steps)
        if saves and not self._stop:
            self._checkpoint(states, position)
        # Or it was stopped just there, and now goes on.
        ends_here = logs or self.counters.logged_steps == self.counters.steps
        return ends_here and counters.NOT_REACHED not in self.counters.reached_steps

    def finish(self, states: States, learned: Learned, position: Position) -> Result:
        """The last log event, evaluation and checkpoint; after a stop the checkpoint alone.

        Raises:
          RunError: as `report`.
          Exception: what a hook has raised.
        """
        steps = self.counters.steps
        if self.counters.logged_steps < steps and not self._stop:  # else it goes on here
            self._log(states, learned)
        self.counters = self.counters._replace(reported_steps=steps)
        evaluates = bool(self._config.train.eval_episodes) and not self._stop
        if evaluates and self.counters.evaluated_steps != steps:
            if self._tried_steps != steps:
                self._checkpoint(states, position)
            self._run_evaluation(states, position)
        saved = self._checkpoint(states, position)
        if self._stop:
            name = stopping.name_of(self._stop.reason)
            how = self.how_to_go_on() if saved else self.what_is_kept()
            sentence = f"stopped by {name} at {steps:,} steps; {how}"
            self._progress.say(sentence, always=self._stop.reason > 0)
        elif not saved:
            raise RunError(f"the end of the run could not be saved; {self.what_is_kept()}")
        if self._hooks.error:
            raise self._hooks.error
        self._say_what_was_reached()
        counted = self.counters
        returns = [episodes.mean_return(of_seed) for of_seed in counted.episodes]
        means = [mean for mean in returns if mean is not None]
        result = Result(
            run_dir=self._directory.path,
            steps=steps,
            episodes=sum(of_seed.num_episodes for of_seed in counted.episodes),
            mean_return=sum(means) / len(means) if means else None,
            evaluations=tuple(e for e in counted.evaluations if e.episodes),
            state=_joined(states),
            stopped_by=self._stop.reason,
        )
        if not self._stop:
            self._say_what_comes_next(result)
        return result

    def fail(self, what: str, states: States, position: Position) -> None:
        """Saves what there is and raises RunError: the environment cannot go on."""
        self.counters = self.counters._replace(reported_steps=self.counters.steps)
        saved = self._checkpoint(states, position)
        how = self.how_to_go_on() if saved else self.what_is_kept()
        raise RunError(f"{what}, at {self.counters.steps:,} steps; {how}")

    def how_to_go_on(self) -> str:
        """What goes on with the run."""
        path = str(self._directory.path)
        if self._from_python:  # its environment may be known there alone
            return f"go on: jdqn.train.train(config, run_dir={path!r}, resumes=True)"
        return f"go on: python -m jdqn.train --resume {shlex.quote(path)}"

    def what_is_kept(self) -> str:
        """What a run leaves that ends here and now."""
        if self._saved_steps is None:
            return "no checkpoint had been saved"
        return f"the checkpoint of step {self._saved_steps:,} is kept; {self.how_to_go_on()}"

    def say(self, text: str) -> None:
        """Prints a line."""
        self._progress.say(text)

    def close(self) -> None:
        """Closes the files and the progress bar."""
        self._progress.close()
        self._or_say("the last lines of the logs", self._directory.close)

    # --- What is due -----------------------------------------------------------------------------

    def _is_due(self, period_steps: int) -> bool:
        """Whether a multiple of a period was passed since the last report."""
        return clock.has_passed(period_steps, self.counters.reported_steps, self.counters.steps)

    def _is_first_due(self) -> bool:
        """Whether it is time for a first checkpoint."""
        periodic = self._config.train.checkpoint_period_steps > 0
        if not periodic or self._tried_steps is not None or self._first_tick_at is None:
            return False
        is_due = time.monotonic() - self._first_tick_at > FIRST_CHECKPOINT_SECONDS
        return any(processes.numbers(is_due))

    def _log(self, states: States, learned: Learned) -> None:
        now = time.monotonic()
        steps = self.counters.steps
        # Evaluation time is not training time: _run_evaluation moves _logged_at on.
        logged_steps = steps - self.counters.logged_steps
        diagnosed: list[Any] = [{}] * len(self._seeds)
        if self._held_out:
            pairs = zip(states, self._held_out, strict=True)
            diagnosed = jax.device_get([self._diagnose(*pair) for pair in pairs])
        fetched = jax.device_get(learned)
        rows = []
        for i, seed in enumerate(self._seeds):
            row: dict[str, Any] = {} if len(self._seeds) == 1 else {"seed": seed}
            row |= self._figures(i, fetched[i] | diagnosed[i])
            row["steps_per_second"] = logged_steps / max(now - self._logged_at, 1e-9)
            row["seconds"] = now - self._started
            rows.append(row)
        self._or_say("the log", self._directory.log, steps, *rows)
        self._progress.update(steps, progress.mean_row(rows))
        self._logged_at = now
        self.counters = self.counters._replace(logged_steps=steps)
        self._check_finite(states)
        told = (directory.log_row(steps, row) for row in rows)
        self._logged_at += self._hooks.tell(stopping.ON_LOG, told, self._stop.heard)

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

    def _check_finite(self, states: States) -> None:
        """Raises RunError where a loss or the norm of a gradient has not been finite."""
        first = np.stack(jax.device_get([state.non_finite for state in states]))  # [seeds, 2]
        if first.min() == learning.NEVER:
            return
        i, quantity = np.unravel_index(first.argmin(), first.shape)
        tick = self.counters.steps // self._config.env.num_envs - 1
        since = clock.last_update(self._config, tick) - int(first.min())
        of_seed = f" of seed {self._seeds[i]}" if len(self._seeds) > 1 else ""
        raise RunError(
            f"the {('loss', 'gradient norm')[quantity]}{of_seed} is not finite since update "
            f"{self.counters.updates - since:,}, found at {self.counters.steps:,} steps; "
            f"{self.what_is_kept()}"
        )

    def _check_parameters(self, states: States) -> None:
        """Raises RunError where a parameter is not finite, after a loss that was."""
        leaves = jax.tree.leaves([state.params for state in states])
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            raise RunError(
                f"parameters are not finite at {self.counters.steps:,} steps; {self.what_is_kept()}"
            )

    def _run_evaluation(self, states: States, position: Position) -> None:
        began = time.monotonic()
        policy = self._config.agent.eval_policy
        steps = self.counters.steps
        try:
            results = tuple(
                self._evaluate(
                    one, seed, evaluation.TRAINING_SEED_OFFSET, policy, self._progress.evaluating
                )
                for seed, one in zip(self._seeds, states, strict=True)
            )
        except stopping.Interrupted:
            self.counters = self.counters._replace(evaluation_owed=int(self._stop.agree()))
            return
        except EnvError as error:
            self.fail(str(error), states, position)
            return
        finally:
            self._progress.evaluated()
        self.counters = self.counters._replace(
            evaluated_steps=steps, evaluation_owed=0, evaluations=results
        )
        for seed, result in zip(self._seeds, results, strict=True):
            self._or_say("the evaluation", self._directory.evaluation, steps, seed, policy, result)
            of_seed = f", seed {seed}" if len(self._seeds) > 1 else ""
            spread = f" ± {result.return_std_error:.2f}" if result.episodes > 1 else ""
            self._progress.say(
                f"evaluation at {steps:,} steps{of_seed}: {result.episodes} full games, "
                f"mean {result.return_mean:.2f}{spread}, median {result.return_median:.2f}"
            )
        self._keep_if_best(states, position)
        pairs = zip(self._seeds, results, strict=True)
        told = (directory.evaluation_row(steps, seed, policy, one) for seed, one in pairs)
        self._hooks.tell(stopping.ON_EVALUATION, told, self._stop.heard)
        self._logged_at += time.monotonic() - began

    def _keep_if_best(self, states: States, position: Position) -> None:
        """Saves the agents whose evaluation, mean over seeds, is the best so far."""
        mean = float(np.mean([result.return_mean for result in self.counters.evaluations]))
        if not mean > self.counters.best_return:
            return
        self._check_finite(states)
        self._check_parameters(states)
        save = self._checkpoints.save_best
        if self._or_say(
            "the best checkpoint", save, self.counters.steps, position.tick, states, mean
        ):
            self.counters = self.counters._replace(best_return=mean)

    def _checkpoint(self, states: States, position: Position) -> bool:
        """Saves everything; whether that worked."""
        self._check_finite(states)
        self._check_parameters(states)
        self.counters = self.counters._replace(seconds=time.monotonic() - self._started)
        steps = self.counters.steps
        self._tried_steps = steps

        def save() -> None:
            files = self._directory.sync()
            self._checkpoints.save(steps, position, self.counters, self._held_out, files)

        saved = self._or_say(f"the checkpoint of step {steps:,}", save)
        if saved:
            self._saved_steps = steps
        return saved

    def _or_say(self, what: str, write: Callable[..., None], *arguments: Any) -> bool:
        """Writes something; where the disk does not let it, says so. Returns whether it worked."""
        try:
            write(*arguments)
        except OSError as error:
            kept = f"; the checkpoint of step {self._saved_steps or 0:,} is as it was"
            kept = "" if self._saved_steps is None else kept
            self._progress.say(f"warning: cannot write {what}: {error.strerror or error}{kept}")
            return False
        return True

    def _say_what_was_reached(self) -> None:
        seconds = time.monotonic() - self._started
        target = self._config.train.stop_return
        for seed, steps in zip(self._seeds, self.counters.reached_steps, strict=True):
            if steps != counters.NOT_REACHED:
                self._progress.say(
                    f"seed {seed} reached a mean return of {target:g} over the last 100 episodes "
                    f"after {steps:,} steps; the run took {seconds:,.0f} s"
                )

    def _say_what_comes_next(self, result: Result) -> None:
        path = result.run_dir
        seconds = progress.duration(time.monotonic() - self._started)
        self._progress.say(f"done: {result.steps:,} steps in {seconds}, written to {path}")
        has_reached = counters.NOT_REACHED not in self.counters.reached_steps
        following = progress.next_commands(
            path,
            steps=result.steps,
            draws=result.episodes > 0,
            plays=not self._from_python,  # its environment may be known there alone
            goal="--train.stop_return none" if has_reached else None,
        )
        self._progress.say(following)


def title(config: Config, replay: Replay, path: pathlib.Path, steps: int) -> str:
    """Where a run, which goes on from some steps, is at home; what it is has been said before."""
    fields = config.train
    start = f"from step {steps:,} to {fields.steps:,}; " if steps else ""
    several = f"{fields.num_devices} × " if fields.num_devices != 1 else ""
    return (
        f"{start}replay {replay.capacity:,} transitions, "
        f"{replay.num_bytes * fields.num_seeds / 1e9:.2f} GB on "
        f"{several}{jax.devices()[0].device_kind}\nwriting {path}"
    )


def _joined(states: States) -> Any:
    """One tree, with a leading axis where there are several seeds."""
    return states[0] if len(states) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *states)
