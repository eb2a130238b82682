"""Checkpoints: everything, back to the bit; complete or absent; found, or refused in a sentence."""

import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from jdqn.config import ConfigError
from jdqn.replay import ReplayState, Rows
from jdqn.runs import checkpoint, counters, parts, restoring, slices, store
from jdqn.runs.checkpoint import Checkpoints, Position, find

NUM_ROWS = 16


class Carry(NamedTuple):
    """As `loops.shared.Carry`."""

    state: Any
    actor: Any
    replay_state: Any
    env_state: Any
    timestep: Any


@pytest.fixture(autouse=True)
def short_slices(monkeypatch):
    """Slices of two rows of four environments."""
    monkeypatch.setattr(slices, "SLICE_TRANSITIONS", 8)


def carry_at(seed, tick, env_state=None):
    """What one seed carries; every array says at which tick it was."""
    row = np.arange(NUM_ROWS)[:, None]
    written = (tick - 1 - row) // NUM_ROWS * NUM_ROWS + row  # the last tick that wrote each row
    value = np.where(written >= 0, 100 * seed + written, 0) + np.zeros((1, 4))
    rows = Rows(
        frame=value[..., None].astype(np.float32),
        age=np.zeros((NUM_ROWS, 4), np.uint8),
        action=value.astype(np.int32),
        reward=value.astype(np.float32),
        terminated=np.zeros((NUM_ROWS, 4), bool),
        last=value % 3 == 0,
        mask=np.ones((NUM_ROWS, 4, 1), np.uint8),
        frame_entries=1,
    )
    key = jax.random.fold_in(jax.random.key(seed), tick)
    state = {"params": np.full((3, 2), tick, np.float32), "key": key, "count": np.int32(tick)}
    replay_state = ReplayState(rows, np.full(64, tick, np.float32), jax.random.key(seed))
    timestep = np.full((4, 1), tick, np.float32)
    return _on_device(Carry(state, np.int32(seed), replay_state, env_state, timestep))


def _on_device(tree):
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def bits(tree):
    return {n: (a.dtype, a.shape, a.tobytes()) for n, a in parts.arrays_of(tree).items()}


def stacked(carries):
    return jax.tree.map(lambda *x: jnp.stack(x), *carries)


class Writer:
    """A run that writes checkpoints, four steps a tick."""

    def __init__(self, path, run_id="a run", **fields):
        self.config = tiny(**{f"train__{name}": value for name, value in fields.items()})
        self.path = path
        self.checkpoints = Checkpoints(self.config, path, run_id)
        self.num_seeds = self.config.train.num_seeds

    def carries(self, tick):
        return [carry_at(seed, tick) for seed in range(self.num_seeds)]

    def save(self, tick, environment=None, stack=False):
        carries = self.carries(tick)
        position = Position(tick, [stacked(carries)] if stack else carries, lambda: environment)
        counted = counters.start(self.config)._replace(steps=4 * tick, seconds=0.1)
        held_out = [jnp.full((2, 3), float(seed)) for seed in range(self.num_seeds)]
        files = {"metrics.jsonl": 10 * tick}
        self.checkpoints.save(4 * tick, position, counted, held_out, files)

    def save_best(self, tick):
        states = [carry.state for carry in self.carries(tick)]
        self.checkpoints.save_best(4 * tick, tick, states, mean=1.5)

    def find(self, which=None, agents_only=False):
        return find(self.path, which, run_id="a run", agents_only=agents_only)

    def restore(self, found, stack=False):
        empty = [carry_at(seed, 0) for seed in range(self.num_seeds)]
        like = jax.eval_shape(lambda: carry_at(0, 0))
        held_out = jax.ShapeDtypeStruct((2, 3), np.float32)
        empty = [stacked(empty)] if stack else empty
        return restoring.restore(found, empty, like, held_out, {})


@pytest.fixture
def writer(tmp_path):
    """Keeps two checkpoints."""
    return Writer(tmp_path / "run", checkpoint_keep=2)


# --- There and back -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_seeds", "was_stacked", "stack"),
    [(1, False, False), (3, False, False), (3, True, True), (3, False, True), (3, True, False)],
)
def test_everything_comes_back_to_the_bit_whether_seeds_are_stacked_or_not(
    tmp_path, num_seeds, was_stacked, stack
):
    writer = Writer(tmp_path, num_seeds=num_seeds)
    environment = {"actions": np.arange(7, dtype=np.uint8), "seed": np.array(2**40)}
    for tick in (3, 45, 50):
        writer.save(tick, environment, was_stacked)
    found = writer.find()
    restored = writer.restore(found, stack)
    wanted = writer.carries(50)
    assert bits(restored.carries) == bits([stacked(wanted)] if stack else wanted)
    assert bits(restored.environment) == bits(environment)
    assert [array[0, 0] for array in restored.held_out] == list(range(num_seeds))
    like = counters.start(writer.config)
    counted = checkpoint.load_counters(found, like)
    assert bits(counted) == bits(like._replace(steps=200, seconds=0.1))
    assert found.manifest["files"] == {"metrics.jsonl": 500}
    states = checkpoint.load_states(found, jax.eval_shape(lambda: wanted[0].state), num_seeds)
    assert bits(states) == bits([carry.state for carry in wanted])


