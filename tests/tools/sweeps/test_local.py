"""How many trials fit on a machine, and where each of them runs."""

import importlib.metadata
import types

import pytest
from sweeps_helpers import ended, make_plan, stand_in

from jdqn.config import ConfigError
from jdqn.tools.sweeps import folders, local
from jdqn.tools.sweeps.attempt import Job, Place
from jdqn.tools.sweeps.local import Machine
from jdqn.tools.sweeps.schema import Resources

GB = 10**9


@pytest.mark.parametrize(
    ("machine", "resources", "cores", "gpus", "why"),
    [
        (Machine((0, 1, 5, 6), 64 * GB, ()), {}, [(0,), (1,), (5,), (6,)], [None] * 4, "cores"),
        (Machine((0, 1, 5, 6), 64 * GB, ()), {"cores": 2}, [(0, 1), (5, 6)], [None] * 2, "cores"),
        (Machine((0, 1, 5), 5 * GB, ()), {}, [(0,), (1,)], [None] * 2, "5.0 GB, 2.0 each"),
        (Machine((0, 1, 5), 64 * GB, ()), {"at_once": 1}, [(0,)], [None], "at_once = 1"),
        (Machine((0, 1, 5), 64 * GB, ("0", "2")), {}, [(0,), (1,)], ["0", "2"], "2 GPUs"),
        (Machine((0, 1, 5), 64 * GB, ("0",)), {"gpus": 0}, [(0,), (1,), (5,)], [None] * 3, "co"),
        (Machine((0, 1, 5), 64 * GB, ("0",)), {"gpus": 0.5}, [(0,), (1,)], ["0", "0"], "1 GPU"),
        (Machine((0, 1), 64 * GB, ("0", "1", "2")), {"gpus": 2}, [(0,)], ["0,1"], "3 GPUs"),
    ],
)
def test_as_many_at_once_as_fit(machine, resources, cores, gpus, why):
    found, words = local.places(machine, Resources(**resources), 2 * GB)
    assert [place.cores for place in found] == cores
    assert [place.gpu for place in found] == gpus
    assert {place.num_threads for place in found} == {resources.get("cores", 1)}
    assert why in words


@pytest.mark.parametrize(
    ("machine", "resources", "said"),
    [
        (Machine((0, 1), 64 * GB, ()), {"cores": 3}, ["resources.cores = 3", "may use 2"]),
        (Machine((0, 1), 2 * GB, ()), {}, ["2.0 GB", "are available", "resources.memory_gb"]),
        (Machine((0, 1), 64 * GB, ()), {"gpus": 1}, ["resources.gpus = 1", "no GPU"]),
        (Machine((0, 1), 64 * GB, ("0",)), {"gpus": 2}, ["resources.gpus = 2", "has 1"]),
    ],
)
def test_what_does_not_fit_is_refused(machine, resources, said):
    with pytest.raises(ConfigError) as info:
        local.places(machine, Resources(**resources), 2 * GB)
    for words in said:
        assert words in str(info.value)


@pytest.mark.parametrize(
    ("plugins", "variables", "listed", "want"),
    [
        ([], {}, "GPU 0: H100\nGPU 1: H100\n", ()),  # jax would not use them
        (["jax-cuda13-plugin"], {}, "GPU 0: H100\nGPU 1: H100\n", ("0", "1")),
        (["jax-cuda13-plugin"], {"CUDA_VISIBLE_DEVICES": "3, 5"}, "GPU 0: H100\n", ("3", "5")),
        (["jax-cuda13-plugin"], {"CUDA_VISIBLE_DEVICES": ""}, "GPU 0: H100\n", ()),
        (["jax-cuda13-plugin"], {"JAX_PLATFORMS": "cpu"}, "GPU 0: H100\n", ()),
        (["jax-cuda13-plugin"], {}, "No devices were found\n", ()),
        (["jax-cuda13-plugin"], {}, None, ()),
    ],
)
def test_gpus_are_those_that_jax_would_use(monkeypatch, plugins, variables, listed, want):
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = [types.SimpleNamespace(name=name) for name in plugins]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    monkeypatch.setattr(local.shutil, "which", lambda _: None if listed is None else "nvidia-smi")
    answer = types.SimpleNamespace(stdout=listed)
    monkeypatch.setattr(local.subprocess, "run", lambda *_, **__: answer)
    assert local.gpus_of() == want


def test_this_machine_has_a_core_and_memory():
    machine = local.this_machine()
    assert len(machine.cores) >= 1
    assert machine.memory_bytes > 10**7


def test_a_place_is_free_again_when_its_trial_has_ended(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    plan = make_plan(tmp_path, seeds=2)
    executor = local.Local(plan, plan.directory, [Place(num_threads=1)])
    first, second = plan.trials()
    executor.start(Job(first))
    assert executor.running == [(Job(first), 1)]
    assert not executor.has_room()
    ((job, outcome),) = ended(executor.poll)
    assert (job.trial, outcome.how) == (first, folders.DONE)
    assert executor.has_room()
    executor.start(Job(second))
    executor.close()
    ((job, outcome),) = ended(executor.poll)
    assert outcome.how in (folders.STOPPED, folders.DONE)
