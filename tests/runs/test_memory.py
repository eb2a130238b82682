"""What a run needs is summed, and compared with the smallest of what may be used."""

import math
import re
import types

import jax
import numpy as np
import psutil
import pytest
from helpers import QUICK, tiny, vector_spec

from jdqn import kernels, learning
from jdqn.config import ConfigError, PassingError
from jdqn.records import EnvSpec
from jdqn.replay import make_replay
from jdqn.runs import memory

resource = pytest.importorskip("resource")  # not on Windows


def parts_of(config, spec):
    replay = make_replay(config, spec)
    return spec, replay, learning.make_agent(config, spec, replay)


def test_what_is_needed_is_what_is_then_allocated():
    config = tiny(replay__capacity=800, replay__batch_size=8)
    spec = EnvSpec((5, 6, 2), np.dtype(np.uint8), 2, 3, 1.0)
    _, replay, agent = parts_of(config, spec)
    state, actor = jax.jit(agent.init, compiler_options=QUICK)(jax.random.key(0))
    filled = replay.init(jax.random.key(0))
    num_bytes = memory.needed(config, spec, replay, agent)
    in_ring = sum(x.nbytes for x in jax.tree.leaves((filled.rows, filled.priorities)))
    assert num_bytes["replay.capacity"] == in_ring
    of_state = sum(x.nbytes for x in jax.tree.leaves((state, actor)))
    gradients = sum(x.nbytes for x in jax.tree.leaves(state.params))
    stack = 2 * 5 * 6 * 2  # bytes, and four times as many as floats
    answers = 4 * (2 * 3 * 4 * 16 + 8 + 2 * 3)  # of the convolution, the torso, the heads, all
    of_batch = 2 * 8 * 5 * stack + 2 * 8 * answers
    assert sum(num_bytes.values()) == (
        in_ring + of_state + gradients + of_batch + 4 * 4 * stack + 800 * 5 * stack
    )


def test_what_a_large_torso_says_of_a_batch_is_counted():
    """Of 256 images, as of BTR: gigabytes, which are needed when learning starts."""
    fields = {"network__torso": "impala", "network__torso_width": 2, "replay__batch_size": 256}
    config = tiny(**fields, replay__capacity=1_000)
    spec = EnvSpec((84, 84), np.dtype(np.uint8), 4, 6, 1 / 255)
    of_batch = memory.needed(config, *parts_of(config, spec))["replay.batch_size"]
    assert 1e9 < of_batch < 4e9


def test_each_of_several_devices_has_a_part_of_the_replay(monkeypatch):
    config = tiny(train__num_devices=4)
    spec, replay, agent = parts_of(config, vector_spec())
    on_cpu = memory.needed(config, spec, replay, agent)
    monkeypatch.setattr(kernels, "on_cpu", lambda: False)
    elsewhere = memory.needed(config, spec, replay, agent)
    assert on_cpu["replay.capacity"] == replay.num_bytes
    assert elsewhere == on_cpu | {"replay.capacity": replay.num_bytes // 4}


def test_a_log_period_of_the_fused_loop_is_counted():
    config = tiny("jdqn/Chain", train__log_period_steps=1_000_000)
    assert memory.needed(config, *parts_of(config, vector_spec()))["train.log_period_steps"] == 7e6


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"replay__capacity": 1_000_000}, "replay.capacity = 1000000"),
        ({"network__hidden": [2_000, 2_000]}, "network.hidden = [2000, 2000]"),
        ({"network__torso_hidden": [2_000, 2_000]}, "network.torso_hidden = [2000, 2000]"),
    ],
)
def test_the_largest_part_is_named_by_its_field(monkeypatch, overrides, named):
    monkeypatch.setattr(memory, "available", lambda: memory.Limit(2_000_000, "a small machine"))
    config = tiny(**overrides)
    parts = parts_of(config, vector_spec())
    total = sum(memory.needed(config, *parts).values())
    with pytest.raises(ConfigError) as info:
        memory.check_memory(config, *parts)
    assert not isinstance(info.value, PassingError)
    left = "2,000,000 are available (a small machine)"
    for words in [named, f"needs {total:,} bytes", left]:
        assert words in str(info.value)


