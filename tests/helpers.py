"""What tests of several modules share: a tiny configuration, specs, a compiler in a hurry."""

import numpy as np

from jdqn import config
from jdqn.records import EnvSpec

# Of programs around the one that is tested: compiled in a hurry.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

TINY = {
    "env.num_envs": 4,
    "env.frame_stack": 2,
    "network.torso_hidden": [8],
    "network.hidden": [8],
    "replay.capacity": 64,
    "replay.batch_size": 8,
    "agent.target_period_steps": 16,
    "agent.epsilon_decay_steps": 100,
    "train.learning_starts_steps": 32,
    "train.update_period_steps": 4,
    "train.steps": 400,
    "train.log_period_steps": 80,
    "train.eval_period_steps": 200,
    "train.eval_episodes": 3,
    "train.checkpoint_period_steps": 0,
}


def tiny(env="CartPole-v1", agent=None, **overrides):
    """A configuration that compiles and runs in a moment; `section__field=value`."""
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return config.load_config(env=env, agent=agent, overrides=TINY | dotted)


def vector_spec(width=3, frame_stack=2, num_actions=3):
    """The spec of an environment with float vectors."""
    return EnvSpec((width,), np.dtype(np.float32), frame_stack, num_actions, 1.0)


def leaves_of_row(priorities, row):
    """Leaves of one ring row, `[E]`."""
    return priorities.leaves.reshape(-1, priorities.leaves.shape[-1])[row]
