"""What a checkpoint holds: everything, so that a run goes on as if nothing had happened.

Parts, one blob each: `counters`, `held_out`, `environment`, and of each seed the fields of its
carry (`0/state`, `0/actor`, ...). The rows of the replay are apart, see `runs.slices`.
"""

import contextlib
import json
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax

from jdqn import __version__, envs, kernels
from jdqn.config import Config, ConfigError, shown
from jdqn.replay import Rows
from jdqn.runs import parts, slices
from jdqn.runs.counters import Counters
from jdqn.runs.parts import Arrays
from jdqn.runs.store import BEST, DamagedError, Manifest, Store, blobs_of

# What brings an environment back: the actions of its running games, mostly.
MAX_ENVIRONMENT_BYTES = 2**30
# Looks, until two see the same damage: a run that goes on deletes what others read.
ATTEMPTS = 5


class Position(NamedTuple):
    """Between two ticks: from here a loop can go on."""

    tick: int  # the next one
    carries: Sequence[Any]  # `loops.shared.Carry`, one for each seed, or one of all, stacked
    environment: Callable[[], Arrays | None]  # what brings one on the host back; None: nothing
    learned: Sequence[Any] = ()  # of each seed, metrics of its last call of `learn`, if any


class Found(NamedTuple):
    """A checkpoint that has been verified."""

    store: Store
    manifest: Manifest
    passed_over: list[str]  # what was wrong with newer ones, a sentence each


def store_of(run_dir: pathlib.Path) -> Store:
    """The checkpoints of a run directory."""
    return Store(run_dir / "checkpoints")


def versions() -> dict[str, str]:
    """Of what computes: with others a run that goes on may differ in last digits."""
    return {"jdqn": __version__, "jax": jax.__version__}


def cores() -> dict[str, int]:
    """On a CPU, cores in use: sums of large products are cut into as many parts."""
    return {"cores": envs.usable_cores()} if kernels.on_cpu() else {}


def config_record(config: Config) -> dict[str, Any]:
    """A configuration as JSON gives it back."""
    sections = {name: section.model_dump() for name, section in config.sections.items()}
    return json.loads(json.dumps(sections))


# --- Writing ------------------------------------------------------------------------------------


class Checkpoints:
    """Those that a run writes; it remembers which slices of the replay are written already."""

    def __init__(self, config: Config, run_dir: pathlib.Path, run_id: str):
        self._config = config
        self._store = store_of(run_dir)
        self._run_id = run_id
        self._slices: list[slices.Names] = []  # of the checkpoint before, by seed
        self._tick = 0  # of the checkpoint before

    def go_on_from(self, manifest: Manifest) -> None:
        """Takes over what a checkpoint has written."""
        self._slices = manifest["rows"]
        self._tick = manifest["tick"]

    def save(
        self,
        steps: int,
        position: Position,
        counters: Counters,
        held_out: Sequence[chex.Array],
        files: Mapping[str, int],
    ) -> None:
        """Writes a checkpoint, and deletes those that are too many.

        Args:
          steps: agent steps, its name.
          position: from where a loop goes on.
          counters: of the run.
          held_out: of each seed, what diagnostics are taken on; may be empty.
          files: lengths in bytes of the logs that belong to it.

        Raises:
          OSError: it could not be written; those before it are as they were.
        """
        num_seeds = self._config.train.num_seeds
        trees: dict[str, Any] = {"counters": counters, "held_out": list(held_out)}
        trees["learned"] = list(position.learned)
        environment = position.environment() or {}
        if sum(array.nbytes for array in environment.values()) <= MAX_ENVIRONMENT_BYTES:
            trees["environment"] = environment
        for i, carry in enumerate(_each(position.carries, num_seeds)):
            trees |= {f"{i}/{field}": tree for field, tree in carry._asdict().items()}
        rows: list[slices.Names] = []
        try:
            if self._config.train.checkpoint_replay:
                rows = self._save_rows(position)
            else:
                trees = {k: v for k, v in trees.items() if not k.endswith("/replay_state")}
            self._complete(steps, position.tick, trees, rows, files)
        except OSError:
            self._store.sweep()  # what was written of it takes room
            raise
        self._slices = rows
        self._tick = position.tick
        # It is written: that a folder cannot be read now is no failure, and of several processes
        # would be one of this process alone.
        with contextlib.suppress(OSError):
            # A later one is damaged, and its log was cut: the run went on from an earlier one.
            earlier = [name for name in self._store.names() if int(name) <= steps]
            self._store.thin(earlier[-self._config.train.checkpoint_keep :])

    def _save_rows(self, position: Position) -> list[slices.Names]:
        """Writes what has changed of all rings. Raises OSError."""
        rings = [split(carry)[1] for carry in position.carries]
        num_seeds = self._config.train.num_seeds
        before = self._slices if len(self._slices) == num_seeds else []  # else of several processes
        return slices.save(self._store, rings, num_seeds, position.tick, before, self._tick)

    def _complete(
        self,
        steps: int,
        tick: int,
        trees: Mapping[str, Any],
        rows: list[slices.Names],
        files: Mapping[str, int],
    ) -> None:
        """Writes all but the rows, which are there, and verifies it all. Raises OSError."""
        self._write(str(steps), steps, tick, trees, rows, files=dict(files))
        self._verify(str(steps))

    def _verify(self, name: str) -> None:
        """Reads what was written, before an earlier one is deleted. Raises OSError."""
        try:
            _verified(self._store, name, self._run_id, agents_only=False)
        except DamagedError as error:
            raise OSError(str(error)) from None

    def save_best(self, steps: int, tick: int, states: Sequence[Any], mean: float) -> None:
        """Writes the best checkpoint, agents only. Raises OSError."""
        trees = {f"{i}/state": state for i, state in enumerate(states)}
        try:
            self._write(BEST, steps, tick, trees, [], return_mean=mean)
        finally:
            self._store.sweep()

    def _write(
        self,
        name: str,
        steps: int,
        tick: int,
        trees: Mapping[str, Any],
        rows: list[slices.Names],
        **more: Any,
    ) -> None:
        arrays = {name: parts.arrays_of(tree) for name, tree in trees.items()}
        manifest = {
            "name": name,
            "run": self._run_id,
            **versions(),
            **cores(),
            "config": config_record(self._config),
            "steps": steps,
            "tick": tick,
            "parts": {n: parts.write(self._store, some) for n, some in arrays.items() if some},
            "rows": rows,
            **more,
        }
        self._store.write_manifest(name, manifest)


