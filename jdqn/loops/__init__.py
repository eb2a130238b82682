"""Two loops over the same functions: `host` ticks in Python, `fused` inside one program."""

import contextlib
import functools
import pathlib
from typing import Any

from jdqn import devices, envs
from jdqn.config import Config, ConfigError
from jdqn.loops import fused, host, shared
from jdqn.runs import directory, evaluation, files, processes, progress, resume, stopping, together
from jdqn.runs import start_from as start_from_
from jdqn.runs.hooks import Hooks
from jdqn.runs.run import Result, Run, title

__all__ = ["train"]


def train(
    config: Config,
    *,
    run_dir: str | pathlib.Path | None = None,
    make_env: evaluation.MakeEnv = envs.make_env,
    command: str = "",
    on_host: bool = False,
    resumes: bool = False,
    start_from: str | pathlib.Path | None = None,
    hooks: Hooks | None = None,
    quiet: bool = False,
) -> Result:
    """Trains in the loop that fits the environment.

    All arguments are those of `jdqn.train.train`, but for `on_host`, which takes the host loop for
    an environment written in JAX too, and `hooks`, functions of the user's that the run calls.

    Raises:
      ConfigError: before anything is written.
      RunError: the run could not go on; what could be saved has been.
    """
    with stopping.signals() as heard, contextlib.ExitStack() as stack:
        watch = stack.enter_context(processes.watched())
        config = devices.resolved(config)
        in_jax = envs.is_native(config.env.name) and not on_host
        _check(config, in_jax, make_env, run_dir, resumes, start_from)
        path = None if run_dir is None else pathlib.Path(run_dir)
        stop = processes.agreed(heard)
        resumed = None
        started = None
        if path is not None and resumes:
            stack.enter_context(together.lock(path))
            resumed = resume.prepare(path, config)
            config = resumed.config
        else:
            directory.check_run_dir(path)
            if start_from is not None:
                started = start_from_.prepare(start_from, config, make_env)
        processes.check_same(config, path, resumed and resumed.found.manifest["name"], start_from)
        begin = fused.begin if in_jax else functools.partial(host.begin, make_env, stack)
        try:
            with progress.shown("making environments and the replay", heard, quiet=quiet):
                begun = begin(config, resumed, started, stop)
        except stopping.Interrupted:
            raise shared.interrupted(stop, "nothing was begun") from None
        if path is None or not resumes:
            path = together.make_run_dir(path, config)
            stack.enter_context(together.lock(path))
        processes.say_who_is_there(path)
        evaluate = together.told(evaluation.make_evaluator(config, begun.agent, make_env, heard))
        run = _run(config, begun, resumed, started, evaluate, stop, path, command, hooks, quiet)
        watch.what_is_kept = run.what_is_kept
        stack.enter_context(contextlib.closing(run))
        turns = begun.turns(
            stop=stop,
            first_tick=resumed.found.manifest["tick"] if resumed else 0,
            empty_steps=run.counters.empty_replay_steps,
        )
        stack.enter_context(contextlib.closing(turns))
        return shared.drive(run, turns, stop)


def _check(
    config: Config,
    in_jax: bool,
    make_env: evaluation.MakeEnv,
    run_dir: Any,
    resumes: bool,
    start_from: str | pathlib.Path | None,
) -> None:
    """Raises ConfigError where what is asked for does not go together."""
    if config.train.num_seeds > 1 and not in_jax:
        raise ConfigError(
            f"train.num_seeds = {config.train.num_seeds}: several seeds at once need an "
            "environment written in JAX, such as minatar/Breakout; run "
            f"{config.env.name} once for each seed"
        )
    if in_jax and make_env is not envs.make_env:
        raise ConfigError(
            f'make_env: makes environments on the host, and "{config.env.name}" is written in JAX; '
            "leave it out, or name an environment of Gymnasium's"
        )
    if resumes and run_dir is None:
        raise ConfigError("resumes: expected a run directory to go on with, run_dir is None")
    if resumes:
        files.check_is_run(pathlib.Path(run_dir))  # before there is a lock in it
    if resumes and start_from is not None:
        raise ConfigError(f"start_from = {start_from}: a run that goes on has its own parameters")


def _run(
    config: Config,
    begun: shared.Begun,
    resumed: resume.Resumed | None,
    started: start_from_.Start | None,
    evaluate: evaluation.Evaluator,
    stop: stopping.Stop,
    path: pathlib.Path,
    command: str,
    hooks: Hooks | None,
    quiet: bool,
) -> Run:
    """What stands beside a loop, with the files of its directory."""
    manifest = resumed.found.manifest if resumed else {}
    steps = manifest.get("steps")
    lengths = manifest.get("files")
    begins = started.record if started else None
    of_run = together.open_run_dir(
        path, config, command, resumed_steps=steps, lengths=lengths, started_from=begins
    )
    checkpoints = together.make_checkpoints(config, path, of_run.run_id)
    if resumed:
        checkpoints.go_on_from(manifest)
    run = Run(
        config,
        begun.agent,
        evaluate,
        of_run,
        checkpoints,
        stop,
        title(config, begun.replay, path, steps or 0),
        from_python=not command,
        hooks=hooks,
        quiet=quiet,
        counted=resumed.counters if resumed else None,
        held_out=begun.held_out,
    )
    for line in [*(first.said if (first := resumed or started) else ()), *begun.said]:
        run.say(line)
    return run
