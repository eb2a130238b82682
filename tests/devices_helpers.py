"""What tests of several devices share."""

import jax
import pytest

from jdqn import devices
from jdqn.replay import shards

needs_several = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


def spread(state, config):
    """A replay's state of one device, over the devices of a configuration."""
    mesh = devices.make_mesh(config)
    grouped = state.replace(priorities=shards.regrouped(state.priorities, mesh.size))
    placements = devices.placed(mesh, shards.specs(config))
    every = jax.tree.map(lambda at, tree: jax.tree.map(lambda _: at, tree), placements, grouped)
    return jax.device_put(grouped, every)