def _each(carries: Sequence[Any], num_seeds: int) -> list[Any]:
    """Carries without their rows, one for each seed."""
    small = [split(carry)[0] for carry in carries]
    if len(small) == num_seeds:
        return small
    return [jax.tree.map(lambda x, i=i: x[i], small[0]) for i in range(num_seeds)]


def split(carry: Any) -> tuple[Any, Rows]:
    """A carry without its rows, and the rows."""
    replay_state = carry.replay_state
    return carry._replace(replay_state=replay_state.replace(rows=None)), replay_state.rows


# --- Reading ------------------------------------------------------------------------------------


def find(
    run_dir: pathlib.Path, which: str | None = None, *, run_id: str | None, agents_only: bool
) -> Found:
    """Finds a checkpoint and verifies every byte of it that will be used.

    Args:
      run_dir: the run directory.
      which: agent steps, or `best`; None: the newest that verifies.
      run_id: of the run that must have written it; None: any.
      agents_only: whether the agents alone will be used.

    Raises:
      ConfigError: there is none, or none that verifies.
    """
    store = store_of(run_dir)
    damages: list[str] = []
    for _ in range(ATTEMPTS):
        before = damages
        try:
            names = store.names()
        except OSError as error:
            raise ConfigError(f"{store.folder} cannot be read: {error.strerror}") from None
        if which is not None:
            names = _named(store, names, which)
        found, damages = _newest(store, names, run_id, agents_only)
        if damages == before:
            break
    if found is not None:
        return Found(store, found, damages)
    if damages:
        raise ConfigError(f"{run_dir} has no checkpoint that can be used: {damages[0]}")
    if not store.folder.is_dir():
        yet = f" yet{again}" if (again := _again(run_dir)) else ": expected a run directory"
        raise ConfigError(f"{run_dir} has no checkpoint{yet}")
    if any(path.is_dir() and path.name.isdecimal() for path in store.folder.iterdir()):
        raise ConfigError(
            f"{run_dir} has checkpoints of an earlier jdqn, which wrote them through Orbax; this "
            "version does not read them: use them with that one, or train again"
        )
    raise ConfigError(f"{run_dir} has no finished checkpoint yet{_again(run_dir)}")


