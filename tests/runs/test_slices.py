"""Rows of a replay in slices: to the bit, whatever the shapes, and nothing is written twice."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdqn.replay import Rows
from jdqn.runs import slices
from jdqn.runs.slices import Cut
from jdqn.runs.store import DamagedError, Store

PADDING = 5
SHAPES = {  # T, E, entries and dtype of a frame
    "whole slices": (12, 2, 3, np.uint8),
    "a ring that slices do not divide": (13, 2, 3, np.uint8),
    "a ring shorter than a slice": (3, 1, 2, np.float32),
    "more environments than a slice holds": (5, 9, 4, np.float32),
    "a ring of one row": (1, 2, 1, np.uint8),
}


@pytest.fixture(autouse=True)
def short_slices(monkeypatch):
    """Slices of eight transitions."""
    monkeypatch.setattr(slices, "SLICE_TRANSITIONS", 8)


def empty(shape):
    """A ring before the first tick, on the host."""
    num_rows, num_envs, entries, dtype = shape
    ring = (num_rows, num_envs)
    return Rows(
        frame=np.zeros((*ring, entries), dtype),
        age=np.zeros(ring, np.uint8),
        action=np.zeros(ring, np.int32),
        reward=np.zeros(ring, np.float32),
        terminated=np.zeros(ring, bool),
        last=np.ones(ring, bool),
        mask=np.zeros((*ring, 2), np.uint8),
        frame_entries=entries,
    )


def padded(ring, value=0):
    """The same ring as a backend stores it whose rows are longer."""
    pad = [(0, 0)] * (ring.frame.ndim - 1) + [(0, PADDING)]
    return ring.replace(frame=np.pad(ring.frame, pad, constant_values=value))


def write(ring, first_tick, tick, rng):
    """Writes random rows: every bit pattern, NaN too."""
    for row in (t % len(ring.reward) for t in range(first_tick, tick)):
        for array in jax.tree.leaves(ring):
            bits = rng.integers(0, 256, array[row].nbytes, np.uint8)
            if array.dtype == bool:
                bits &= 1
            array[row] = bits.view(array.dtype).reshape(array[row].shape)


def device(ring):
    """A copy for JAX: one that shares no memory."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), ring)


def stack(rings):
    """Rings of several seeds as one."""
    return jax.tree.map(lambda *x: np.stack(x), *rings)


def bits(ring):
    return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(ring)]


def assert_comes_back(store, shape, wanted, names, tick, stacked):
    """Restores into empty rings, stacked or not, and compares with rings on the host."""
    into = [empty(shape) for _ in wanted]
    wanted = [stack(wanted)] if stacked else wanted
    into = [stack(into)] if stacked else into
    rings = [device(ring) for ring in into]
    rings = slices.restore(store, rings, len(names), tick, names)
    assert list(map(bits, rings)) == list(map(bits, wanted))


# --- What is cut --------------------------------------------------------------------------------

cuts = st.integers(1, 40).flatmap(
    lambda num_rows: st.builds(Cut, st.just(num_rows), st.integers(1, num_rows))
)


@hypothesis.given(cuts)
def test_slices_cover_the_ring_and_stay_inside(cut):
    covered = {row for start in cut.starts for row in range(start, start + cut.size)}
    assert covered == set(range(cut.num_rows))
    assert cut.starts == sorted(set(cut.starts))


@hypothesis.given(cuts, st.integers(0, 200), st.integers(0, 200))
def test_touched_slices_are_those_of_a_loop_over_ticks(cut, first_tick, num_ticks):
    tick = first_tick + num_ticks
    written = {t % cut.num_rows for t in range(first_tick, tick)}
    slow = {
        i for i, start in enumerate(cut.starts) if written & set(range(start, start + cut.size))
    }
    assert cut.touched(first_tick, tick) == slow


