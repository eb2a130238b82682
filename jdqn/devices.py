"""Several devices: how many a run uses, and how its arrays lie on them."""

import functools
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jdqn.config import Config, ConfigError, with_overrides

AXIS = "data"  # along which environments and batches are split
WHOLE = PartitionSpec()  # the same on every device
SPLIT = PartitionSpec(AXIS)  # the first axis is split


def resolved(config: Config) -> Config:
    """The configuration with a number in `train.num_devices`, of devices that are there.

    Raises:
      ConfigError: there are fewer, so many do not fit the configuration, or they belong to several
        processes.
    """
    asked = config.train.num_devices
    if asked == 1:  # jax is not asked, which takes seconds
        return config
    if jax.process_count() > 1:
        raise ConfigError(f"{jax.process_count()} processes of jax: a run uses those of one")
    there = jax.device_count()
    if asked == "all":
        return with_overrides(config, train__num_devices=there)
    if int(asked) > there:
        kind = jax.devices()[0].device_kind
        raise ConfigError(
            f"train.num_devices = {asked}: must be at most {there}, as many as jax finds ({kind})"
        )
    return config


def make_mesh(config: Config) -> Mesh | None:
    """The devices of a run whose configuration is `resolved`; None: it has one."""
    num_devices = config.train.num_devices
    return None if num_devices == 1 else _mesh(num_devices)


@functools.lru_cache
def _mesh(num_devices: int) -> Mesh:
    devices = jax.devices()[:num_devices]
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


def put_like(tree: Any, like: Any) -> Any:
    """Arrays of a tree on the devices of another's, where those are several."""

    def put(x: Any, other: Any) -> Any:
        return jax.device_put(x, other.sharding) if _lies_apart(other) else x

    return jax.tree.map(put, tree, like)


def _lies_apart(x: Any) -> bool:
    """Whether an array is on several devices."""
    return isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