def _newest(
    store: Store, names: Sequence[str], run_id: str | None, agents_only: bool
) -> tuple[Manifest | None, list[str]]:
    """The newest manifest that verifies, and what is wrong with those after it."""
    damages: list[str] = []
    for name in reversed(names):
        try:
            return _verified(store, name, run_id, agents_only), damages
        except DamagedError as error:
            damages.append(str(error))
    return None, damages


def _again(run_dir: pathlib.Path) -> str:
    """How to begin a run once more that was stopped before its first checkpoint."""
    file = run_dir / "config.toml"
    command = f"python -m jdqn.train --config {shlex.quote(str(file))}"
    hint = f"; wait where it is being trained, or start it again: {command}"
    return hint if file.is_file() else ""


def _named(store: Store, names: list[str], which: str) -> list[str]:
    plain = which.replace("_", "").replace(",", "")
    number = str(int(plain)) if re.fullmatch("[0-9]{1,18}", plain) else which
    if (number == BEST and store.has(BEST)) or number in names:
        return [number]
    is_number = re.fullmatch("[0-9]{1,18}", number)
    later = [name for name in names if is_number and int(name) > int(number)]
    if later and int(later[0]) - int(number) < _num_envs(store, later[0]):
        return later[:1]  # written at the first step of all environments at or after a period
    known = ", ".join([*names, *[BEST] * store.has(BEST)]) or "none"
    raise ConfigError(
        f"--checkpoint {shown(which)}: expected agent steps or best (there are: {known})"
    )


def _num_envs(store: Store, name: str) -> int:
    """Agent steps of a tick; 0: the manifest is damaged."""
    try:
        return store.read_manifest(name)["config"]["env"]["num_envs"]
    except (DamagedError, KeyError, TypeError):
        return 0


def _verified(store: Store, name: str, run_id: str | None, agents_only: bool) -> Manifest:
    """The manifest of a checkpoint whose blobs are what was written. Raises DamagedError."""
    manifest = store.read_manifest(name)
    if manifest.get("name") != name:
        raise DamagedError(f"{store.path_of(name)} is of another checkpoint")
    if not _is_whole(manifest):
        raise DamagedError(f"{store.path_of(name)} contradicts itself")
    if run_id is not None and manifest.get("run") != run_id:
        raise DamagedError(f"{store.path_of(name)} is of another run")
    blobs = blobs_of(manifest)
    if agents_only:
        states = {n: entry for n, entry in manifest["parts"].items() if n.endswith("/state")}
        blobs = blobs_of({"parts": states, "rows": []})
    for blob in dict.fromkeys(blobs):
        if not store.is_intact(blob):
            raise DamagedError(f"{store.path_of_blob(blob)} is missing or has changed")
    return manifest


def _is_whole(manifest: Manifest) -> bool:
    """Whether what is read of a manifest is there, and fits together."""
    try:
        name, steps, tick, config = (manifest[key] for key in ("name", "steps", "tick", "config"))
        lengths = manifest.get("files", {}).values()
        numbers = [steps, tick, config["env"]["num_envs"], config["train"]["num_seeds"], *lengths]
        return (
            all(type(number) is int and number >= 0 for number in numbers)
            and type(devices := config["train"].get("num_devices", 1)) is int
            and devices > 0
            and config["env"]["num_envs"] % devices == 0
            and steps == tick * config["env"]["num_envs"]
            and name in (BEST, str(steps))
            and {"steps", "schedule_steps"} <= config["train"].keys()
            and all(isinstance(fields, dict) for fields in config.values())
        )
    except (KeyError, TypeError, AttributeError):
        return False


def load_states(found: Found, like: Any, num_seeds: int) -> list[Any]:
    """The agents' states, one for each seed, leaves as NumPy arrays or typed keys.

    Raises:
      DamagedError: it does not fit `like`, the state of one seed.
    """
    return [part(found, f"{i}/state", like) for i in range(num_seeds)]


def part(found: Found, name: str, like: Any) -> Any:
    """A part of a checkpoint. Raises DamagedError where it does not fit `like`."""
    expected = parts.forms_of(like)
    if not expected:
        return like
    entry = found.manifest["parts"].get(name)
    return parts.tree_like(like, parts.read(found.store, entry, expected))


def load_counters(found: Found, like: Counters) -> Counters:
    """The counters of the run. Raises DamagedError where they do not fit `like`."""
    return part(found, "counters", like)
