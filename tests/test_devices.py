"""How many devices a run uses, and how arrays lie on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices_helpers import needs_several
from helpers import tiny

from jdqn import devices
from jdqn.config import ConfigError
from jdqn.devices import SPLIT, WHOLE


def test_one_device_has_no_mesh_and_asks_nothing_of_jit():
    assert devices.make_mesh(tiny()) is None
    assert devices.out(None, None) == {}


@needs_several
def test_all_devices_are_those_there_are():
    config = devices.resolved(tiny(env__num_envs=8, train__num_devices="all"))
    assert config.train.num_devices == jax.device_count()
    assert devices.resolved(tiny(train__num_devices=2)).train.num_devices == 2


@needs_several
def test_all_devices_must_fit_the_environments():
    with pytest.raises(ConfigError, match=r"num_devices = 8: must divide env\.num_envs = 4"):
        devices.resolved(tiny(env__num_envs=4, train__num_devices="all"))


def test_more_devices_than_there_are_are_refused():
    there = jax.device_count()
    number = 16 * there
    sizes = {
        "env__num_envs": number,
        "replay__batch_size": number,
        "replay__capacity": 100 * number,
    }
    config = tiny(train__num_devices=number, train__learning_starts_steps=10 * number, **sizes)
    expected = (
        rf"num_devices = {number}: must be at most {there}, as many as jax finds \(.*\); --train"
        r"\.num_devices all takes these, also where a run goes on$"
    )
    with pytest.raises(ConfigError, match=expected):
        devices.resolved(config)


@needs_several
def test_what_is_the_same_on_all_devices_is_taken_from_one():
    mesh = devices.make_mesh(tiny(train__num_devices=4))
    x = jax.device_put(jnp.arange(4.0), devices.placed(mesh, WHOLE))
    key = jax.device_put(jax.random.key(3), devices.placed(mesh, WHOLE))
    host = np.arange(3)
    one, key_of_one, same, none = devices.local((x, key, host, {}))
    assert len(one.sharding.device_set) == len(key_of_one.sharding.device_set) == 1
    assert np.array_equal(one, np.arange(4.0))
    assert np.array_equal(jax.random.key_data(key_of_one), jax.random.key_data(jax.random.key(3)))
    assert same is host
    assert none == {}


@needs_several
def test_arrays_go_where_others_are():
    mesh = devices.make_mesh(tiny(train__num_devices=4))
    apart = jax.device_put(jnp.zeros(8), devices.placed(mesh, SPLIT))
    alone = jnp.zeros(8)
    moved, kept = devices.put_like([jnp.arange(8.0), alone], [apart, jnp.ones(8)])
    assert moved.sharding == apart.sharding
    assert np.array_equal(moved, np.arange(8.0))
    assert kept is alone


@needs_several
@pytest.mark.parametrize("number", [1, 2])
def test_several_processes_use_all_their_devices(monkeypatch, number):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match=rf"num_devices = {number}: must be all, 8, with 2 proc"):
        devices.resolved(tiny(train__num_devices=number))


@needs_several
def test_what_a_process_has_is_found_by_device():
    mesh = devices.make_mesh(tiny(env__num_envs=8, train__num_devices=8))
    x = jax.device_put(jnp.arange(16.0), devices.placed(mesh, SPLIT))
    assert devices.gathered({"x": x, "n": 3}) == {"x": x, "n": 3}
    parts = devices.own_parts([x])
    assert [part.tolist() for (part,) in parts] == [[2.0 * i, 2.0 * i + 1] for i in range(8)]
    shared = devices._share(np.arange(16.0), x.sharding)
    assert shared.sharding == x.sharding
    assert np.array_equal(shared, np.arange(16.0))
    everywhere = devices._everywhere(8)(x)
    assert everywhere.is_fully_replicated
    assert np.array_equal(everywhere.addressable_data(5), np.arange(16.0))
