"""The store: complete or absent, checked before use, and swept."""

import concurrent.futures
import hashlib
import json
import os
import re

import pytest

from jdqn.runs import store as module
from jdqn.runs.store import DamagedError, Store

DATA = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path):
    """A store with a blob that no manifest names."""
    new = Store(tmp_path / "checkpoints")
    new.write_blob([])
    return new


def manifest_of(*blobs):
    """The least that a manifest says."""
    return {"parts": {}, "rows": [list(blobs)]}


def signed(store, name, text):
    """Writes any text as a manifest with the right hash."""
    digest = hashlib.sha256(text).hexdigest().encode()
    store.path_of(name).write_bytes(text + b"\n" + digest + b"\n")


def test_bytes_come_back(store):
    name = store.write_blob([DATA[:100], memoryview(DATA)[100:]])
    assert re.fullmatch("[0-9a-f]{64}", name)
    assert store.read_blob(name, len(DATA)) == DATA
    assert store.is_intact(name)
    assert store.path_of_blob(name).stat().st_size < len(DATA) // 10


def test_nothing_is_a_blob_too(store):
    assert store.read_blob(store.write_blob([]), 0) == b""


def test_the_same_bytes_are_written_once(store):
    name = store.write_blob([DATA])
    before = store.path_of_blob(name).stat()
    assert store.write_blob([DATA[:7], DATA[7:]]) == name
    after = store.path_of_blob(name).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_damaged_blob_is_written_anew(store):
    name = store.write_blob([DATA])
    store.path_of_blob(name).write_bytes(b"damaged")
    assert not store.is_intact(name)
    assert store.write_blob([DATA]) == name
    assert store.read_blob(name, len(DATA)) == DATA


