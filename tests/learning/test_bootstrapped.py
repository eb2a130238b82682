"""Bootstrapped DQN: K heads take nothing from one, and one head is Double DQN."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, tiny
from learning_helpers import SPEC, fill, quick_jit, random_steps, timestep_of

from jdqn import config as config_lib
from jdqn import learning, replay, train


def test_one_head_is_double_dqn_to_the_bit(tmp_path):
    """200 ticks."""
    pytest.importorskip("gymnax")  # an extra
    runs = []
    for name, more in (("double", {}), ("bootstrapped", {"network.heads": 1})):
        same = {"agent.epsilon_eval": 0.0, "train.eval_episodes": 0, "train.steps": 800}
        config = config_lib.load_config(
            env="gymnax/CartPole-v1", agent=name, overrides=TINY | same | more
        )
        runs.append(train.train(config, run_dir=tmp_path / name))
    chex.assert_trees_all_equal(runs[0].state, runs[1].state)


def test_more_heads_take_no_random_number_from_one():
    """The same random actions and the same rows in every batch, whatever K is."""
    acted = []
    drawn = []
    for heads in (1, 3):
        config = tiny(network__heads=heads)
        memory = replay.make_replay(config, SPEC)
        rows = []

        def gather(state, drawn, tick, memory=memory, rows=rows):
            jax.debug.callback(lambda row: rows.append(np.asarray(row)), drawn.row)
            return memory.gather(state, drawn, tick)

        agent = learning.make_agent(config, SPEC, memory._replace(gather=gather))

        @quick_jit
        def run(steps, actions, agent=agent, memory=memory):
            state, actor = agent.init(jax.random.key(0))
            ring = fill(memory)(steps, actions)
            acted = jax.lax.map(
                lambda tick: agent.act(state, actor, timestep_of(4), tick)[0], jnp.arange(5)
            )
            learned = jax.lax.map(
                lambda tick: agent.learn(state, ring, tick)[2], jnp.array([10, 11])
            )
            return acted, learned

        acted.append(jax.device_get(run(*random_steps(4, 10))[0]))
        jax.effects_barrier()
        drawn.append(np.stack(rows))
    np.testing.assert_array_equal(*acted)  # epsilon is 1 before learning starts
    assert np.unique(acted[0]).size == 3
    assert len(drawn[0]) == 2
    np.testing.assert_array_equal(*drawn)
