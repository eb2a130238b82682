"""The host loop and the command line: `python -m jdqn.train --env Breakout`."""

import contextlib
import datetime
import math
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from jdqn import agent as agent_lib
from jdqn import checkpoint, config, envs, evaluate, metrics, replay
from jdqn.config import Config, ConfigError


class Result(NamedTuple):
    """What a finished run leaves."""

    run_dir: pathlib.Path
    steps: int
    episodes: int
    mean_return: float | None  # of the last 100 training episodes
    evaluation: metrics.Evaluation | None  # at the last step
    state: agent_lib.AgentState
    stopped_by: int  # the signal that ended the run early; 0: none


def train(
    cfg: Config,
    *,
    run_dir: str | pathlib.Path | None = None,
    make_env: evaluate.MakeEnv = envs.make_env,
    command: str = "",
) -> Result:
    """Trains an agent and writes a run directory.

    Args:
      cfg: everything the run depends on.
      run_dir: where to write; default `runs/ENV-AGENT-SEED-TIME`. Must be new or empty.
      make_env: how environments are made, for training and evaluation alike.
      command: recorded in `config.toml`.

    Returns:
      Where the run lies and how it ended.

    Raises:
      ConfigError: before anything is written.
    """
    path = pathlib.Path(run_dir) if run_dir else default_run_dir(cfg)
    metrics.check_run_dir(path)
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(_stop_signals())
        env = stack.enter_context(contextlib.closing(make_env(cfg)))
        memory = replay.make_replay(cfg, env.spec)
        check_memory(cfg, memory)
        agent = agent_lib.make_agent(cfg, env.spec, memory)
        agent_key, replay_key = jax.random.split(jax.random.key(cfg.train.seed))
        state, actor = jax.jit(agent.init)(agent_key)
        replay_state = jax.jit(memory.init)(replay_key)
        evaluator = evaluate.make_evaluator(cfg, agent, make_env)
        run = stack.enter_context(contextlib.closing(_Run(cfg, path, evaluator, memory, command)))

        act = jax.jit(agent.act, donate_argnums=1)
        add = jax.jit(memory.add, donate_argnums=0)
        learn = jax.jit(agent.learn, donate_argnums=(0, 1))
        learned: dict[str, jax.Array] = {}
        timestep = env.reset()
        for tick in range(math.ceil(cfg.train.steps / cfg.env.num_envs)):
            on_device = jax.device_put(timestep)
            action, actor = act(state.params, actor, on_device, tick)
            env.send(np.asarray(action))  # the emulators now run on host threads ...
            replay_state = add(replay_state, on_device, action, tick)
            if agent_lib.learns_at(cfg, tick):  # ... while the device works beside them
                state, replay_state, learned = learn(state, replay_state, tick)
            done = run.after_tick(tick, timestep, state, learned)
            timestep = env.recv()
            if done or stopped:
                break
        return run.finish(state, learned, stopped_by=stopped[0] if stopped else 0)


