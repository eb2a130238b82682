"""What the tests of the replay share: replays whose functions are compiled once."""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest
from helpers import QUICK, tiny, vector_spec
from scripted import ScriptedEnv

from jdqn import kernels, replay
from jdqn.config import Config
from jdqn.records import EnvSpec, Timestep
from jdqn.replay import priorities

DISCOUNT = 0.9
IMAGE = (2, 3)
STEADY = [[(5.0, False, False, False)] * 1000]  # one endless episode


class Setup(NamedTuple):
    """A replay with its functions compiled once; seeds stand for keys."""

    config: Config
    spec: EnvSpec
    replay: replay.Replay
    init: Callable  # of a seed
    add: Callable
    sample: Callable  # of a state, a seed and a tick
    update: Callable
    leaves: Callable  # of a state, [T, E]
    sample_all: Callable  # as `sample`: batches enough to see every row, [draws, ...]


@contextlib.contextmanager
def small_blocks(block_leaves=8):
    """Replays that are started inside have several blocks of priorities even if they are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priorities, "BLOCK_LEAVES", block_leaves)
        yield


@contextlib.contextmanager
def padded_rows(num_entries=5):
    """Replays that are started inside store longer rows than frames, as on a TPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "stored_width", lambda entries: entries + num_entries)
        yield


@functools.cache
def setup(num_rows, num_envs, num_stack, n_step, *, image=False, optimised=False, **overrides):
    """A small replay; `optimised` where that matters."""
    spec = vector_spec(frame_stack=num_stack)
    if image:
        spec = EnvSpec(IMAGE, np.dtype(np.uint8), num_stack, 3, 1 / 255)
    batch_size = num_rows * num_envs
    config = tiny(
        **{
            "env__num_envs": num_envs,
            "env__frame_stack": num_stack,
            "agent__discount": DISCOUNT,
            "agent__target_period_steps": 16 * num_envs,
            "train__update_period_steps": num_envs,
            "train__learning_starts_steps": 4 * batch_size,
            "replay__capacity": batch_size,
            "replay__batch_size": batch_size,
            "replay__n_step": n_step,
        }
        | overrides
    )
    memory = replay.make_replay(config, spec)
    compiled = functools.partial(jax.jit, compiler_options=None if optimised else QUICK)

    def sample(state, seed, tick):
        return memory.sample(state, priorities.uniforms(jax.random.key(seed), batch_size), tick)

    def sample_all(state, seed, tick):
        # Of n rows that are alike each is missed with e^-30.
        uniform = priorities.uniforms(jax.random.key(seed), 30 * batch_size)
        uniform = uniform.reshape(-1, batch_size, priorities.LEVELS)
        batches = jax.vmap(memory.sample, in_axes=(None, 0, None))(state, uniform, tick)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)

    return Setup(
        config,
        spec,
        memory,
        init=jax.jit(lambda seed: memory.init(jax.random.key(seed)), compiler_options=QUICK),
        add=compiled(memory.add, donate_argnums=0),
        sample=compiled(sample),
        update=compiled(memory.update, donate_argnums=0),
        leaves=lambda state: rows_of(state.priorities, num_rows),
        sample_all=compiled(sample_all),
    )


def play(made, episodes, num_ticks):
    """Adds rows of the scripted episodes; the action is the tick modulo 3."""
    env = ScriptedEnv(episodes, made.config.env.num_envs)
    state = made.init(0)
    timestep = env.reset()
    for tick in range(num_ticks):
        action = np.full(made.config.env.num_envs, tick % 3)
        state = made.add(state, timestep, action, tick)
        env.send(action)
        timestep = env.recv()
    return state


# --- Rank-based, with masks of counts -----------------------------------------------------------

ALPHA = 0.7
N_STEP = 2
NUM_STACK = 3
BATCH = 8


def ranked_replay(num_rows, num_envs, **overrides):
    """Configuration and replay of two heads."""
    config = tiny(
        **{
            "env__num_envs": num_envs,
            "env__frame_stack": NUM_STACK,
            "network__heads": 2,
            "replay__capacity": num_rows * num_envs,
            "replay__batch_size": BATCH,
            "replay__n_step": N_STEP,
            "replay__prioritization": "rank",
            "replay__priority_exponent": ALPHA,
            "replay__priority_epsilon": 0.25,
            "replay__mask_distribution": "poisson",
            "agent__target_period_steps": 16 * num_envs,
            "train__update_period_steps": num_envs,
            "train__learning_starts_steps": 16 * num_envs,
        }
        | overrides
    )
    return config, replay.make_replay(config, vector_spec(1, NUM_STACK))


def empty_steps(*shape):
    """Timesteps of zeros in the middle of an episode, frames `[..., 1]`."""
    no = np.zeros(shape, bool)
    zero = np.zeros(shape, np.float32)
    return Timestep(zero[..., None], zero, no, no, no)


def rows_of(state, num_rows):
    """Leaves `[T, E]` of priorities."""
    return np.asarray(state.leaves).reshape(-1, state.leaves.shape[-1])[:num_rows]