def test_what_others_have_taken_may_pass_and_what_is_more_than_all_may_not(monkeypatch):
    config = tiny("jdqn/Chain")
    parts = parts_of(config, vector_spec())
    total = sum(memory.needed(config, *parts).values())
    for shared, passes in [(total, True), (total - 1, False)]:
        limit = memory.Limit(total - 1, "machine", shared)
        monkeypatch.setattr(memory, "available", lambda limit=limit: limit)
        with pytest.raises(ConfigError) as info:
            memory.check_memory(config, *parts)
        assert isinstance(info.value, PassingError) == passes


def test_the_residual_torso_is_named_by_its_width(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: memory.Limit(2_000_000, "a small machine"))
    config = tiny(network__torso="impala", network__torso_width=16)
    spec = vector_spec()._replace(frame_shape=(10, 10), frame_dtype=np.dtype(np.uint8))
    with pytest.raises(ConfigError, match="torso_width = 16: the run needs"):
        memory.check_memory(config, *parts_of(config, spec))


def test_what_fits_exactly_is_taken_and_seeds_are_counted(monkeypatch):
    one = tiny("jdqn/Chain")
    parts = parts_of(one, vector_spec())
    total = sum(memory.needed(one, *parts).values())
    monkeypatch.setattr(memory, "available", lambda: memory.Limit(total, "exact"))
    memory.check_memory(one, *parts)
    monkeypatch.setattr(memory, "available", lambda: memory.Limit(3 * total - 1, "less"))
    with pytest.raises(ConfigError, match=f"{3 * total:,} bytes for 3 seeds"):
        memory.check_memory(tiny("jdqn/Chain", train__num_seeds=3), *parts)


def test_the_smallest_limit_counts(monkeypatch):
    monkeypatch.setattr(kernels, "on_cpu", lambda: True)
    machine = types.SimpleNamespace(available=3_000, total=9_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    groups = [memory.Limit(2_000, "group")]
    process = [memory.Limit(1_000, "process")]
    monkeypatch.setattr(memory, "of_groups", lambda *_: groups)
    monkeypatch.setattr(memory, "of_process", lambda: process)
    assert memory.available() == process[0]
    process.clear()
    assert memory.available() == groups[0]
    groups.clear()
    assert memory.available() == (3_000, "memory of the machine", 9_000)


@pytest.fixture
def device_of(monkeypatch):
    """Puts a device with some statistics in the place of this machine's."""

    def put(kind, stats):
        device = types.SimpleNamespace(device_kind=kind, memory_stats=lambda: stats)
        monkeypatch.setattr(jax, "local_devices", lambda: [device])
        monkeypatch.setattr(kernels, "on_cpu", lambda: False)

    return put


# An H100 of which jax takes a tenth, a GPU without preallocation and one that is in use, a TPU;
# statistics as jax gives them.
H100 = {"bytes_limit": 8_509_193_420, "bytes_in_use": 0, "pool_bytes": 8_509_193_420}


@pytest.mark.parametrize(
    ("kind", "stats", "left", "limit"),
    [
        ("NVIDIA H100 80GB HBM3", H100, 8_509_193_420, "8,509,193,420"),
        ("NVIDIA L4", {"bytes_limit": 10_000}, 10_000, "10,000"),
        ("NVIDIA L4", {"bytes_limit": 10_000, "bytes_in_use": 400}, 9_600, "10,000"),
        (
            "TPU v5 lite",
            {"bytes_limit": 17_000, "bytes_in_use": 2, "num_allocs": 1},
            16_998,
            "17,000",
        ),
    ],
)
def test_an_accelerator_is_asked_itself(device_of, kind, stats, left, limit):
    device_of(kind, stats)
    limit_of = f"jax's limit of {limit} bytes on {kind}"
    assert memory.available() == memory.Limit(left, limit_of)


@pytest.mark.parametrize("stats", [None, {}, {"bytes_in_use": 3}, {"bytes_limit": -1}])
def test_an_accelerator_that_does_not_tell_is_not_held_to_the_memory_of_the_machine(
    monkeypatch, device_of, stats
):
    device_of("some GPU", stats)
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1, total=1)
    )
    config = tiny()
    memory.check_memory(config, *parts_of(config, vector_spec()))


