"""Runs that were never trained: their parameters as they were drawn, and a checkpoint of them."""

import functools

import jax
from helpers import QUICK

from jdqn import envs
from jdqn.learning import make_agent
from jdqn.replay import make_replay
from jdqn.runs import checkpoint, directory


@functools.cache
def drawn(config, spec, seed):
    """The agent of a configuration and its first state, kernels so large that Q differs."""
    agent = make_agent(config, spec, make_replay(config, spec))
    state, _ = jax.jit(agent.init, compiler_options=QUICK)(jax.random.key(seed))
    larger = jax.tree.map_with_path(
        lambda path, x: x * (5.0 if path[-1].key == "kernel" else 1.0), state.params
    )
    return agent, state.replace(params=larger)


def write_run(path, config, make_env=envs.make_env, ticks=20):
    """Writes the directory of a run with one checkpoint, which is also its best."""
    path.mkdir(exist_ok=True)
    of_run = directory.RunDirectory(path, config, "")
    of_run.close()
    env = make_env(config, num_envs=1)
    env.close()
    seeds = range(config.train.seed, config.train.seed + config.train.num_seeds)
    states = [drawn(config, env.spec, seed)[1] for seed in seeds]
    checkpoints = checkpoint.Checkpoints(config, path, of_run.run_id)
    steps = ticks * config.env.num_envs
    checkpoints.save_best(steps, ticks, states, 1.0)
    trees = {f"{i}/state": state for i, state in enumerate(states)}
    checkpoints._write(str(steps), steps, ticks, trees, [])  # without a replay
    return path