def test_what_is_restored_may_be_donated_and_shares_no_memory(writer):
    writer.save(3)
    found = writer.find()
    first = writer.restore(found).carries
    before = bits(first)
    second = writer.restore(found).carries
    jax.jit(lambda x: jax.tree.map(jnp.zeros_like, x), donate_argnums=0)(
        second[0].replay_state.rows
    )
    assert bits(first) == before


def test_a_failed_environment_has_no_timestep_and_none_comes_back(writer):
    (carry,) = writer.carries(3)
    position = Position(3, [carry._replace(timestep=None)], lambda: None)
    writer.checkpoints.save(12, position, counters.start(writer.config), [], {})
    restored = writer.restore(writer.find())
    assert bits(restored.carries[0].timestep) == bits(carry_at(0, 0).timestep)  # as before
    assert restored.environment is None
    assert restored.held_out == []


def test_without_rows_it_is_small_and_the_ring_stays_empty(tmp_path):
    writer = Writer(tmp_path, checkpoint_replay=False)
    writer.save(20)
    found = writer.find()
    assert found.manifest["rows"] == []
    (carry,) = writer.restore(found).carries
    (saved,) = writer.carries(20)
    assert bits(carry.replay_state) == bits(carry_at(0, 0).replay_state)
    for field in ("state", "actor", "timestep"):
        assert bits(getattr(carry, field)) == bits(getattr(saved, field))


def test_a_run_that_goes_on_writes_what_one_without_a_stop_writes(tmp_path):
    straight = Writer(tmp_path / "straight", checkpoint_keep=1)
    for tick in (5, 21, 30):
        straight.save(tick)
    first = Writer(tmp_path / "resumed", checkpoint_keep=1)
    first.save(21)
    second = Writer(tmp_path / "resumed", checkpoint_keep=1)
    second.checkpoints.go_on_from(second.find().manifest)
    second.save(30)
    assert straight.find().manifest == second.find().manifest
    names = [sorted(p.name for p in w.path.rglob("*") if p.is_file()) for w in (straight, second)]
    assert names[0] == names[1]


# --- Which are kept -----------------------------------------------------------------------------


def kept(writer):
    return {p.name.removesuffix(".manifest") for p in writer.path.rglob("*.manifest")}


def blobs_there(writer):
    return {path.name for path in (writer.path / "checkpoints" / "blobs").iterdir()}


def test_the_newest_are_kept_and_the_best_and_no_blob_of_others(writer):
    writer.save_best(3)
    for tick in (4, 5, 25):
        writer.save(tick)
    assert kept(writer) == {"20", "100", "best"}
    named = [blob for which in ("20", "100", "best") for blob in used(writer, which)]
    assert blobs_there(writer) == set(named)
    writer.save_best(25)
    assert writer.find("best").manifest["steps"] == 100


def used(writer, which):
    return store.blobs_of(writer.find(which, agents_only=True).manifest)


def test_a_checkpoint_at_the_same_step_takes_the_place_of_the_one_before(writer):
    writer.save(5)
    writer.save(5, environment={"actions": np.arange(3)})
    assert kept(writer) == {"20"}
    assert writer.restore(writer.find()).environment["actions"].tolist() == [0, 1, 2]


def test_what_is_damaged_is_passed_over_and_written_anew_when_its_step_comes(tmp_path):
    writer = Writer(tmp_path, checkpoint_keep=1)
    writer.save(5)
    good = writer.find().manifest
    elsewhere = Writer(tmp_path, checkpoint_keep=2)
    elsewhere.save(10)
    path = tmp_path / "checkpoints" / "40.manifest"
    path.write_bytes(path.read_bytes()[:-5])
    again = Writer(tmp_path, checkpoint_keep=1)
    found = again.find()
    assert found.manifest == good
    assert found.passed_over == [f"{path} has changed since it was written"]
    again.checkpoints.go_on_from(found.manifest)
    again.save_best(6)
    assert again.find().manifest == good  # neither `keep` nor a sweep took it
    again.save(7)
    assert kept(again) == {"28", "best"}  # the log of the damaged one has been cut
    again.save(10)
    assert (again.find().manifest["steps"], again.find().passed_over) == (40, [])


# --- Complete or absent -------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing is done after it, as after `kill -9`."""


def stop_at(monkeypatch, number, error):
    """Has the call of a given number, of all that change the disk, fail before it does."""
    calls = iter(range(10**6))
    for owner, name in [
        (store, "write_whole"),
        (store, "sync_folder"),
        (store, "_delete"),
        (store.pathlib.Path, "replace"),
    ]:
        monkeypatch.setattr(owner, name, _failing(getattr(owner, name), calls, number, error))
    return calls


