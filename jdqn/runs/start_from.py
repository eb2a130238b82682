"""A new run that begins with the parameters of another one, and with nothing else of it."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jdqn import devices, envs
from jdqn.config import Config, ConfigError, shown
from jdqn.learning import AgentState
from jdqn.runs import checkpoint, exported, parts, resume
from jdqn.runs.trained import Trained, load_run

# What every run has of its own: nothing is to be said where it differs.
ITS_OWN = {"train.schedule_steps", "train.seed", "train.num_seeds", "train.num_devices"}
MOST_SAID = 8


class Start(NamedTuple):
    """Where a new run gets its parameters from."""

    trained: Trained
    said: list[str]  # what is to be known of it, a sentence each

    @property
    def record(self) -> dict[str, Any]:
        """What the new run's `config.toml` keeps of it."""
        found = self.trained
        return {"run": found.run_id or "unknown", "path": str(found.path), "steps": found.steps}

    def into(self, states: Sequence[AgentState], num_seeds: int) -> list[AgentState]:
        """States of a new run, with the parameters in place of their own.

        Online and target get the online parameters, priors and network state come along; optimiser
        and keys stay the new run's.

        Args:
          states: one for each seed, or one of all, stacked.
          num_seeds: of the new run; seed i gets what seed i has, or all what a single one has.

        Raises:
          ConfigError: a parameter is of another shape.
        """
        theirs = self.trained.states
        several = theirs if len(theirs) > 1 else theirs * num_seeds
        weights = [exported.weights_of(state) for state in several]
        if len(states) < num_seeds:
            weights = [jax.tree.map(lambda *x: jnp.stack(x), *weights)]
        return [self._of(*pair) for pair in zip(weights, states, strict=True)]

    def _of(self, weights: dict[str, Any], state: AgentState) -> AgentState:
        there = parts.forms_of(weights)
        here = parts.forms_of(exported.weights_of(state))
        if wrong := exported.first_difference(there, here):
            raise ConfigError(f"--start-from {self.trained.path}: {wrong}")

        def copied(tree: Any) -> Any:  # each its own: they will be donated
            return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)

        state = exported.with_weights(state, copied(weights))
        return state.replace(
            target_params=copied(state.target_params),
            target_network_state=copied(state.target_network_state),
        )


def with_parameters(started: Start | None, carries: list[Any], num_seeds: int) -> list[Any]:
    """A loop's carries before the first tick, with what they start from, if anything.

    Raises:
      ConfigError: a parameter is of another shape.
    """
    if started is None:
        return carries
    states = started.into([carry.state for carry in carries], num_seeds)
    return [
        carry._replace(state=devices.put_like(state, carry.state))
        for carry, state in zip(carries, states, strict=True)
    ]


def prepare(
    path: str | pathlib.Path, config: Config, make_env: Callable[..., Any] = envs.make_env
) -> Start:
    """Loads what a new run starts from: the newest checkpoint, or an exported folder.

    Args:
      path: of the run or the folder.
      config: of the new run.
      make_env: how environments are made.

    Raises:
      ConfigError: nothing to start from, or another number of seeds.
    """
    trained = load_run(pathlib.Path(path), make_env=make_env)
    num_seeds = config.train.num_seeds
    if len(trained.states) not in (1, num_seeds):
        raise ConfigError(
            f"--start-from {path}: it has {len(trained.states)} seeds, train.num_seeds = "
            f"{num_seeds}; expected as many, or one: python -m jdqn.export {path} DIR --seed N"
        )
    said = [f"warning: {damage}; an earlier checkpoint is used" for damage in trained.passed_over]
    said.append(
        f"starts from the parameters of {path} at {trained.steps:,} steps; optimiser, replay and "
        "schedules are new"
    )
    return Start(trained, [*said, *_differences(trained.config, config)])


def _differences(theirs: Config, config: Config) -> list[str]:
    """What differs between the configurations of the two runs, in one sentence or none."""
    record = {"config": checkpoint.config_record(theirs)}
    changed = resume.differences(record, config)
    pairs = [
        f"{name} = {shown(now)} (there {shown(before)})"
        for name, (before, now) in changed.items()
        if name not in ITS_OWN | resume.CHANGEABLE
    ]
    more = f", and {len(pairs) - MOST_SAID} more" if len(pairs) > MOST_SAID else ""
    return [f"other than there: {', '.join(pairs[:MOST_SAID])}{more}"] if pairs else []
