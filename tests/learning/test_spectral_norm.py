"""The power iterations of the spectral norm are kept with the parameters; the largest is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny, vector_spec
from learning_helpers import build, equal_to_the_bit

from jdqn.runs import checkpoint, exported

SPEC = vector_spec()._replace(frame_shape=(3, 4))
CONFIG = tiny(network__torso="impala", network__spectral_norm=True)


@pytest.fixture(scope="module")
def made():
    """An agent, and a state whose online network and target differ."""
    agent = build(CONFIG, SPEC).agent
    state, _ = agent.init(jax.random.key(0))
    moved = jax.tree.map(lambda x: x + 0.5, state.network_state)
    return agent, state.replace(network_state=moved)


def test_a_checkpoint_and_an_exported_agent_keep_them(made, tmp_path):
    _, state = made
    checkpoints = checkpoint.Checkpoints(CONFIG, tmp_path, "run")
    checkpoints.save_best(400, 100, [state], 0.0)
    found = checkpoint.find(tmp_path, "best", run_id="run", agents_only=True)
    (loaded,) = checkpoint.load_states(found, state, 1)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert all(equal_to_the_bit(loaded.network_state, state.network_state))
    assert all(equal_to_the_bit(loaded.target_network_state, state.target_network_state))
    about = exported.About("run", 400, 0, checkpoint.config_record(CONFIG), [])
    (tmp_path / exported.FILE).write_bytes(exported.to_bytes(state, about, "float32"))
    loaded, _ = exported.read(tmp_path, state)
    assert all(equal_to_the_bit(loaded.network_state, state.network_state))


def test_the_largest_norm_is_shown(made):
    agent, state = made
    sigmas = [x for x in jax.tree.leaves(state.network_state) if x.ndim == 0]
    assert len(sigmas) == 4
    shown = agent.diagnose(state, jnp.zeros((2, 2, 3, 4)))["spectral_norm"]
    np.testing.assert_array_equal(shown, max(sigmas))
