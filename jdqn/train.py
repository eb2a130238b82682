"""The host loop and the command line: `python -m jdqn.train --env Breakout`."""

import contextlib
import math
import pathlib
import shlex
import sys

import jax
import numpy as np

from jdqn import agent as agent_lib
from jdqn import config, envs, evaluate, fused, metrics, replay
from jdqn.config import Config, ConfigError
from jdqn.run import Result, Run, check_memory, held_out, stop_signals


def train(
    cfg: Config,
    *,
    run_dir: str | pathlib.Path | None = None,
    make_env: evaluate.MakeEnv = envs.make_env,
    command: str = "",
) -> Result:
    """Trains an agent and writes a run directory.

    A JAX-native environment is trained by `fused.train`, any other by the loop below.

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
    if envs.is_native(cfg.env.name):
        return fused.train(cfg, run_dir=run_dir, command=command)
    return train_on_host(cfg, run_dir=run_dir, make_env=make_env, command=command)


def train_on_host(
    cfg: Config,
    *,
    run_dir: str | pathlib.Path | None = None,
    make_env: evaluate.MakeEnv = envs.make_env,
    command: str = "",
) -> Result:
    """The host loop, for any environment behind the vector protocol; see `train`."""
    if cfg.train.num_seeds > 1:
        raise ConfigError(
            f"train.num_seeds = {cfg.train.num_seeds}: several seeds at once need an environment "
            f"written in JAX, such as minatar/Breakout; run {cfg.env.name} once for each seed"
        )
    metrics.check_run_dir(run_dir)
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(stop_signals())
        env = stack.enter_context(contextlib.closing(make_env(cfg)))
        memory = replay.make_replay(cfg, env.spec)
        check_memory(cfg, memory)
        agent = agent_lib.make_agent(cfg, env.spec, memory)
        agent_key, replay_key = jax.random.split(jax.random.key(cfg.train.seed))
        state, actor = jax.jit(agent.init)(agent_key)
        replay_state = jax.jit(memory.init)(replay_key)
        evaluator = evaluate.make_evaluator(cfg, agent, make_env)
        run = stack.enter_context(
            contextlib.closing(Run(cfg, run_dir, evaluator, agent, memory, command))
        )

        act = jax.jit(agent.act, donate_argnums=1)
        add = jax.jit(memory.add, donate_argnums=0)
        learn = agent_lib.jit_learning(agent.learn, (0, 1))
        hold_out = held_out(memory)
        learned: dict[str, jax.Array] = {}
        timestep = env.reset()
        for tick in range(math.ceil(cfg.train.steps / cfg.env.num_envs)):
            if tick == agent_lib.first_learning_tick(cfg):
                run.held_out = [hold_out(replay_state)]
            on_device = jax.device_put(timestep)
            action, actor = act(state, actor, on_device, tick)
            env.send(np.asarray(action))  # the emulators now run on host threads ...
            replay_state = add(replay_state, on_device, action, tick)
            if agent_lib.learns_at(cfg, tick):  # ... while the device works beside them
                state, replay_state, learned = learn(state, replay_state, tick)
            run.book(tick, [timestep])
            done = run.look([state], [learned])
            timestep = env.recv()
            if done or stopped:
                break
        return run.finish([state], [learned], stopped_by=stopped[0] if stopped else 0)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = config.Parser(
        prog="python -m jdqn.train",
        description="Trains a deep-Q-network agent. Steps are agent steps summed over "
        "environments;\non Atari one step is 4 frames. Values are written as in TOML.",
        epilog="example: python -m jdqn.train --env Breakout --steps 1_000_000 "
        "--replay.capacity 100_000",
    )
    shortcuts = {"steps": "agent steps", "seed": "of all draws", "num_seeds": "seeds side by side"}
    for name, text in shortcuts.items():
        option, field = f"--{name.replace('_', '-')}", f"train.{name}"
        parser.add_argument(option, metavar="N", dest=field, help=f"{text} ({field})")
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where to write (default: runs/ENV-AGENT-SEED-TIME)"
    )
    config.add_options(parser)
    arguments = parser.parse(argv)
    given = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "jdqn.train", *given])
    try:
        result = train(config.from_options(arguments), run_dir=arguments.run_dir, command=command)
    except ConfigError as error:
        parser.error(str(error))
    if result.stopped_by:
        raise SystemExit(128 + result.stopped_by)


if __name__ == "__main__":
    main()
