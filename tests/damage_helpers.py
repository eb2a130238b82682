"""A run with several checkpoints, how they are read, and all that can happen to their files."""

import functools
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny

from jdqn import envs, learning
from jdqn.config import ConfigError, with_overrides
from jdqn.loops import fused, shared
from jdqn.runs import checkpoint, directory, parts, restoring, resume
from jdqn.runs.store import DamagedError, zstd

KEPT = [80, 160, 240, 320]
SUFFIX = ".manifest"


def config(**overrides):
    """Short, with a checkpoint at each step of `KEPT`; the ring is overwritten."""
    lengths = {
        "train__steps": KEPT[-1],
        "train__log_period_steps": 80,
        "train__eval_period_steps": 160,
        "train__eval_episodes": 1,
        "train__checkpoint_period_steps": 80,
        "train__checkpoint_keep": len(KEPT),
        "replay__capacity": 96,
    }
    return tiny("jdqn/Chain", **lengths | overrides)


def bits(tree):
    """Every array of a tree as bytes, with its type and shape."""
    return {n: (a.dtype, a.shape, a.tobytes()) for n, a in parts.arrays_of(tree).items()}


class Readers:
    """The two ways in which a checkpoint is read: to go on, and to play with the agents."""

    def __init__(self):
        self.config = with_overrides(config(), train__steps=400)
        env = envs.make_native_env(self.config, num_envs=4)
        replay, agent = shared.build(self.config, env.spec)
        static = fused.Parts(self.config, env, replay, agent, 20)
        self._like = jax.eval_shape(functools.partial(fused.init, static), np.int64(0))
        (empty,) = fused.start(static)
        self._empty = jax.tree.map(np.array, parts.arrays_of(empty))
        held_out = learning.held_out(replay)
        learned = jax.eval_shape(agent.learn, self._like.state, self._like.replay_state, 0)[2]
        self._beside = (jax.eval_shape(held_out, self._like.replay_state), learned)

    def go_on(self, path):
        """Steps from where a run goes on, sentences about damage, and everything read."""
        resumed = resume.prepare(path, self.config)
        empty = jax.tree.map(_on_device, parts.tree_like(self._like, self._empty))
        try:
            restored = restoring.restore(resumed.found, [empty], self._like, *self._beside)
        except DamagedError as error:  # as in `loops.shared.restore`
            raise ConfigError(str(error)) from None
        read = bits((*restored, resumed.counters))
        steps = resumed.counters.steps
        assert resumed.found.manifest["tick"] == steps // 4
        return steps, resumed.found.passed_over, read

    def play(self, path):
        """Steps of the agents that play, sentences about damage, and the agents."""
        run_id = directory.run_id_of(path)
        found = checkpoint.find(path, run_id=run_id, agents_only=True)
        try:
            (state,) = checkpoint.load_states(found, self._like.state, 1)
        except DamagedError as error:  # as in `evaluation.load_run`
            raise ConfigError(str(error)) from None
        return found.manifest["steps"], found.passed_over, bits(state)


def _on_device(leaf):
    return leaf if isinstance(leaf, jax.Array) else jnp.array(leaf, copy=True)


# --- Files --------------------------------------------------------------------------------------


def files_of(path):
    """Every file of the checkpoints of a run."""
    found = (path / "checkpoints").rglob("*")
    return sorted(file for file in found if file.is_file())


def manifest_of(path, name):
    """Where a manifest lies."""
    return path / "checkpoints" / f"{name}{SUFFIX}"


def blob_of(path, name):
    """Where a blob lies."""
    return path / "checkpoints" / "blobs" / name


def read(path, name):
    """A manifest, unchecked."""
    return json.loads(manifest_of(path, name).read_bytes().partition(b"\n")[0])


def sign(path, name, manifest):
    """Writes anything as a manifest with the right hash."""
    text = json.dumps(manifest).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    manifest_of(path, name).write_bytes(text + b"\n" + digest + b"\n")


# --- Damages: functions of a file, a random generator -------------------------------------------


def truncate(file, rng):
    """Cuts a file somewhere."""
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])


def flip(file, rng):
    """Flips a bit."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def extend(file, rng):
    """Something behind the end."""
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 20)))


def zero(file, rng):
    """A block that was never written, as after a power failure."""
    data = bytearray(file.read_bytes())
    begin = rng.randrange(len(data))
    data[begin:] = bytes(len(data) - begin) if any(data[begin:]) else b""
    file.write_bytes(data)


def empty(file, _):
    """A file of no bytes."""
    file.write_bytes(b"")


def remove(file, _):
    """No file."""
    file.unlink()


def make_folder(file, _):
    """A folder in its place."""
    file.unlink()
    file.mkdir()


def dangle(file, _):
    """A link to nothing."""
    file.unlink()
    file.symlink_to("nothing")


def swap(one, two):
    """Exchanges two files."""
    first = one.read_bytes()
    second = two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def leave_over(path, name, rng):
    """What a process leaves that was killed while it wrote."""
    folder = path / "checkpoints"
    for leftover in (folder / f"{name}{SUFFIX}.tmp", folder / "blobs" / f"{'0' * 64}.tmp"):
        leftover.write_bytes(rng.randbytes(100))
    (folder / f"400{SUFFIX}.tmp").write_bytes(manifest_of(path, name).read_bytes())
    (folder / f"401{SUFFIX}.tmp").mkdir()
    blob_of(path, "f" * 64).write_bytes(b"named by nothing")


def replace_by(path, other, name):
    """The manifest of another run, and all its blobs."""
    shutil.copytree(
        other / "checkpoints" / "blobs", path / "checkpoints" / "blobs", dirs_exist_ok=True
    )
    shutil.copy(manifest_of(other, name), manifest_of(path, name))


def bomb(path, name, part):
    """A blob with the right name that unpacks to far more than a manifest says."""
    manifest = read(path, name)
    data = zstd.compress(bytes(2**26))
    blob = hashlib.sha256(data).hexdigest()
    blob_of(path, blob).write_bytes(data)
    if part == "rows":
        manifest["rows"][0][0] = blob
    else:
        manifest["parts"][part]["blob"] = blob
    sign(path, name, manifest)


# What a manifest with the right hash may say instead.
STRANGE = [
    None,
    True,
    -1,
    0,
    2**60,
    2**70,
    1.5,
    1e308,
    "",
    "x",
    "0" * 64,
    [],
    [[]],
    {},
    {"x": None},
]


def places_in(manifest, prefix=()):
    """Paths to every value of a manifest, the configuration's fields left out but for two."""
    for key, value in manifest.items() if isinstance(manifest, dict) else enumerate(manifest):
        place = (*prefix, key)
        yield place
        if isinstance(value, dict | list) and place[:1] != ("config",):
            yield from places_in(value, place)


def put(manifest, place, value):
    """Sets or, without a value, deletes one."""
    *path, last = place
    for key in path:
        manifest = manifest[key]
    if value is ...:
        del manifest[last]
    else:
        manifest[last] = value
