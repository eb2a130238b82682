"""Whether a run fits into memory, asked before anything is allocated."""

import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import psutil

from jdqn import envs, kernels, learning
from jdqn.config import Config, ConfigError, PassingError, shown
from jdqn.learning.diagnostics import HELD_OUT_STATES
from jdqn.learning.model import AgentState, draw_samples, make_model, online_variables
from jdqn.records import EnvSpec
from jdqn.replay import Replay

GROUPS = pathlib.Path("/sys/fs/cgroup")
MEMBERSHIP = pathlib.Path("/proc/self/cgroup")


class Limit(NamedTuple):
    """How many more bytes may be used, and what says so."""

    num_bytes: int
    name: str
    shared_bytes: int = 0  # that all of this machine or group may use; 0: it is of this process


def check_memory(config: Config, spec: EnvSpec, replay: Replay, agent: learning.Agent) -> None:
    """Raises ConfigError where a run needs more than there is; PassingError: than others leave."""
    seeds = config.train.num_seeds
    parts = needed(config, spec, replay, agent)
    total = sum(parts.values()) * seeds
    limit = available()
    if total <= limit.num_bytes:
        return
    field = max(parts, key=parts.__getitem__)
    section, _, name = field.partition(".")
    value = shown(config.model_dump()[section][name]).replace("(", "[").replace(")", "]")
    of_seeds = f" for {seeds} seeds" if seeds > 1 else ""
    may_pass = total <= limit.shared_bytes
    raise (PassingError if may_pass else ConfigError)(
        f"{field} = {value}: the run needs {total:,} bytes{of_seeds}, {parts[field] * seeds:,} of "
        f"them because of this; {max(limit.num_bytes, 0):,} are available ({limit.name})"
    )


def needed(config: Config, spec: EnvSpec, replay: Replay, agent: learning.Agent) -> dict[str, int]:
    """Bytes of one seed, by the field that most of them are owed to."""
    state, actor = jax.eval_shape(agent.init, jax.random.key(0))
    torso = _num_bytes(_of_torso(state.params))
    params = _num_bytes(state.params)
    of_torso = "torso_width" if "ImpalaTorso_0" in state.params["params"] else "torso_hidden"
    widths = of_torso if torso > params - torso else "hidden"
    stack = spec.frame_stack * math.prod(spec.frame_shape)
    as_floats = 4 * stack
    stored_and_floats = stack * spec.frame_dtype.itemsize + as_floats
    # Each of several devices has a part of the replay; those of a CPU share its memory.
    memories = jax.process_count() if kernels.on_cpu() else int(config.train.num_devices)
    parts = {
        "replay.capacity": replay.num_bytes // memories,
        # Gradients are as large as what they are of.
        f"network.{widths}": _num_bytes(state) + params,
        "replay.batch_size": 2 * config.replay.batch_size * stored_and_floats
        + 2 * _num_bytes(_answers(config, spec, state)),  # and gradients as large
        "env.num_envs": _num_bytes(actor) + config.env.num_envs * as_floats,
        "env.frame_stack": min(HELD_OUT_STATES, replay.capacity) * stored_and_floats,
    }
    if envs.is_native(config.env.name):
        # One call of the fused loop returns a log period: a reward and three flags a step.
        parts["train.log_period_steps"] = 7 * config.train.log_period_steps
    return parts


def _of_torso(params: Any) -> list[Any]:
    """The parameters that no head has of its own."""
    return [layer for name, layer in params["params"].items() if "Torso" in name]


def _answers(config: Config, spec: EnvSpec, state: AgentState) -> Any:
    """What every layer says of a batch, and learning keeps for the way back: a tree of shapes."""
    model = make_model(config, spec, learning.make_value_head(config))
    shape = (config.replay.batch_size, spec.frame_stack, *spec.frame_shape)
    obs = jax.ShapeDtypeStruct(shape, spec.frame_dtype)

    def answers(variables: Any, obs: jax.Array) -> Any:
        samples = draw_samples(model, jax.random.key(0), "online", len(obs))
        kept: dict[str, Any] = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return model.mean_network.apply(variables, obs, samples, **kept)[1]

    return jax.eval_shape(answers, online_variables(state), obs)


def _num_bytes(tree: Any) -> int:
    """Of all arrays of a tree of shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def available() -> Limit:
    """What the device has left; on a CPU the least that machine, control group, process allow."""
    if not kernels.on_cpu():
        return of_device(jax.local_devices()[0])
    return of_machine()


def of_machine() -> Limit:
    """The least that machine, control group and process allow; asks no device."""
    memory = psutil.virtual_memory()
    machine = Limit(memory.available, "memory of the machine", memory.total)
    return min([machine, *of_groups(GROUPS, MEMBERSHIP), *of_process()])


def of_device(device: jax.Device) -> Limit:
    """What an accelerator leaves of the share of its memory that jax takes.

    On a GPU `XLA_CLIENT_MEM_FRACTION` says how large that is, three quarters else. A device that
    does not tell (`XLA_PYTHON_CLIENT_ALLOCATOR=platform`) has no limit here.
    """
    stats = device.memory_stats() or {}
    most = stats.get("bytes_limit", 0)
    if most <= 0:
        return Limit(sys.maxsize, f"{device.device_kind} does not tell")
    left = most - stats.get("bytes_in_use", 0)
    return Limit(left, f"jax's limit of {most:,} bytes on {device.device_kind}")


def of_groups(groups: pathlib.Path, membership: pathlib.Path) -> Iterator[Limit]:
    """What the process's control groups and their parents leave, of version 1 and 2."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            roots = [groups / "memory"]
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            roots = [groups, groups / "unified"]
            files = ("memory.max", "memory.current")
        else:
            continue
        own = pathlib.PurePosixPath(path.lstrip("/"))
        for root in roots:
            # In a container the path may be the host's; then only the root is there.
            yield from (
                limit for group in (own, *own.parents) for limit in _of_group(root / group, *files)
            )


def _of_group(folder: pathlib.Path, maximum: str, usage: str) -> Iterator[Limit]:
    """What one group leaves; the cache of files is given back when it is needed."""
    try:
        most = int((folder / maximum).read_text())
        used = int((folder / usage).read_text())
        statistics = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
    except (OSError, ValueError):  # no such group, or "max"
        return
    files = 0
    for name in ("inactive_file", "active_file"):  # version 1 has a total of all groups below
        files += int(statistics.get(f"total_{name}", statistics.get(name, 0)))
    yield Limit(most - max(used - files, 0), f"control group limit of {most:,} bytes", most)


def of_process() -> Iterator[Limit]:
    """What the limits of the process leave, as `ulimit -v` and `ulimit -d` set them."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = psutil.Process().memory_info()
    limits = [("v", resource.RLIMIT_AS, used.vms)]
    if hasattr(used, "data"):  # Linux
        limits.append(("d", resource.RLIMIT_DATA, used.data))
    for option, number, now in limits:
        most, _ = resource.getrlimit(number)
        if most != resource.RLIM_INFINITY:
            yield Limit(most - now, f"ulimit -{option} of {most:,} bytes")