def test_a_tick_before_the_first_touches_nothing():
    assert Cut(10, 5).touched(-1, 0) == set()
    assert Cut(10, 5).touched(-1, 1) == {0}


def test_large_rings_are_cut_without_a_loop_over_ticks():
    cut = Cut(2**17, 512)
    assert cut.touched(2**40, 2**40 + 1000) == {0, 1}


# --- There and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_rings_come_back_to_the_bit_and_seeds_may_be_stacked_or_not(
    tmp_path, rng, shape, num_seeds
):
    store = Store(tmp_path)
    num_rows = shape[0]
    for tick in (0, 1, num_rows // 2 + 1, num_rows, 2 * num_rows + 3):
        rings = [empty(shape) for _ in range(num_seeds)]
        for ring in rings:
            write(ring, 0, tick, rng)
        apart = slices.save(store, list(map(device, rings)), num_seeds, tick, [], 0)
        assert_comes_back(store, shape, rings, apart, tick, stacked=False)
        if num_seeds > 1:
            stacked = slices.save(store, [device(stack(rings))], num_seeds, tick, [], 0)
            assert stacked == apart
            assert_comes_back(store, shape, rings, stacked, tick, stacked=True)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_padding_is_not_stored(tmp_path, rng, num_seeds):
    """So that a checkpoint does not depend on the backend."""
    shape = SHAPES["a ring that slices do not divide"]
    rings = [empty(shape) for _ in range(num_seeds)]
    for ring in rings:
        write(ring, 0, 20, rng)
    store = Store(tmp_path)
    names = slices.save(store, list(map(device, rings)), num_seeds, 20, [], 0)
    for_seeds = stack(rings) if num_seeds > 1 else rings[0]
    into = stack([empty(shape)] * 2) if num_seeds > 1 else empty(shape)
    assert slices.save(store, [device(padded(for_seeds, 7))], num_seeds, 20, [], 0) == names
    restored = slices.restore(store, [device(padded(into))], num_seeds, 20, names)
    assert list(map(bits, restored)) == [bits(padded(for_seeds))]


@pytest.mark.parametrize("num_parts", [3, 9])
def test_parts_that_several_processes_wrote_come_back_as_one_ring(tmp_path, rng, num_parts):
    shape = SHAPES["more environments than a slice holds"]
    ring = empty(shape)
    write(ring, 0, 7, rng)
    size = shape[1] // num_parts
    parts = [
        jax.tree.map(lambda x, i=i: x[:, i * size : (i + 1) * size], ring) for i in range(num_parts)
    ]
    store = Store(tmp_path)
    names = slices.save(store, list(map(device, parts)), num_parts, 7, [], 0)
    (restored,) = slices.restore(store, [device(empty(shape))], 1, 7, names)
    assert bits(restored) == bits(ring)
    with pytest.raises(DamagedError, match="other slices than the replay"):
        slices.restore(store, [device(empty(shape))], 1, 7, names[:-1])


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    st.sampled_from(list(SHAPES.values())),
    st.lists(st.integers(0, 70), min_size=1, max_size=4),
    st.data(),
)
def test_saving_what_has_changed_is_saving_everything(tmp_path_factory, shape, steps, data):
    store = Store(tmp_path_factory.mktemp("store"))
    rng = np.random.default_rng(0)
    num_seeds = data.draw(st.integers(1, 2))
    rings = [empty(shape) for _ in range(num_seeds)]
    names = []
    before = 0
    for num_ticks in steps:
        tick = before + num_ticks
        for ring in rings:
            if before:  # sealed, when a run goes on
                ring.last[(before - 1) % shape[0]] = True
            write(ring, before, tick, rng)
        stacked = num_seeds > 1 and data.draw(st.booleans())
        saved = [device(stack(rings))] if stacked else list(map(device, rings))
        names = slices.save(store, saved, num_seeds, tick, names, before)
        assert names == slices.save(store, saved, num_seeds, tick, [], 0)
        before = tick
    assert_comes_back(store, shape, rings, names, tick, stacked=num_seeds > 1)


