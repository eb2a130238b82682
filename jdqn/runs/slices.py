"""The rows of a replay in a checkpoint: slices of ring rows, each a blob of a store.

A row is written once, so that a slice saved before is named again. Slices are of logical rows,
whatever a backend makes of the arrays and whether several seeds are stacked. A ring is never on the
host as a whole, and no view of it either: XLA would copy a donated ring that something looks at.
"""

import collections
import concurrent.futures
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import numpy as np

from jdqn.envs import usable_cores
from jdqn.replay import Rows
from jdqn.runs.parts import flat
from jdqn.runs.store import DamagedError, Store

# 29 MB of Atari's frames; so many slices are in memory at once.
SLICE_TRANSITIONS = 4096
MAX_THREADS = 3

# Blobs of the slices of a ring; None: nothing has been written there.
Names = list[str | None]


class Cut(NamedTuple):
    """How the `T` rows of a ring are cut; the last slice ends with the ring, and may overlap."""

    num_rows: int
    size: int  # ring rows of a slice

    @property
    def starts(self) -> list[int]:
        """First row of each slice."""
        number = -(-self.num_rows // self.size)
        return [min(i * self.size, self.num_rows - self.size) for i in range(number)]

    def touched(self, first_tick: int, tick: int) -> set[int]:
        """Slices with a row that the ticks `first_tick` to `tick - 1` wrote."""
        rows = np.arange(max(first_tick, tick - self.num_rows, 0), tick) % self.num_rows
        starts = np.array(self.starts)[:, None]
        boundaries = np.sort(rows)
        first = np.searchsorted(boundaries, starts[:, 0], side="left")
        end = np.searchsorted(boundaries, starts[:, 0] + self.size, side="left")
        return {int(i) for i in np.flatnonzero(end > first)}


def cut_of(rows: Rows, num_parts: int = 1) -> Cut:
    """Slices of about `SLICE_TRANSITIONS` of a ring, or of rings stacked by seed.

    Of several parts, side by side along `E`, each is cut by itself.
    """
    num_rows, num_envs = rows.reward.shape[-2:]
    num_envs //= num_parts
    return Cut(num_rows, min(max(SLICE_TRANSITIONS // num_envs, 1), num_rows))


def save(
    store: Store, rings: Sequence[Rows], num_seeds: int, tick: int, before: list[Names], since: int
) -> list[Names]:
    """Writes what has changed of all rings.

    Args:
      store: where to.
      rings: one for each seed, or one of all seeds, stacked.
      num_seeds: D.
      tick: the next one: ticks before it have written.
      before: blobs by seed at an earlier checkpoint; may be empty.
      since: its tick.

    Returns:
      Blobs of all slices, by seed.

    Raises:
      OSError: a blob could not be written.
    """
    stacked = len(rings) < num_seeds
    cut = cut_of(rings[0])
    # The row before that tick may have been sealed since.
    changed = cut.touched(since - 1, tick)
    names: list[Names] = [[None] * len(cut.starts) for _ in range(num_seeds)]

    def write(ring: int, i: int) -> None:
        seeds = range(num_seeds) if stacked else [ring]
        old = [of_seed[i] or "" for of_seed in before] if i not in changed else []
        if old and all(store.is_intact(old[seed]) for seed in seeds):
            for seed in seeds:
                names[seed][i] = old[seed]
            return
        piece = _take(rings[ring], cut.starts[i], size=cut.size, stacked=stacked)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(piece)]
        for seed in seeds:
            own = (leaf[seed] if stacked else leaf for leaf in leaves)
            names[seed][i] = store.write_blob(map(flat, own))

    written = [i for i, start in enumerate(cut.starts) if start < tick]
    _in_threads(write, [(ring, i) for ring in range(len(rings)) for i in written])
    return names


def restore(
    store: Store, rings: list[Rows], num_seeds: int, tick: int, names: list[Names]
) -> list[Rows]:
    """Writes the saved slices into empty rings, which are donated.

    Of a ring that several processes had, `names` are those of its parts, one for each device.

    Raises:
      DamagedError: other slices than a ring of this size has at that tick, or a damaged blob.
    """
    stacked = len(rings) < num_seeds
    num_parts = max(len(names) // num_seeds, 1)
    cut = cut_of(rings[0], num_parts)
    expected = [start < tick for start in cut.starts]
    there = [[name is not None for name in of_part] for of_part in names]
    fits = rings[0].reward.shape[-1] % num_parts == 0
    if not fits or there != [expected] * num_seeds * num_parts:
        raise DamagedError(f"{store.folder}: a manifest has other slices than the replay")
    shape = _shape_of_piece(rings[0], cut.size, stacked, num_parts)
    read = functools.partial(_read, store, shape)
    rings = list(rings)
    wanted = [(seed, i) for i, some in enumerate(expected) if some for seed in range(num_seeds)]
    ahead: collections.deque = collections.deque()

    def paste() -> None:
        seed, i, reading = ahead.popleft()
        place = (seed, cut.starts[i]) if stacked else (cut.starts[i],)
        ring = 0 if stacked else seed
        rings[ring] = _paste(rings[ring], reading.result(), place)
        jax.block_until_ready(rings)  # or all slices would be in memory, waiting

    with concurrent.futures.ThreadPoolExecutor(_num_threads()) as pool:
        for seed, i in wanted:
            parts = [of_part[i] for of_part in names[seed * num_parts :][:num_parts]]
            ahead.append((seed, i, pool.submit(read, parts)))
            if len(ahead) == _num_threads():
                paste()
        while ahead:
            paste()
    return rings


def _shape_of_piece(rows: Rows, size: int, stacked: bool, num_parts: int) -> Rows:
    """Abstract arrays of a slice of one seed, or of one of its parts."""
    piece = jax.eval_shape(functools.partial(_take, size=size, stacked=stacked), rows, 0)

    def part(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        size, num_envs, *others = x.shape[stacked:]
        return jax.ShapeDtypeStruct((size, num_envs // num_parts, *others), x.dtype)

    return jax.tree.map(part, piece)


def _read(store: Store, shape: Rows, names: Sequence[str]) -> Rows:
    """Reads a slice, of all parts."""
    parts = [_read_part(store, shape, name) for name in names]
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)


def _read_part(store: Store, shape: Rows, name: str) -> Rows:
    """Reads a slice of one part."""
    leaves, structure = jax.tree.flatten(shape)
    sizes = [math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in leaves]
    data = store.read_blob(name, sum(sizes))
    ends = np.cumsum(sizes)
    arrays = [
        np.frombuffer(data[end - size : end], x.dtype).reshape(x.shape)
        for x, size, end in zip(leaves, sizes, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)


@functools.partial(jax.jit, static_argnames=("size", "stacked"))
def _take(rows: Rows, start: chex.Numeric, *, size: int, stacked: bool) -> Rows:
    """Ring rows `start` to `start + size`, frames without the padding of a backend."""
    piece = jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=int(stacked)), rows
    )
    return piece.replace(frame=piece.frame[..., : rows.frame_entries])


@functools.partial(jax.jit, donate_argnums=0)
def _paste(rows: Rows, piece: Rows, place: tuple[chex.Numeric, ...]) -> Rows:
    """Writes a slice at `place`: a ring row, behind a seed where rings are stacked."""

    def write(whole: chex.Array, part: chex.Array) -> chex.Array:
        part = part.reshape((1,) * (whole.ndim - part.ndim) + part.shape)
        zeros = (0,) * (whole.ndim - len(place))
        return jax.lax.dynamic_update_slice(whole, part, (*place, *zeros))

    return jax.tree.map(write, rows, piece)


def _num_threads() -> int:
    return min(usable_cores(), MAX_THREADS)


def _in_threads(function: Callable[..., None], arguments: Sequence[tuple]) -> None:
    """Calls a function with each tuple of arguments, some at a time; raises what it raises."""
    with concurrent.futures.ThreadPoolExecutor(_num_threads()) as pool:
        futures = [pool.submit(function, *some) for some in arguments]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
