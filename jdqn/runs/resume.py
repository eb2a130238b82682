"""Going on with a run: from which checkpoint, with what counters, and what may be changed."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jdqn import clock
from jdqn.config import Config, ConfigError, with_overrides
from jdqn.runs import checkpoint, counters, directory
from jdqn.runs.checkpoint import Found
from jdqn.runs.counters import Counters
from jdqn.runs.store import DamagedError

# What cannot alter what has been, nor what is learnt from there on.
CHANGEABLE = {
    "env.num_threads",
    "train.steps",
    "train.stop_return",
    "train.log_period_steps",
    "train.eval_period_steps",
    "train.eval_episodes",
    "train.checkpoint_period_steps",
    "train.checkpoint_keep",
    "train.checkpoint_replay",
}


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
      ConfigError: no checkpoint, a change that would alter the past, nothing left to do.
    """
    if not (run_dir / "config.toml").is_file():
        raise ConfigError(f"{run_dir} is not a run directory: it has no config.toml")
    run_id = directory.run_id_of(run_dir)
    found = checkpoint.find(run_dir, run_id=run_id, agents_only=False)
    old = found.manifest["config"]
    old_schedule_steps = old["train"]["schedule_steps"] or old["train"]["steps"]
    if not config.train.schedule_steps and config.train.steps != old_schedule_steps:
        config = with_overrides(config, train__schedule_steps=old_schedule_steps)
    old["train"]["schedule_steps"] = old_schedule_steps
    new = checkpoint.config_record(config)
    new["train"]["schedule_steps"] = clock.schedule_steps(config)
    changed = _changes(old, new)
    try:
        counted = checkpoint.load_counters(found, counters.start(config))
    except DamagedError as error:
        raise ConfigError(f"{run_dir} does not fit its config.toml: {error}") from None
    _check_what_is_left(run_dir, config, counted)
    if "train.stop_return" in changed:
        nothing = (counters.NOT_REACHED,) * config.train.num_seeds
        counted = counted._replace(reached_steps=nothing)
    if not found.manifest["rows"]:
        counted = counted._replace(empty_replay_steps=counted.steps)
    return Resumed(config, found, counted, _said(config, found))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names of the fields that differ. Raises ConfigError where one may not."""
    pairs = {
        f"{section}.{field}": (old[section][field], value)
        for section, fields in new.items()
        for field, value in fields.items()
        if field in old.get(section, {})
    }
    changed = [name for name, (before, now) in pairs.items() if before != now]
    for name in changed:
        if name not in CHANGEABLE:
            before, now = pairs[name]
            raise ConfigError(
                f"{name} = {now!r}: the run was started with {before!r}, and only "
                f"{', '.join(sorted(CHANGEABLE))} may change when a run goes on"
            )
    return changed


def _check_what_is_left(run_dir: pathlib.Path, config: Config, counted: Counters) -> None:
    """Raises ConfigError where nothing is left to do."""
    evaluated = not config.train.eval_episodes or counted.evaluated_steps == counted.steps
    left = clock.num_ticks(config) * config.env.num_envs - counted.steps
    if left < 0 or (left == 0 and evaluated):
        raise ConfigError(
            f"train.steps = {config.train.steps}: {run_dir} has done {counted.steps:,} steps "
            "already; name more with --steps"
        )


def _said(config: Config, found: Found) -> list[str]:
    manifest = found.manifest
    lines = [f"warning: {damage}; an earlier checkpoint is used" for damage in found.passed_over]
    if clock.schedule_steps(config) != config.train.steps:
        lines.append(
            "schedules keep the length they were started with, "
            f"{clock.schedule_steps(config):,} steps"
        )
    if not manifest["rows"]:
        lines.append(
            "warning: the checkpoint holds no replay; learning starts again after "
            f"{config.train.learning_starts_steps:,} new steps"
        )
    now = checkpoint.versions()
    others = [f"{name} {manifest.get(name)}" for name in now if manifest.get(name) != now[name]]
    if others:
        these = ", ".join(f"{name} {version}" for name, version in now.items())
        lines.append(
            f"warning: the checkpoint was written with {', '.join(others)}, this is {these}: the "
            "run may differ in its last digits"
        )
    return lines
