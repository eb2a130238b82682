"""Settings and helpers shared by every test."""

import os
import pathlib

import hypothesis
import jax
import numpy as np
import pytest

from jdqn import config
from jdqn.records import EnvSpec

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs are kept between runs of the suite; delete the folder for a cold run.
# One for each worker: jax writes entries without a lock.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache" / WORKER
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # for the notebooks' kernels
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two workers share an accelerator

# Compilation falls into whichever example comes first.
hypothesis.settings.register_profile("jdqn", deadline=None)
hypothesis.settings.load_profile("jdqn")

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


def tiny(env="CartPole-v1", **overrides):
    """A configuration that compiles and runs in a moment; `section__field=value`."""
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return config.load_config(env=env, overrides=TINY | dotted)


def vector_spec(width=3, frame_stack=2, num_actions=3):
    """The spec of an environment with float vectors."""
    return EnvSpec((width,), np.dtype(np.float32), frame_stack, num_actions, 1.0)


def leaves_of_row(priorities, row):
    """Leaves of one ring row, `[E]`."""
    return priorities.leaves.reshape(-1, priorities.leaves.shape[-1])[row]


@pytest.fixture
def rng():
    """A NumPy generator, the same for every test."""
    return np.random.default_rng(0)