class _Run:
    """What happens beside the loop: logs, evaluations, checkpoints. Nothing here trains."""

    def __init__(
        self,
        cfg: Config,
        path: pathlib.Path,
        evaluator: Any,
        memory: replay.Replay,
        command: str,
    ):
        self._cfg, self._evaluate = cfg, evaluator
        self._tracker = metrics.EpisodeTracker(cfg.env.num_envs)
        self._directory = metrics.RunDirectory(path, cfg, command)
        self._progress = metrics.Progress(
            f"{cfg.agent.name} on {cfg.env.name}, seed {cfg.train.seed}, "
            f"{cfg.train.steps:,} steps; "
            f"replay {memory.capacity:,} transitions, {memory.num_bytes / 1e9:.2f} GB on "
            f"{jax.devices()[0].device_kind}; writing {path}",
            cfg.train.steps,
        )
        self._started = self._logged_at = time.monotonic()
        self._steps = self._logged_steps = self._updates = 0
        self._evaluated: tuple[int, metrics.Evaluation] | None = None

    def _due(self, period_steps: int) -> bool:
        """Whether this tick is the first at or after a multiple of a period."""
        before = self._steps - self._cfg.env.num_envs
        return period_steps > 0 and self._steps // period_steps > before // period_steps

    def after_tick(self, tick: int, timestep: Any, state: Any, learned: Any) -> bool:
        """Books a tick; returns whether `stop_return` is reached."""
        fields = self._cfg.train
        self._steps = int(agent_lib.steps_at(self._cfg, tick))
        if agent_lib.learns_at(self._cfg, tick):
            self._updates += agent_lib.updates_per_call(self._cfg)
        ended = self._tracker.add(timestep)
        self._directory.episodes(self._steps, ended)
        if self._due(fields.log_period_steps):
            self._log(learned)
        if fields.eval_episodes and self._due(fields.eval_period_steps):
            self._run_evaluation(state)
        if self._due(fields.checkpoint_period_steps):
            self._checkpoint(state)
        return bool(ended) and self._tracker.reached(fields.stop_return)

    def _log(self, learned: Any) -> None:
        values = {name: float(value) for name, value in jax.device_get(learned).items()}
        now = time.monotonic()
        rate = (self._steps - self._logged_steps) / max(now - self._logged_at, 1e-9)
        tick = self._steps // self._cfg.env.num_envs - 1
        row: dict[str, Any] = {
            "updates": self._updates,
            "episodes": self._tracker.num_episodes,
            "episode_return": self._tracker.mean_return,
            "episode_length": self._tracker.mean_length,
            "epsilon": float(agent_lib.training_epsilon(self._cfg, tick)),
            **values,
            "steps_per_second": rate,
            "seconds": now - self._started,
        }
        self._directory.log(self._steps, row)
        self._progress.update(self._steps, row)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            self._progress.say(f"warning: {', '.join(bad)} not finite at step {self._steps:,}")
        self._logged_at, self._logged_steps = now, self._steps

    def _run_evaluation(self, state: Any) -> None:
        began = time.monotonic()
        result = self._evaluate(state.params, self._cfg.train.seed + evaluate.TRAINING_SEED_OFFSET)
        self._evaluated = self._steps, result
        self._directory.evaluation(self._steps, "vote", result)
        self._progress.say(
            f"evaluation at {self._steps:,} steps: {result.episodes} full games, mean "
            f"{result.return_mean:.2f} ± {result.return_std_error:.2f}, median "
            f"{result.return_median:.2f}"
        )
        self._logged_at += time.monotonic() - began  # not training time

    def _checkpoint(self, state: Any) -> None:
        keep = self._cfg.train.checkpoint_keep
        checkpoint.save(self._directory.path, self._steps, state, keep=keep)

    def finish(self, state: Any, learned: Any, *, stopped_by: int) -> Result:
        """The last log event, evaluation and checkpoint."""
        seconds = time.monotonic() - self._started
        if self._logged_steps < self._steps:
            self._log(learned)
        self._checkpoint(state)
        wants_evaluation = self._cfg.train.eval_episodes > 0 and not stopped_by
        if wants_evaluation and (self._evaluated or (0,))[0] != self._steps:
            self._run_evaluation(state)
        mean, path = self._tracker.mean_return, self._directory.path
        if stopped_by:
            self._progress.say(
                f"stopped at {self._steps:,} steps; parameters saved, see how they play: "
                f"python -m jdqn.evaluate {path}"
            )
        elif self._tracker.reached(self._cfg.train.stop_return):
            self._progress.say(
                f"reached a mean return of {mean:.2f} over the last 100 episodes after "
                f"{self._steps:,} steps in {seconds:,.0f} s"
            )
        result = self._evaluated[1] if self._evaluated else None
        return Result(
            path, self._steps, self._tracker.num_episodes, mean, result, state, stopped_by
        )

    def close(self) -> None:
        """Closes the files and the progress bar."""
        self._progress.close()
        self._directory.close()


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
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


def check_memory(cfg: Config, memory: replay.Replay) -> None:
    """Raises ConfigError where the replay cannot fit on the device."""
    device = jax.devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        available = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    else:
        available = psutil.virtual_memory().available
    if memory.num_bytes > available:
        raise ConfigError(
            f"replay.capacity = {cfg.replay.capacity}: needs {memory.num_bytes:,} bytes, "
            f"{available:,} are available on {device.device_kind}"
        )


def default_run_dir(cfg: Config) -> pathlib.Path:
    """`runs/ENV-AGENT-SEED-TIME`."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = cfg.env.name.replace("/", "_")
    return pathlib.Path("runs") / f"{name}-{cfg.agent.name}-{cfg.train.seed}-{now}"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = config.Parser(
        prog="python -m jdqn.train",
        description="Trains a deep-Q-network agent. Steps are agent steps summed over "
        "environments;\non Atari one step is 4 frames. Values are written as in TOML.",
        epilog="example: python -m jdqn.train --env Breakout --steps 1_000_000 "
        "--replay.capacity 100_000",
    )
    parser.add_argument("--steps", metavar="N", help="agent steps (train.steps)")
    parser.add_argument("--seed", metavar="N", help="of everything random (train.seed)")
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where to write (default: runs/ENV-AGENT-SEED-TIME)"
    )
    config.add_options(parser)
    arguments = parser.parse(argv)
    shortcuts = {"train.steps": arguments.steps, "train.seed": arguments.seed}
    given = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "jdqn.train", *given])
    try:
        cfg = config.from_options(
            arguments, **{k: v for k, v in shortcuts.items() if v is not None}
        )
        result = train(cfg, run_dir=arguments.run_dir, command=command)
    except ConfigError as error:
        parser.error(str(error))
    if result.stopped_by:
        raise SystemExit(128 + result.stopped_by)


if __name__ == "__main__":
    main()
