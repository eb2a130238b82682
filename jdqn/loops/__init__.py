"""Two loops over the same functions: `host` ticks in Python, `fused` inside one program."""

import contextlib
import pathlib

from jdqn import envs
from jdqn.config import Config, ConfigError
from jdqn.loops import fused, host, shared
from jdqn.runs import directory, evaluation
from jdqn.runs.run import Result, Run

__all__ = ["train"]


def train(
    config: Config,
    *,
    run_dir: str | pathlib.Path | None = None,
    make_env: evaluation.MakeEnv = envs.make_env,
    command: str = "",
    on_host: bool = False,
) -> Result:
    """Trains in the loop that fits the environment; see `jdqn.train.train`.

    Args:
      config: everything the run depends on.
      run_dir: where to write; default `runs/ENV-AGENT-SEED-TIME`. Must be new or empty.
      make_env: how environments are made on the host.
      command: recorded in `config.toml`.
      on_host: takes the host loop for an environment written in JAX too.

    Raises:
      ConfigError: before anything is written.
    """
    in_jax = envs.is_native(config.env.name) and not on_host
    if config.train.num_seeds > 1 and not in_jax:
        raise ConfigError(
            f"train.num_seeds = {config.train.num_seeds}: several seeds at once need an "
            "environment written in JAX, such as minatar/Breakout; run "
            f"{config.env.name} once for each seed"
        )
    directory.check_run_dir(run_dir)
    with contextlib.ExitStack() as stack:
        if in_jax:
            native = envs.make_native_env(config, num_envs=config.env.num_envs)
            replay, agent = shared.build(config, native.spec)
            parts = fused.Parts(config, native, replay, agent, fused.chunk_ticks(config))
            turns = fused.turns(parts, fused.start(parts))
        else:
            env = stack.enter_context(contextlib.closing(make_env(config)))
            replay, agent = shared.build(config, env.spec)
            turns = host.turns(config, env, replay, agent, host.start(config, env, replay, agent))
        evaluate = evaluation.make_evaluator(config, agent, make_env)
        stopped = stack.enter_context(shared.stop_signals())
        run = Run(config, run_dir, agent, replay, evaluate, command)
        with contextlib.closing(run), contextlib.closing(turns):
            return shared.drive(run, turns, stopped)
