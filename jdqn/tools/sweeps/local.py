"""Trials on this machine: as many at once as its cores, its memory and its GPUs allow."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from jdqn.config import ConfigError
from jdqn.tools.sweeps import attempt
from jdqn.tools.sweeps.attempt import Attempt, Job, Outcome, Place
from jdqn.tools.sweeps.plan import Plan, counted
from jdqn.tools.sweeps.schema import Resources

MEMORY_USED = 0.9  # of what is available: the rest is for all else


class Machine(NamedTuple):
    """What there is."""

    cores: tuple[int, ...]  # that this process may use
    memory_bytes: int  # that is available
    gpus: tuple[str, ...]  # as CUDA_VISIBLE_DEVICES names them


def this_machine() -> Machine:
    """What this process may use of this machine."""
    from jdqn.runs import memory

    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = sorted(affinity(0)) if affinity else range(os.cpu_count() or 1)
    return Machine(tuple(cores), memory.of_machine().num_bytes, gpus_of())


def gpus_of() -> tuple[str, ...]:
    """The GPUs that jdqn.train would see: none where jax cannot use any."""
    plugins = [d.name for d in importlib.metadata.distributions() if d.name]
    can = any(name.startswith(("jax-cuda", "jax_cuda")) for name in plugins)
    if not can or os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return ()
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(number) for number in range(len(lines)))


def places(machine: Machine, resources: Resources, memory_bytes: int) -> tuple[list[Place], str]:
    """Where trials run at the same time, and what their number is owed to, in words.

    Args:
      machine: what there is.
      resources: what a trial gets.
      memory_bytes: of the largest trial.

    Raises:
      ConfigError: not one fits.
    """
    cores = resources.cores
    if cores > len(machine.cores):
        raise ConfigError(f"resources.cores = {cores}: this process may use {len(machine.cores)}")
    limits = {f"{counted(len(machine.cores), 'core')}, {cores} each": len(machine.cores) // cores}
    fit = int(machine.memory_bytes * MEMORY_USED // memory_bytes)
    if fit < 1:
        raise ConfigError(
            f"a trial needs about {memory_bytes / 1e9:.1f} GB, and "
            f"{machine.memory_bytes / 1e9:.1f} GB are available; make replay.capacity smaller, or "
            "say resources.memory_gb"
        )
    limits[f"{machine.memory_bytes / 1e9:.1f} GB, {memory_bytes / 1e9:.1f} each"] = fit
    gpus = _gpus_for(machine, resources)
    if gpus:
        limits[counted(len(machine.gpus), "GPU")] = len(gpus)
    if resources.at_once:
        limits[f"resources.at_once = {resources.at_once}"] = resources.at_once
    words = min(limits, key=limits.__getitem__)
    found = []
    for i in range(limits[words]):
        pinned = machine.cores[i * cores : (i + 1) * cores]
        found.append(Place(pinned, cores, gpus[i] if gpus else None))
    return found, words


def _gpus_for(machine: Machine, resources: Resources) -> list[str]:
    """The GPU of each trial that can be there at once; none: they need none."""
    if resources.gpus == "auto":
        return list(machine.gpus)
    if not resources.gpus:
        return []
    if not machine.gpus:
        raise ConfigError(f"resources.gpus = {resources.gpus:g}: no GPU was found")
    share = int(1 / resources.gpus) if resources.gpus < 1 else 1
    whole = max(int(resources.gpus), 1)
    groups = [
        ",".join(machine.gpus[i : i + whole])
        for i in range(0, len(machine.gpus) - whole + 1, whole)
    ]
    if not groups:
        raise ConfigError(
            f"resources.gpus = {resources.gpus:g}: this machine has {len(machine.gpus)}"
        )
    return [group for _ in range(share) for group in groups]


class Local:
    """Runs trials as children of this process."""

    def __init__(
        self,
        plan: Plan,
        directory: pathlib.Path,
        places: Sequence[Place],
    ):
        self._plan = plan
        self._directory = directory
        self._free = list(reversed(places))
        self._running: dict[Attempt, Place] = {}

    @property
    def running(self) -> list[tuple[Job, int]]:
        """Jobs, and the numbers of their attempts."""
        return [(attempt.job, attempt.number) for attempt in self._running]

    def has_room(self) -> bool:
        """Whether another trial can be started."""
        return bool(self._free)

    def start(self, job: Job) -> None:
        """Starts a trial where there is room. Raises OSError."""
        folder = attempt.folder_of(self._directory, job.trial)
        place = self._free.pop()
        retries = self._plan.sweep.max_retries
        self._running[Attempt(job, folder, place, retries)] = place

    def poll(self) -> list[tuple[Job, Outcome]]:
        """What has ended since the last time. Raises OSError."""
        ended = []
        for one in list(self._running):
            if (outcome := one.poll()) is not None:
                self._free.append(self._running.pop(one))
                ended.append((one.job, outcome))
        return ended

    def stop(self) -> None:
        """Asks all to end with a checkpoint; `poll` says when they have."""
        for one in self._running:
            one.stop()

    def close(self) -> None:
        """Ends what still runs, by closing its pipe."""
        self.stop()