def test_threads_may_write_the_same_bytes_at_the_same_time(store):
    """Rows of two seeds can be equal."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for number in range(60):
            data = bytes([number]) * 300_000
            (name,) = set(pool.map(lambda _, data=data: store.write_blob([data]), range(8)))
            assert store.read_blob(name, len(data)) == data


@pytest.mark.parametrize("num_bytes", [len(DATA) - 1, len(DATA) + 1, 0, 2**40])
def test_a_blob_of_another_length_is_damaged(store, num_bytes):
    name = store.write_blob([DATA])
    with pytest.raises(DamagedError, match=f"{name} does not hold {num_bytes:,} bytes"):
        store.read_blob(name, num_bytes)


def test_a_blob_that_decompresses_to_more_than_said_is_not_unpacked(store):
    bomb = module.zstd.compress(bytes(2**28))
    name = hashlib.sha256(bomb).hexdigest()
    store.path_of_blob(name).write_bytes(bomb)
    with pytest.raises(DamagedError, match="does not hold 100 bytes"):
        store.read_blob(name, 100)


def test_a_blob_that_is_not_compressed_is_damaged(store):
    name = hashlib.sha256(DATA).hexdigest()
    store.path_of_blob(name).write_bytes(DATA)
    with pytest.raises(DamagedError, match="compressed by zstd"):
        store.read_blob(name, len(DATA))


def test_other_bytes_of_the_same_length_are_not_read(store):
    name = store.write_blob([DATA])
    other = store.path_of_blob(store.write_blob([DATA[::-1]]))
    other.replace(store.path_of_blob(name))
    with pytest.raises(DamagedError, match=f"{name} has changed since it was written"):
        store.read_blob(name, len(DATA))


def test_a_missing_blob_is_damaged(store):
    with pytest.raises(DamagedError, match="cannot be read: No such file"):
        store.read_blob("0" * 64, 1)


# --- Manifests ----------------------------------------------------------------------------------


def test_a_manifest_comes_back(store):
    store.write_manifest("12", manifest_of(store.write_blob([DATA])))
    assert store.names() == ["12"]
    assert store.has("12")
    found = store.read_manifest("12")
    assert {"parts", "rows"} <= found.keys()


def test_blobs_are_durable_before_a_manifest_names_them_and_it_before_others_go(store, monkeypatch):
    done = []
    for name in ("sync_folder", "write_whole", "_delete"):

        def noted(path, *rest, name=name, original=getattr(module, name)):  # noqa: B008
            done.append((name, path.name))
            original(path, *rest)

        monkeypatch.setattr(module, name, noted)
    blob = store.write_blob([DATA])
    store.write_manifest("1", manifest_of(blob))
    store.thin(["1"])
    assert done[:5] == [
        ("write_whole", blob),
        ("sync_folder", "blobs"),
        ("write_whole", "1.manifest"),
        ("sync_folder", "checkpoints"),
        ("sync_folder", store.folder.parent.name),
    ]
    assert [name for name, _ in done[5:]] == ["_delete"]  # the blob of the fixture


def test_names_are_agent_steps_newest_last(store):
    for name in ("9", "1000", "200", "best"):
        store.write_manifest(name, manifest_of())
    for other in ("5.manifest.tmp", "x.manifest", "-3.manifest", "٣.manifest"):
        (store.folder / other).write_bytes(b"")
    assert store.names() == ["9", "200", "1000"]


NOT_MANIFESTS = {
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"1",
    "no format": b"{}",
    "not UTF-8": b'{"format": "\xff"}',
    "nested without end": b"[" * 100_000,
    "a number of 5,000 digits": b'{"format": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("text", NOT_MANIFESTS.values(), ids=NOT_MANIFESTS.keys())
def test_what_is_no_manifest_is_named(store, text):
    signed(store, "1", text)
    with pytest.raises(DamagedError, match="is not a manifest"):
        store.read_manifest("1")


def test_a_future_format_is_named(store):
    signed(store, "1", json.dumps({**manifest_of(), "format": 2}).encode())
    with pytest.raises(DamagedError, match="has format 2, this version reads 1"):
        store.read_manifest("1")


def test_a_flipped_bit_in_any_byte_of_a_manifest_is_seen(store):
    store.write_manifest("1", manifest_of())
    path = store.path_of("1")
    good = path.read_bytes()
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedError):
            store.read_manifest("1")


def test_every_truncation_of_a_manifest_is_seen(store):
    store.write_manifest("1", manifest_of())
    path = store.path_of("1")
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(DamagedError):
            store.read_manifest("1")


def test_a_manifest_that_is_too_large_is_not_read(store, monkeypatch):
    monkeypatch.setattr(module, "MAX_MANIFEST_BYTES", 1000)
    signed(store, "1", b"x" * 2000)
    with pytest.raises(DamagedError, match="is larger than"):
        store.read_manifest("1")


@pytest.mark.parametrize(
    "manifest",
    [
        {"parts": {}},
        {"rows": []},
        {"parts": [], "rows": []},
        {"parts": {"x": "0" * 64}, "rows": []},
        {"parts": {"x": {}}, "rows": []},
        {"parts": {}, "rows": None},
        {"parts": {}, "rows": {"0": []}},
        {"parts": {}, "rows": [{"0" * 64: None}]},
        {"parts": {}, "rows": [None]},
    ],
)
def test_a_manifest_of_another_form_is_named(manifest):
    with pytest.raises(DamagedError, match="names no blobs"):
        module.blobs_of(manifest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "0" * 63, "A" * 64, "0" * 64 + "\n", 7, []])
def test_only_hashes_name_blobs(name):
    with pytest.raises(DamagedError, match="is no blob"):
        module.blobs_of(manifest_of(name))


# --- Sweeping -----------------------------------------------------------------------------------


@pytest.fixture
def three(store):
    """Three checkpoints and the best one: a store, and blobs by manifest; one blob is shared."""
    shared = store.write_blob([b"shared"])
    blobs = {name: store.write_blob([name.encode()]) for name in ("1", "2", "3", "best")}
    for name, blob in blobs.items():
        store.write_manifest(name, manifest_of(shared, None, blob))
    return store, {"shared": shared, **blobs}


def blobs_there(store):
    return {path.name for path in (store.folder / "blobs").iterdir()}


def test_what_no_manifest_names_is_swept(three):
    store, blobs = three
    store.write_blob([b"left over"])
    (store.folder / "4.manifest.tmp").write_bytes(b"half")
    (store.folder / "blobs" / "x.tmp").write_bytes(b"half")
    (store.folder / "notes.txt").write_bytes(b"mine")
    store.sweep()
    assert blobs_there(store) == set(blobs.values())
    rest = {path.name for path in store.folder.iterdir()}
    assert rest == {"1.manifest", "2.manifest", "3.manifest", "best.manifest", "blobs", "notes.txt"}


def test_thinning_keeps_what_is_named_and_the_best(three):
    store, blobs = three
    store.thin(["3"])
    assert store.names() == ["3"]
    assert store.has("best")
    assert blobs_there(store) == {blobs["shared"], blobs["3"], blobs["best"]}


def test_what_a_damaged_manifest_named_is_swept(three):
    store, blobs = three
    store.path_of("2").write_bytes(b"damaged")
    store.sweep()
    assert blobs_there(store) == {blobs[name] for name in ("shared", "1", "3", "best")}


def test_a_manifest_that_cannot_be_read_now_keeps_every_blob(three, monkeypatch):
    """Too many open files, a network that is away: its blobs may be the only good ones."""
    store, blobs = three
    path_type = type(store.folder)
    opened = path_type.open

    def cannot(self, *arguments, **keywords):
        if self.name == "3.manifest":
            raise OSError(24, "Too many open files")
        return opened(self, *arguments, **keywords)

    monkeypatch.setattr(path_type, "open", cannot)
    store.sweep()
    assert blobs_there(store) >= set(blobs.values())


def test_folders_where_files_should_be_do_not_stop_a_sweep(three):
    store, blobs = three
    store.path_of("1").unlink()
    store.path_of("1").mkdir()
    (store.folder / "4.manifest.tmp").mkdir()
    store.thin(["3"])
    assert blobs_there(store) == {blobs["shared"], blobs["3"], blobs["best"]}


def test_a_folder_that_cannot_be_listed_now_keeps_every_blob(three, monkeypatch):
    store, blobs = three
    path_type = type(store.folder)
    listed = path_type.iterdir

    def cannot(self):
        if self == store.folder:
            raise OSError(24, "Too many open files")
        return listed(self)

    with monkeypatch.context() as patch:
        patch.setattr(path_type, "iterdir", cannot)
        store.sweep()
        store.thin([])
    assert blobs_there(store) >= set(blobs.values())
    assert store.names() == ["1", "2", "3"]


def test_a_store_that_is_not_there_holds_nothing(tmp_path):
    store = Store(tmp_path / "checkpoints")
    store.sweep()
    assert store.names() == []
    assert not store.has("best")
    assert not os.path.exists(store.folder)