@pytest.fixture
def saved(tmp_path, rng):
    """A ring of 32 rows in eight slices, full: store, ring on the host, names, tick."""
    shape = (32, 2, 3, np.uint8)
    ring = empty(shape)
    write(ring, 0, 40, rng)
    store = Store(tmp_path)
    return store, shape, ring, slices.save(store, [device(ring)], 1, 40, [], 0), 40


def identities(store):
    """What tells whether a file was written again."""
    files = (store.folder / "blobs").iterdir()
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_unchanged_slices_are_not_read_from_the_ring_and_not_written_again(saved, rng, monkeypatch):
    store, _, ring, names, tick = saved
    before = identities(store)
    taken = []
    take = slices._take

    def noted(rows, start, **keywords):
        taken.append(start)
        return take(rows, start, **keywords)

    monkeypatch.setattr(slices, "_take", noted)
    write(ring, tick, tick + 3, rng)  # rows 8, 9, 10; row 7 may have been sealed
    after = slices.save(store, [device(ring)], 1, tick + 3, names, tick)
    assert sorted(taken) == [4, 8]
    assert [i for i in range(8) if after[0][i] != names[0][i]] == [2]
    now = identities(store)
    assert {name: now[name] for name in before} == before
    assert len(now) == len(before) + 1


def test_a_slice_damaged_between_two_saves_is_written_anew(saved):
    store, shape, ring, names, tick = saved
    blob = store.path_of_blob(names[0][5])
    good = blob.read_bytes()
    for damage in (good[:-1], b"", bytes([good[0] ^ 1]) + good[1:], None):
        blob.unlink()
        if damage is not None:
            blob.write_bytes(damage)
        assert slices.save(store, [device(ring)], 1, tick, names, tick) == names
        assert blob.read_bytes() == good
    assert_comes_back(store, shape, [ring], names, tick, stacked=False)


def test_seeds_with_the_same_rows_share_their_slices(tmp_path, rng):
    """Written by several threads at the same time."""
    shape = (256, 8, 30, np.uint8)
    ring = empty(shape)
    write(ring, 0, 8, rng)
    for array in jax.tree.leaves(ring):
        array[:] = array[0]
    store = Store(tmp_path)
    names = slices.save(store, [device(ring)] * 3, 3, 256, [], 0)
    assert names[0] == names[1] == names[2]
    assert len(set(names[0])) == 1
    assert len(identities(store)) == 1


def test_nothing_is_written_where_the_disk_is_full(saved, monkeypatch):
    store, _, ring, _, tick = saved

    def full(*_):
        raise OSError(28, "No space left on device")

    before = identities(store)
    write(ring, tick, tick + 32, np.random.default_rng(1))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(slices.Store, "write_blob", full)
        slices.save(store, [device(ring)], 1, tick + 32, [], 0)
    assert identities(store) == before


# --- What does not fit --------------------------------------------------------------------------


def strange(names):
    """Other slices than the ring's, by what is wrong with them."""
    (good,) = names
    return {
        "none": [],
        "one too few": [good[:-1]],
        "one too many": [[*good, good[0]]],
        "not written yet": [[*good[:-1], None]],
        "of two seeds": [good, good],
    }


def test_other_slices_than_the_ring_s_are_named(saved):
    store, shape, _, names, tick = saved
    for wrong in strange(names).values():
        with pytest.raises(DamagedError):
            slices.restore(store, [device(empty(shape))], 1, tick, wrong)


@pytest.mark.parametrize("shape", [(32, 2, 4, np.uint8), (32, 2, 3, np.float32)])
def test_slices_of_another_ring_are_named(saved, shape):
    store, _, _, names, tick = saved
    with pytest.raises(DamagedError, match="does not hold"):
        slices.restore(store, [device(empty(shape))], 1, tick, names)
