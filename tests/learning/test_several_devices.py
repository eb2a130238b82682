"""Learning and acting on several devices, beside one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices_helpers import needs_several, spread
from helpers import tiny
from learning_helpers import SPEC, fill, quick_jit, random_steps, timestep_of

from jdqn import devices, learning, replay
from jdqn.devices import SPLIT, WHOLE
from jdqn.learning import update
from jdqn.replay import priorities, shards

pytestmark = needs_several

NUM_DEVICES = 4
NUM_ENVS = 16
BATCH = 32


def made(**overrides):
    """Configuration, mesh, and the agent beside the replay of one device and of several."""
    config = tiny(
        **{
            "env__num_envs": NUM_ENVS,
            "train__num_devices": NUM_DEVICES,
            "train__learning_starts_steps": 128,
            "replay__capacity": 16 * NUM_ENVS,
            "network__heads": 3,
        }
        | overrides
    )
    mesh = devices.make_mesh(config)
    memories = (replay.make_replay(config, SPEC), shards.make_replay(config, SPEC, mesh))
    return config, mesh, [(learning.make_agent(config, SPEC, m), m) for m in memories]


def drawn_by_devices(state):
    """The same rows for both: environments numbered in the run, and within a device."""
    rng = np.random.default_rng(0)
    leaves = np.asarray(state.priorities.leaves).reshape(-1, NUM_ENVS)
    parts = [np.argwhere(part > 0) for part in np.split(leaves, NUM_DEVICES, axis=1)]
    picked = np.concatenate([rng.choice(part, BATCH // NUM_DEVICES) for part in parts])
    row, env = picked.astype(np.int32).T
    device = np.arange(BATCH) // (BATCH // NUM_DEVICES)
    everywhere = env + device * (NUM_ENVS // NUM_DEVICES)
    leaf = leaves[row, everywhere]
    return [priorities.Drawn(row, e.astype(np.int32), leaf) for e in (everywhere, env)]


def test_the_same_batch_gives_the_same_gradient_and_update():
    config, mesh, both = made(
        agent="rainbow", replay__importance_exponent=0.0, replay__importance_exponent_final=0.0
    )
    state, _ = quick_jit(both[0][0].init)(jax.random.key(0))
    ring = quick_jit(fill(both[0][1]))(*random_steps(NUM_ENVS))
    states = (state, jax.device_put(state, devices.placed(mesh, WHOLE)))
    rings = (ring, spread(ring, config))
    keys = jax.random.split(jax.random.key(1), 3)
    found = []
    flops = []
    rows = drawn_by_devices(ring)
    for (agent, _), *before, drawn in zip(both, states, rings, rows, strict=True):
        (learner,) = agent.learn.args
        step = quick_jit(functools.partial(update.update, learner))
        draws = update.Draws(jnp.zeros((BATCH, 4)), drawn, keys, None, jnp.asarray(True))
        program = step.lower(*before, draws, 19).compile()
        flops.append(program.cost_analysis()["flops"])
        found.append(program(*before, draws, 19))
    assert flops[1] < 0.5 * flops[0]  # of one device: it computes its part of the batch alone
    (one, ring_of_one, metrics), (several, ring_of_several, metrics_of_several) = found
    assert metrics["gradient_norm"] > 0.01
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_of_several[name], value, rtol=1e-5, err_msg=name)
    # The optimiser's first moment is a multiple of the gradient.
    for x, y in zip(*map(jax.tree.leaves, (one.opt_state, several.opt_state)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    for x, y in zip(*map(jax.tree.leaves, (one.params, several.params)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
        assert y.sharding.is_fully_replicated
    leaves = [np.asarray(r.priorities.leaves) for r in (ring_of_one, ring_of_several)]
    np.testing.assert_allclose(*leaves, rtol=1e-5)


@pytest.mark.parametrize(
    ("noisy", "behaviour"),
    [
        ("factorised", "head_per_step"),
        pytest.param("independent", "vote", marks=pytest.mark.slow),
    ],
)
def test_acting_does_not_depend_on_the_number_of_devices(noisy, behaviour):
    """Epsilon, noise, heads and ties are drawn for an environment, wherever it is."""
    _, mesh, both = made(
        network__noisy=noisy,
        network__noisy_sigma=5.0,
        agent__behaviour=behaviour,
        agent__epsilon_start=0.3,
        agent__epsilon_end=0.3,
    )
    acted = []
    for (agent, _), several in zip(both, (False, True), strict=True):
        state, actor = quick_jit(agent.init)(jax.random.key(0))
        timestep = timestep_of(NUM_ENVS, first=True)
        if several:
            state = jax.device_put(state, devices.placed(mesh, WHOLE))
            split = learning.ActorState(SPLIT, SPLIT, WHOLE)
            actor = jax.device_put(actor, devices.placed(mesh, split))
            timestep = jax.device_put(timestep, devices.placed(mesh, SPLIT))
        act = quick_jit(agent.act)
        seen = []
        for tick in range(6):
            action, actor = act(state, actor, timestep, tick)
            seen.append((np.asarray(action), np.asarray(actor.head)))
        assert len(action.sharding.device_set) == (NUM_DEVICES if several else 1)
        acted.append(np.array(seen))
    assert np.array_equal(*acted)
    assert len(np.unique(acted[0][:, 0])) == SPEC.num_actions
