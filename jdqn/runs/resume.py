"""Going on with a run: from which checkpoint, with what counters, and what may be changed."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jdqn import clock
from jdqn.config import Config, ConfigError, load_config, shown, with_overrides
from jdqn.runs import checkpoint, counters, directory, exported, files
from jdqn.runs.checkpoint import Found
from jdqn.runs.counters import Counters
from jdqn.runs.store import DamagedError

# What cannot alter what has been, nor what is learnt from there on.
CHANGEABLE = {
    "env.num_threads",
    "env.vectorization",
    "train.steps",
    "train.stop_return",
    "train.log_period_steps",
    "train.eval_period_steps",
    "train.eval_episodes",
    "train.checkpoint_period_steps",
    "train.checkpoint_keep",
    "train.checkpoint_replay",
    "train.num_devices",
    "train.compilation_cache",
}


class NothingLeftError(ConfigError):
    """A run has done all that is asked for."""


class Resumed(NamedTuple):
    """What a run goes on with."""

    config: Config
    found: Found
    counters: Counters
    said: list[str]  # what is to be known of it, a sentence each


def prepare(run_dir: pathlib.Path, config: Config) -> Resumed:
    """Finds the newest checkpoint that verifies, and checks what is asked for against it.

    Args:
      run_dir: of the run.
      config: its configuration, some fields of which may be changed.

    Raises:
      ConfigError: no checkpoint, a change that would alter the past; `NothingLeftError`.
    """
    files.check_is_run(run_dir)
    found = _newest(run_dir)
    schedule_steps = _schedule_steps(found.manifest["config"])
    if not config.train.schedule_steps and config.train.steps != schedule_steps:
        config = with_overrides(config, train__schedule_steps=schedule_steps)
    changed = differences(found.manifest, config)
    for name in sorted(changed.keys() - CHANGEABLE):
        before, now = changed[name]
        raise ConfigError(
            f"{name} = {shown(now)}: the run was started with {shown(before)}, and only "
            f"{', '.join(sorted(CHANGEABLE))} may change when a run goes on"
        )
    counted = _counters_of(run_dir, found, config)
    if "train.stop_return" in changed:
        nothing = (counters.NOT_REACHED,) * config.train.num_seeds
        counted = counted._replace(reached_steps=nothing)
    _check_what_is_left(run_dir, config, counted)
    if not found.manifest["rows"]:
        counted = counted._replace(empty_replay_steps=counted.steps)
    return Resumed(config, found, counted, _said(config, found))


def differences(manifest: checkpoint.Manifest, config: Config) -> dict[str, tuple[Any, Any]]:
    """What a checkpoint was written with and what a configuration says, where they differ."""
    old = manifest["config"]
    new = checkpoint.config_record(config)
    pairs = {
        f"{section}.{field}": (old[section][field], value)
        for section, fields in new.items()
        for field, value in fields.items()
        if field in old.get(section, {})  # else it is of an earlier version
    }
    pairs["train.schedule_steps"] = (_schedule_steps(old), clock.schedule_steps(config))
    return {name: (before, now) for name, (before, now) in pairs.items() if before != now}


def _schedule_steps(recorded: Mapping[str, Any]) -> int:
    return recorded["train"]["schedule_steps"] or recorded["train"]["steps"]


def is_finished(run_dir: pathlib.Path) -> bool:
    """Whether a run has done all that its own configuration asks for.

    Raises:
      ConfigError: it cannot be read, or has no checkpoint.
    """
    config = load_config(file=run_dir / "config.toml")
    counted = _counters_of(run_dir, _newest(run_dir), config)
    has_reached = counters.NOT_REACHED not in counted.reached_steps
    return _is_reported(config, counted) and (has_reached or _left(config, counted) <= 0)


def _newest(run_dir: pathlib.Path) -> Found:
    """The newest checkpoint that verifies. Raises ConfigError."""
    if exported.is_exported(run_dir):
        raise ConfigError(
            f"{run_dir} is an exported agent, which has parameters alone; begin a new run with "
            f"--start-from {run_dir}"
        )
    run_id = directory.run_id_of(run_dir)
    return checkpoint.find(run_dir, run_id=run_id, agents_only=False)


def _counters_of(run_dir: pathlib.Path, found: Found, config: Config) -> Counters:
    """The counters of a checkpoint. Raises ConfigError."""
    try:
        return checkpoint.load_counters(found, counters.start(config))
    except DamagedError as error:
        raise ConfigError(f"{run_dir} does not fit its config.toml: {error}") from None


def _left(config: Config, counted: Counters) -> int:
    """Agent steps that are left to do; below 0: more have been done."""
    return clock.num_ticks(config) * config.env.num_envs - counted.steps


def _is_reported(config: Config, counted: Counters) -> bool:
    """Whether the last step has been logged, and evaluated where that is asked for."""
    evaluated = not config.train.eval_episodes or counted.evaluated_steps == counted.steps
    return evaluated and counted.logged_steps == counted.steps


def _check_what_is_left(run_dir: pathlib.Path, config: Config, counted: Counters) -> None:
    """Raises NothingLeftError where nothing is left to do."""
    is_reported = _is_reported(config, counted)
    left = _left(config, counted)
    if left < 0 or (left == 0 and is_reported):
        raise NothingLeftError(
            f"train.steps = {config.train.steps}: {run_dir} has done {counted.steps:,} steps "
            "already; name more with --steps"
        )
    if is_reported and counters.NOT_REACHED not in counted.reached_steps:
        raise NothingLeftError(
            f"train.stop_return = {config.train.stop_return:g}: {run_dir} has reached it; name "
            "another goal, or none, with --train.stop_return"
        )


def _said(config: Config, found: Found) -> list[str]:
    manifest = found.manifest
    lines = [f"warning: {damage}; an earlier checkpoint is used" for damage in found.passed_over]
    if clock.schedule_steps(config) != config.train.steps:
        lines.append(
            "schedules keep the length they were started with, "
            f"{clock.schedule_steps(config):,} steps"
        )
    num_devices = manifest["config"]["train"].get("num_devices", 1)
    if num_devices != config.train.num_devices:
        lines.append(
            f"train.num_devices was {num_devices} and is {config.train.num_devices}: batches are "
            "drawn otherwise from here on"
        )
    if not manifest["rows"]:
        lines.append(
            "warning: the checkpoint holds no replay; learning starts again after "
            f"{config.train.learning_starts_steps:,} new steps"
        )
    now = checkpoint.versions() | checkpoint.cores()
    before = {name: manifest[name] for name in now if name in manifest}
    others = [f"{name} {value}" for name, value in before.items() if value != now[name]]
    if others:
        these = ", ".join(f"{name} {version}" for name, version in now.items())
        lines.append(
            f"warning: the checkpoint was written with {', '.join(others)}, this is {these}: the "
            "run may differ in its last digits"
        )
    return lines
