"""Trees as named arrays, and named arrays as blobs of a store: everything small in a checkpoint."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdqn.runs.store import DamagedError, Store

Arrays = dict[str, np.ndarray]
# What a manifest may ask NumPy for.
DTYPES = {"|b1", *(f"<{kind}{size}" for kind in "iuf" for size in (2, 4, 8)), "|i1", "|u1"}
MAX_AXES = 16
# Dtype and shape of named arrays, as JSON gives them back.
Forms = dict[str, list]


def arrays_of(tree: Any) -> Arrays:
    """The leaves of a tree on the host, by path; typed keys as plain integers."""
    return {
        _name(path): np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def forms_of(tree: Any) -> Forms:
    """Dtypes and shapes of `arrays_of` a tree, or of a tree of abstract arrays."""
    return {_name(path): _form(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def tree_like(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The tree of `arrays_of` again: typed keys, Python numbers, all else NumPy arrays."""
    paths, structure = jax.tree.flatten_with_path(like)
    leaves: list[Any] = []
    for path, leaf in paths:
        array = arrays[_name(path)]
        if _is_key(leaf):
            leaves.append(jax.random.wrap_key_data(jnp.array(array)))
        elif isinstance(leaf, int | float):
            leaves.append(type(leaf)(array.item()))
        else:
            leaves.append(array)
    return jax.tree.unflatten(structure, leaves)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _form(leaf: Any) -> list:
    plain = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    plain = np.asarray(plain) if isinstance(plain, int | float) else plain
    return [np.dtype(plain.dtype).str, list(plain.shape)]


def flat(array: np.ndarray) -> memoryview:
    """The bytes of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def write(store: Store, arrays: Arrays) -> dict[str, Any]:
    """Writes named arrays into one blob; returns its entry in a manifest. Raises OSError."""
    blob = store.write_blob(flat(array) for array in arrays.values())
    # Not `forms_of`: JAX sorts the names of a dictionary.
    return {"blob": blob, "arrays": {name: _form(array) for name, array in arrays.items()}}


def read(store: Store, entry: Any, expected: Forms) -> Arrays:
    """The arrays of an entry, which must be those expected.

    Raises:
      DamagedError: other arrays, or a blob that is not what was written.
    """
    forms = _forms_in(store, entry)
    if forms != expected:
        wrong = next((n for n in {**expected, **forms} if forms.get(n) != expected.get(n)), "order")
        raise DamagedError(
            f"{store.folder}: array {wrong} is {forms.get(wrong, 'not there')}, "
            f"{expected.get(wrong, 'nothing')} was expected"
        )
    return _arrays_in(store, entry["blob"], forms)


def read_any(store: Store, entry: Any, max_bytes: int) -> Arrays:
    """The arrays of an entry, whatever they are, of at most so many bytes.

    Raises:
      DamagedError: more bytes, or a blob that is not what was written.
    """
    forms = _forms_in(store, entry)
    if sum(map(_num_bytes, forms.values())) > max_bytes:
        raise DamagedError(f"{store.folder}: a manifest asks for more than {max_bytes:,} bytes")
    return _arrays_in(store, entry["blob"], forms)


def _forms_in(store: Store, entry: Any) -> Forms:
    try:
        forms = entry["arrays"]
        for dtype, shape in forms.values():
            sizes_are_whole = all(type(size) is int and 0 <= size < 2**48 for size in shape)
            if dtype not in DTYPES or not sizes_are_whole or len(shape) > MAX_AXES:
                raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedError(f"{store.folder}: a manifest has an entry without arrays") from None
    return forms


def _num_bytes(form: list) -> int:
    return np.dtype(form[0]).itemsize * math.prod(form[1])


def _arrays_in(store: Store, blob: str, forms: Forms) -> Arrays:
    data = store.read_blob(blob, sum(map(_num_bytes, forms.values())))
    arrays = {}
    offset = 0
    for name, form in forms.items():
        end = offset + _num_bytes(form)
        arrays[name] = np.frombuffer(data[offset:end], form[0]).reshape(form[1])
        offset = end
    return arrays