def _failing(original, calls, number, error):
    def call(*arguments, **keywords):
        if next(calls) == number:
            raise error
        return original(*arguments, **keywords)

    return call


ERRORS = [Killed(), OSError(28, "No space left on device")]


@pytest.mark.parametrize("error", ERRORS, ids=["killed", "full disk"])
def test_wherever_a_save_ends_a_checkpoint_is_there_and_whole(tmp_path, monkeypatch, error):
    monkeypatch.setattr(slices, "_num_threads", lambda: 1)  # the order of calls is the same
    number = 0
    seen = set()
    while True:
        writer = Writer(tmp_path / str(number), checkpoint_keep=1)
        writer.save(5)
        before = writer.find().manifest
        with monkeypatch.context() as patch:
            calls = stop_at(patch, number, error)
            try:
                writer.save(9)
            except (Killed, OSError) as raised:
                assert raised is error
            ended = next(calls) <= number
        found = writer.find()
        assert found.passed_over == []
        assert found.manifest == before or found.manifest["steps"] == 36
        seen.add(found.manifest["steps"])
        if error is not ERRORS[0]:  # and nothing is left over
            assert not list(writer.path.rglob("*.tmp"))
        again = Writer(writer.path, checkpoint_keep=1)
        again.checkpoints.go_on_from(found.manifest)
        again.save(11)
        assert kept(again) == {"44"}
        assert blobs_there(again) == set(used(again, "44"))
        if ended:
            break
        number += 1
    assert seen == {20, 36}
    assert number > 15


def test_a_save_that_failed_leaves_the_next_one_whole(writer, monkeypatch):
    writer.save(5)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        stop_at(patch, 8, ERRORS[1])
        writer.save(20)
    before = blobs_there(writer)
    assert before == set(used(writer, "20"))  # what was written of it took room
    writer.save(21)
    assert bits(writer.restore(writer.find()).carries) == bits(writer.carries(21))


def test_a_reader_beside_a_run_that_writes_always_finds_one(tmp_path):
    """As `jdqn.evaluate` beside a run that keeps one checkpoint."""
    writer = Writer(tmp_path, checkpoint_keep=1)
    writer.save(1)
    ended = threading.Event()

    def write():
        for tick in range(2, 16):
            writer.save(tick)
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    found = []
    while not ended.is_set():
        found.append(writer.find(agents_only=True))
    thread.join()
    assert len(found) > 3
    assert not any(some.passed_over for some in found)


# --- Which is found -----------------------------------------------------------------------------


def test_a_checkpoint_is_found_by_its_steps_or_as_the_best(writer):
    writer.save_best(300)
    for tick in (250, 300):
        writer.save(tick)
    assert writer.find().manifest["steps"] == 1200
    for which in ("1000", "1_000", "1,000", "01000"):
        assert writer.find(which).manifest["steps"] == 1000
    assert writer.find("best").manifest["return_mean"] == 1.5


@pytest.mark.parametrize("which", ["900", "last", "", "-1", "1e3", "²", "1" * 5000, "../1000"])
def test_another_one_is_refused_with_those_there_are(writer, which):
    writer.save(250)
    with pytest.raises(ConfigError, match=r"expected agent steps or best \(there are: 1000\)"):
        writer.find(which)


def test_one_that_is_asked_for_is_used_or_none(writer):
    for tick in (5, 6):
        writer.save(tick)
    (writer.path / "checkpoints" / "24.manifest").write_bytes(b"")
    with pytest.raises(ConfigError, match="no checkpoint that can be used"):
        writer.find("24")


def test_where_there_is_none_it_is_said_why(writer):
    with pytest.raises(ConfigError, match=r"expected a run directory"):
        writer.find()
    (writer.path / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no finished checkpoint yet"):
        writer.find()
    (writer.path / "checkpoints" / "1000").mkdir()
    with pytest.raises(ConfigError, match=r"an earlier jdqn, which wrote them through Orbax"):
        writer.find()


def test_a_folder_that_cannot_be_listed_is_named_and_what_is_written_is_saved(writer, monkeypatch):
    """Of several processes one alone would fail, and they would no longer do the same."""
    writer.save(5)

    def cannot(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store.pathlib.Path, "iterdir", cannot)
    with pytest.raises(ConfigError, match="checkpoints cannot be read: Permission denied"):
        writer.find()
    writer.save(6)
    monkeypatch.undo()
    assert writer.find().manifest["steps"] == 24


def test_one_of_another_run_is_named(tmp_path):
    other = Writer(tmp_path, run_id="another")
    other.save(5)
    with pytest.raises(ConfigError, match="is of another run"):
        Writer(tmp_path).find()
    assert find(tmp_path, run_id=None, agents_only=False).manifest["run"] == "another"