def test_a_replay_that_does_not_fit_a_gpu_is_refused_with_numbers_before_it_is_there(device_of):
    """A million frames of Atari on a tenth of an H100 go, 1.3 million do not."""
    device_of("NVIDIA H100 80GB HBM3", H100)
    spec = EnvSpec((84, 84), np.dtype(np.uint8), 4, 18, 1 / 255)
    before = sum(x.nbytes for x in jax.live_arrays())
    config = tiny("Breakout", replay__capacity=1_000_000)
    memory.check_memory(config, *parts_of(config, spec))
    config = tiny("Breakout", replay__capacity=1_300_000)
    with pytest.raises(ConfigError) as info:
        memory.check_memory(config, *parts_of(config, spec))
    assert re.fullmatch(
        r"replay.capacity = 1300000: the run needs 9,\d{3},\d{3},\d{3} bytes, "
        r"9,\d{3},\d{3},\d{3} of them because of this; 8,509,193,420 are available "
        r"\(jax's limit of 8,509,193,420 bytes on NVIDIA H100 80GB HBM3\)",
        str(info.value),
    )
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 1_000_000


def write_group(folder, maximum, usage, values):
    """A control group with a limit, a use, and what of it is the cache of files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / maximum).write_text(f"{values[0]}\n")
    (folder / usage).write_text(f"{values[1]}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {values[2]}\nactive_file 10\n")


VERSION_2 = ("memory.max", "memory.current")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


@pytest.mark.parametrize(
    ("membership", "root", "files"),
    [
        ("0::/user/run\n", "", VERSION_2),
        ("3:cpuset:/\n0::/user/run\n", "unified", VERSION_2),
        ("4:cpu,memory:/user/run\n3:cpuset:/\n0::/\n", "memory", VERSION_1),
    ],
    ids=["version 2", "both", "version 1"],
)
def test_control_groups_and_their_parents_are_read(tmp_path, membership, root, files):
    own = tmp_path / "membership"
    own.write_text(membership)
    groups = tmp_path / "groups" / root
    write_group(groups / "user/run", *files, (9_000, 5_000, 990))
    write_group(groups / "user", *files, (6_000, 5_500, 90))
    write_group(groups / "other", *files, (10, 10, 0))
    found = sorted(memory.of_groups(tmp_path / "groups", own))
    assert [limit.num_bytes for limit in found] == [600, 5_000]
    assert "6,000" in found[0].name
    write_group(groups / "user", *files, ("max", 5_500, 90))
    found = list(memory.of_groups(tmp_path / "groups", own))
    assert [limit.num_bytes for limit in found] == [5_000]


def test_in_a_container_the_root_is_the_own_group(tmp_path):
    own = tmp_path / "membership"
    own.write_text("0::/host/path/of/it\n")
    write_group(tmp_path, *VERSION_2, (800, 10, 0))
    assert [limit.num_bytes for limit in memory.of_groups(tmp_path, own)] == [800]


def test_version_1_counts_the_cache_of_all_groups_below(tmp_path):
    own = tmp_path / "membership"
    own.write_text("4:memory:/\n")
    write_group(tmp_path / "memory", *VERSION_1, (800, 600, 0))
    with (tmp_path / "memory/memory.stat").open("a") as file:
        file.write("total_inactive_file 100\ntotal_active_file 200\n")
    assert [limit.num_bytes for limit in memory.of_groups(tmp_path, own)] == [500]


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert list(memory.of_groups(tmp_path, tmp_path / "none")) == []


@pytest.mark.parametrize(("limit", "option"), [("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d")])
def test_limits_of_the_process_are_read(limit, option):
    """The real ones, set for a moment far above what is used."""
    used = psutil.Process().memory_info()
    if limit == "RLIMIT_DATA" and not hasattr(used, "data"):
        pytest.skip("Linux only")
    number = getattr(resource, limit)
    before = resource.getrlimit(number)
    wanted = used.vms + 4 * 2**30
    if before[0] != resource.RLIM_INFINITY:
        pytest.skip("limited already")
    try:
        resource.setrlimit(number, (wanted, before[1]))
        (found,) = memory.of_process()
    finally:
        resource.setrlimit(number, before)
    assert f"ulimit {option} of {wanted:,} bytes" in found.name
    now = used.vms if limit == "RLIMIT_AS" else used.data
    assert math.isclose(found.num_bytes, wanted - now, abs_tol=2**28)
