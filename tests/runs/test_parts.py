"""Trees as named arrays: back to the bit, and nothing else is read."""

import hashlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdqn.runs import parts
from jdqn.runs.store import DamagedError, Store


class Small(NamedTuple):
    key: object
    keys: object
    floats: object
    more: object
    count: int
    mean: float


def tree():
    """Leaves of every kind that a run has."""
    return Small(
        key=jax.random.key(3),
        keys=jax.random.split(jax.random.key(4), 3),
        floats=jnp.array([0.1, -0.0, 1e-40, jnp.inf, jnp.nan], jnp.float32),
        more={
            "b": [np.arange(256, dtype=np.uint8).reshape(2, -1), np.array([True, False])],
            "a": (np.array(-(2**63)), np.zeros((0, 3), np.float32), None),
        },
        count=2**53 + 1,
        mean=-math.inf,
    )


def bits(some):
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in parts.arrays_of(some).items()}


def test_a_tree_comes_back_to_the_bit(tmp_path):
    store = Store(tmp_path)
    one = tree()
    entry = parts.write(store, parts.arrays_of(one))
    two = parts.tree_like(one, parts.read(store, entry, parts.forms_of(one)))
    assert bits(one) == bits(two)
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert type(two.count) is int
    assert type(two.mean) is float
    assert two.key.dtype == one.key.dtype


def test_forms_of_abstract_arrays_are_those_of_arrays():
    arrays = {"key": jax.random.key(3), "x": jnp.zeros((2, 3))}
    abstract = jax.eval_shape(lambda: arrays)
    assert parts.forms_of(arrays) == parts.forms_of(abstract)


def test_the_device_s_array_is_not_needed_again(tmp_path):
    """What is read is a copy: nothing points into the blob's bytes."""
    store = Store(tmp_path)
    entry = parts.write(store, {"x": np.arange(4)})
    array = parts.read(store, entry, {"x": ["<i8", [4]]})["x"]
    np.testing.assert_array_equal(array, np.arange(4))


@pytest.mark.parametrize(
    "expected",
    [
        {"x": ["<f4", [2, 3]]},
        {"x": ["<i4", [3, 2]]},
        {"x": ["<f4", [6]]},
        {"y": ["<f4", [3, 2]]},
        {},
        {"x": ["<f4", [3, 2]], "y": ["<f4", []]},
    ],
)
def test_other_arrays_than_expected_are_named(tmp_path, expected):
    store = Store(tmp_path)
    entry = parts.write(store, {"x": np.zeros((3, 2), np.float32)})
    with pytest.raises(DamagedError, match=r"array [xy] is .* was expected"):
        parts.read(store, entry, expected)


def test_arrays_are_told_apart_by_name_not_by_order(tmp_path):
    store = Store(tmp_path)
    entry = parts.write(store, {"x": np.zeros(2), "y": np.ones(2)})
    arrays = parts.read(store, entry, dict(reversed(entry["arrays"].items())))
    assert (arrays["x"].tolist(), arrays["y"].tolist()) == ([0.0, 0.0], [1.0, 1.0])


BLOB = hashlib.sha256(b"").hexdigest()
STRANGE = {
    "nothing": None,
    "a list": [],
    "no arrays": {"blob": BLOB},
    "arrays as a list": {"blob": BLOB, "arrays": []},
    "a form of one": {"blob": BLOB, "arrays": {"x": ["<f4"]}},
    "objects": {"blob": BLOB, "arrays": {"x": ["|O", [1]]}},
    "fields": {"blob": BLOB, "arrays": {"x": ["f4,f4", [1]]}},
    "no dtype": {"blob": BLOB, "arrays": {"x": [None, [1]]}},
    "a dtype of its own": {"blob": BLOB, "arrays": {"x": [{"names": ["a"], "formats": [1]}, [1]]}},
    "a dtype of an old name": {"blob": BLOB, "arrays": {"x": ["a", [1]]}},
    "a negative size": {"blob": BLOB, "arrays": {"x": ["<f4", [-1]]}},
    "a fraction": {"blob": BLOB, "arrays": {"x": ["<f4", [1.0]]}},
    "a truth": {"blob": BLOB, "arrays": {"x": ["<f4", [True]]}},
    "a huge size": {"blob": BLOB, "arrays": {"x": ["<f4", [2**60]]}},
    "a product that is huge": {"blob": BLOB, "arrays": {"x": ["<f4", [2**40, 2**40]]}},
    "nothing of huge rows": {"blob": BLOB, "arrays": {"x": ["<f4", [0, 2**70]]}},
    "too many axes": {"blob": BLOB, "arrays": {"x": ["<f4", [1] * 100]}},
}


@pytest.mark.parametrize("entry", STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_entry_is_named(tmp_path, entry):
    store = Store(tmp_path)
    with pytest.raises(DamagedError):
        parts.read_any(store, entry, 2**20)
    with pytest.raises(DamagedError):
        parts.read(store, entry, {"x": ["<f4", [1]]})


def test_strange_forms_with_a_good_blob_are_named(tmp_path):
    store = Store(tmp_path)
    for data, form in ((b"", ["<f4", [0, 2**70]]), (bytes(4), ["<f4", [1] * 100])):
        entry = {"blob": store.write_blob([data]), "arrays": {"x": form}}
        with pytest.raises(DamagedError):
            parts.read_any(store, entry, 2**20)
