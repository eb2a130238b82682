"""Several devices: how many a run uses, and how its arrays lie on them."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jdqn.config import Config, ConfigError, with_overrides

AXIS = "data"  # along which environments and batches are split
WHOLE = PartitionSpec()  # the same on every device
SPLIT = PartitionSpec(AXIS)  # the first axis is split


def resolved(config: Config) -> Config:
    """The configuration with a number in `train.num_devices`, of devices that are there.

    Raises:
      ConfigError: there are fewer, so many do not fit the configuration, or several processes
        have more.
    """
    asked = config.train.num_devices
    if asked == 1 and not jax.distributed.is_initialized():  # jax is not asked: it takes seconds
        return config
    there = jax.device_count()
    if asked == "all":
        return with_overrides(config, train__num_devices=there)
    if int(asked) > there:
        kind = jax.devices()[0].device_kind
        raise ConfigError(
            f"train.num_devices = {asked}: must be at most {there}, as many as jax finds ({kind}); "
            "--train.num_devices all takes these, also where a run goes on"
        )
    if jax.process_count() > 1 and asked != there:
        raise ConfigError(
            f"train.num_devices = {asked}: must be all, {there}, with {jax.process_count()} "
            "processes of jax"
        )
    return config


def make_mesh(config: Config) -> Mesh | None:
    """The devices of a run whose configuration is `resolved`; None: it has one."""
    num_devices = config.train.num_devices
    return None if num_devices == 1 else _mesh(num_devices)


@functools.lru_cache
def _mesh(num_devices: int) -> Mesh:
    devices = jax.devices()[:num_devices]
    if jax.process_count() > 1:  # those of a process side by side
        devices = sorted(devices, key=lambda device: (device.process_index, device.id))
        return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    return jax.make_mesh((num_devices,), (AXIS,), (AxisType.Auto,), devices=devices)


def placed(mesh: Mesh, specs: Any) -> Any:
    """A tree of specs as shardings over a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def out(*shardings: Any) -> dict[str, Any]:
    """The option of `jit` that says where results lie; none on one device, where all are None."""
    if jax.tree.leaves(shardings) == []:
        return {}
    return {"out_shardings": shardings if len(shardings) > 1 else shardings[0]}


def local(tree: Any) -> Any:
    """What is the same on every device, from the first one of this process, without a copy."""
    return jax.tree.map(lambda x: x.addressable_data(0) if _lies_apart(x) else x, tree)


def put(tree: Any, sharding: NamedSharding | None) -> Any:
    """Arrays on the devices of a sharding, None: on the usual one; what lies there stays."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: x if _lies_apart(x) else _share(x, sharding), tree)


def own(x: jax.Array) -> np.ndarray:
    """Of an array that is split, what this process has; with one process all."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.concatenate([x.addressable_data(i) for i in range(len(jax.local_devices()))])


def put_like(tree: Any, like: Any) -> Any:
    """Arrays of a tree on the devices of another's, where those are several."""

    def put(x: Any, other: Any) -> Any:
        if x is other or not _lies_apart(other):
            return x
        if other.is_fully_addressable:
            return jax.device_put(x, other.sharding)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(_share(jax.random.key_data(x), other.sharding))
        return _share(x, other.sharding)

    return jax.tree.map(put, tree, like)


def _share(x: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, over the devices of all of them."""
    whole = np.array(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def gathered(tree: Any) -> Any:
    """The arrays of a tree as this process has them, also what lies with others.

    All processes call it at the same place; with one it changes nothing.
    """

    def gather(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        whole = x if x.is_fully_replicated else _everywhere(jax.device_count())(x)
        return whole.addressable_data(0)

    return jax.tree.map(gather, tree)


@functools.lru_cache
def _everywhere(num_devices: int) -> Any:
    """A function that makes an array the same on every device."""
    return jax.jit(lambda x: x, out_shardings=placed(_mesh(num_devices), WHOLE))


def own_parts(tree: Any) -> list[Any]:
    """A tree of arrays for each device of this process, without a copy."""
    number = len(jax.local_devices())
    return [jax.tree.map(lambda x, i=i: x.addressable_data(i), tree) for i in range(number)]


def _lies_apart(x: Any) -> bool:
    """Whether an array is on several devices."""
    return isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
