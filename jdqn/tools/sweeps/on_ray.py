"""Trials on a Ray cluster: one task each, which watches a process of jdqn.train on its node.

The sweep's directory must be the same folder on all nodes. A worker or a node that is lost takes
its processes along, by their pipes; the trial goes on elsewhere from its newest checkpoint.
"""

import os
import pathlib
import socket
import time
from collections.abc import Sequence
from typing import Any

from jdqn.config import ConfigError, RunError, shown
from jdqn.tools.sweeps import attempt, folders
from jdqn.tools.sweeps.attempt import Attempt, Job, Outcome, Place
from jdqn.tools.sweeps.plan import Plan

AUTO = "auto"  # an address: of the cluster that was started on this machine
LOCAL = "local"  # an address: a cluster is started here, for this sweep
POLL_SECONDS = 0.2
CONNECT_SECONDS = 5.0
# Of workers: they would kill their children when the sweep is gone. These end by themselves, and
# save a checkpoint first.
VARIABLES = {"RAY_kill_child_processes_on_worker_exit": "false"}


def run_attempt(
    job: Job, directory: str, here: str, max_retries: int, num_threads: int
) -> tuple[Any, ...]:
    """One attempt, on a node: what `Outcome` holds.

    Args:
      job: the trial.
      directory: of the sweep, absolute.
      here: the folder in which the sweep was started.
      max_retries: of a crash.
      num_threads: that the process may have.
    """
    if not os.path.isdir(here):
        raise FileNotFoundError(f"{here} is not a folder on this node: it must be the same on all")
    os.chdir(here)
    folder = attempt.folder_of(pathlib.Path(directory), job.trial)
    one = Attempt(job, folder, Place(num_threads=num_threads), max_retries)
    while True:
        try:
            if (outcome := one.poll()) is not None:
                return tuple(outcome)
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:  # cancelled by the sweep
            one.stop()


class OnRay:
    """Runs trials as tasks of Ray."""

    def __init__(self, plan: Plan, address: str):
        """Connects. Raises ConfigError where Ray is missing, or no cluster answers."""
        self._ray = _ray()
        self._plan = plan
        self._directory = plan.directory.absolute()
        self._running: dict[Any, Job] = {}  # by the task's reference
        self._stops = False
        _check_address(address)
        options: dict[str, Any] = {"log_to_driver": False, "runtime_env": {"env_vars": VARIABLES}}
        options |= {"include_dashboard": False} if address == LOCAL else {"address": address}
        try:
            self._ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"--ray {address}: no cluster answers: {reason}") from None
        resources = plan.resources
        gpus: float = 0
        if resources.gpus != "auto":
            gpus = resources.gpus
        elif self._ray.cluster_resources().get("GPU", 0):
            gpus = 1
        self._needs = {"CPU": float(resources.cores), "GPU": gpus, "memory": plan.memory_bytes()}
        self._run = self._ray.remote(
            num_cpus=resources.cores,
            num_gpus=gpus,
            memory=self._needs["memory"],
            max_retries=0,  # a trial begins again here, under a higher number
        )(run_attempt)
        if not self.num_places():
            raise ConfigError(f"--ray {address}: no trial fits on {self._told()}")

    def num_places(self) -> int:
        """How many trials fit on the cluster now."""
        there = self._ray.cluster_resources()
        fit = [there.get(name, 0) // need for name, need in self._needs.items() if need]
        most = self._plan.resources.at_once
        return int(min([*fit, most] if most else fit))

    def words(self) -> str:
        """What there is."""
        return f"Ray, {self._told()}"

    def _told(self) -> str:
        there = self._ray.cluster_resources()
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        gpus = f", {there['GPU']:g} GPUs" if there.get("GPU") else ""
        cores = f"{there.get('CPU', 0):g} cores{gpus}, {there.get('memory', 0) / 1e9:.1f} GB"
        return f"{nodes} node{'s' * (nodes != 1)} with {cores}"

    @property
    def running(self) -> list[tuple[Job, int]]:
        """Jobs, and the numbers of their newest attempts."""
        return [
            (job, attempt.folder_of(self._directory, job.trial).newest())
            for job in self._running.values()
        ]

    def has_room(self) -> bool:
        """Whether another trial can be started."""
        return len(self._running) < self.num_places()

    def start(self, job: Job) -> None:
        """Hands a trial to the cluster."""
        reference = self._run.remote(
            job,
            str(self._directory),
            os.getcwd(),
            self._plan.sweep.max_retries,
            self._plan.resources.cores,
        )
        self._running[reference] = job

    def poll(self) -> Sequence[tuple[Job, Outcome]]:
        """What has ended since the last time.

        Raises:
          RunError: the cluster is gone.
        """
        if not self._running:
            return []
        errors = self._ray.exceptions
        waited = list(self._running)
        try:
            ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=0)
        except errors.RayError as error:
            raise RunError(f"the Ray cluster is gone: {error}; the same command goes on") from None
        ended = []
        for reference in ready:
            job = self._running.pop(reference)
            try:
                outcome = Outcome(*self._ray.get(reference))
            except errors.RayError as error:
                outcome = self._lost(job, error)
            ended.append((job, outcome))
        return ended

    def _lost(self, job: Job, error: Exception) -> Outcome:
        """What becomes of a trial whose worker is gone, or could not begin."""
        reason = str(getattr(error, "cause", None) or error).strip().partition("\n")[0]
        sentence = f"{type(error).__name__}: {reason}"
        folder = attempt.folder_of(self._directory, job.trial)
        number = folder.newest()
        if self._stops:
            return Outcome(folders.STOPPED, number)
        if (result := folder.final_result()) is not None:  # written, and not told any more
            return Outcome(result["status"], number, result)
        if folder.has_ended(number):  # the worker had not begun
            number = folder.claim()
        retries = self._plan.sweep.max_retries
        return attempt.crashed(job.trial, folder, number, folders.LOST, sentence, retries)

    def stop(self) -> None:
        """Asks all to end with a checkpoint; `poll` says when they have."""
        self._stops = True
        for reference in self._running:
            self._ray.cancel(reference)

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        self._ray.shutdown()


def _check_address(address: str) -> None:
    """Raises ConfigError where an address is none, or nothing is there: Ray waits for minutes."""
    told = f"--ray {address}"
    if address == AUTO and "RAY_ADDRESS" in os.environ:  # else what Ray has started here
        address = os.environ["RAY_ADDRESS"]
        told += f", which is RAY_ADDRESS = {shown(address)}"
    if address in (AUTO, LOCAL):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{told}: must be auto, local, or host:port such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{told}: no cluster answers: {reason}") from None


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--ray: Ray is not installed; pip install -e '.[ray]' in the checkout of jdqn"
        ) from None
    return ray
