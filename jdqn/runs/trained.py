"""What was trained, read from a run or from an exported folder; nothing is written."""

import pathlib
from typing import Any, NamedTuple

import jax

from jdqn import compilation, envs, learning, replay
from jdqn.config import Config, ConfigError, load_config, shown, with_overrides
from jdqn.envs.guard import guard
from jdqn.envs.interface import Interface, interface
from jdqn.learning import Agent, AgentState
from jdqn.runs import checkpoint, checks, directory, exported, files, resume
from jdqn.runs.store import DamagedError

ATTEMPTS = 5


class Trained(NamedTuple):
    """A checkpoint of a run, or what an exported folder holds of one."""

    path: pathlib.Path
    config: Config
    interface: Interface
    agent: Agent
    run_id: str | None
    steps: int  # agent steps
    states: list[AgentState]  # of each seed; of an exported agent what acts alone
    passed_over: list[str]  # what was wrong with newer checkpoints, a sentence each

    @property
    def seeds(self) -> range:
        """The seeds of `states`."""
        first = self.config.train.seed
        return range(first, first + len(self.states))

    def number_of(self, seed: int | None) -> int:
        """The place of a seed in `states`; without one, of the first.

        Raises:
          ConfigError: there is no such seed.
        """
        if seed is None:
            return 0
        if type(seed) is not int or seed not in self.seeds:
            first = self.seeds[0]
            last = self.seeds[-1]
            there = f"seed {first}" if first == last else f"seeds {first} to {last}"
            raise ConfigError(f"seed = {shown(seed)}: {self.path} has {there}")
        return self.seeds.index(seed)


def load_run(
    path: pathlib.Path,
    which: str | None = None,
    *,
    make_env: Any = envs.make_env,
    **overrides: Any,
) -> Trained:
    """Loads a run, also one that is being written, or an exported folder.

    Args:
      path: the run directory, or the folder.
      which: the checkpoint, agent steps or `best`; default: the newest that verifies.
      make_env: how environments are made.
      **overrides: of its configuration; `section__field=value`.

    Raises:
      ConfigError: no run, no such checkpoint, or a file that is damaged.
    """
    file = path / "config.toml"
    files.check_is_run(path)
    compilation.check_platform()
    recorded = load_config(file=file)
    config = with_overrides(recorded, **overrides)
    if not exported.is_exported(path) and not checkpoint.store_of(path).folder.is_dir():
        # Refused before a module is imported: it would not be seen that the folder is a run's.
        checkpoint.find(path, which, run_id=None, agents_only=True)
    env = make_env(config, num_envs=1)
    between = interface(env)
    guard(env, config.env.name).close()
    memory = replay.make_replay(config, env.spec)
    checks.check_own(config, env.spec, memory)
    agent = learning.make_agent(config, env.spec, memory)
    like = jax.eval_shape(lambda key: agent.init(key)[0], jax.random.key(0))
    read = _exported if exported.is_exported(path) else _checkpoint
    run_id, written, states, passed_over = read(path, which, like, config.train.num_seeds)
    changed = resume.differences(written, recorded)
    for name in sorted(changed.keys() - resume.CHANGEABLE):
        before, now = changed[name]
        raise ConfigError(
            f"{file}: {name} = {shown(now)}, the checkpoint was written with {shown(before)}"
        )
    return Trained(path, config, between, agent, run_id, written["steps"], states, passed_over)


# The run's name, what is known of the checkpoint, states, and what was wrong with newer ones.
Read = tuple[str | None, dict[str, Any], list[AgentState], list[str]]


def _checkpoint(path: pathlib.Path, which: str | None, like: AgentState, num_seeds: int) -> Read:
    run_id = directory.run_id_of(path)
    for _ in range(ATTEMPTS):  # a run that goes on may have deleted what was found
        found = checkpoint.find(path, which, run_id=run_id, agents_only=True)
        try:
            states = checkpoint.load_states(found, like, num_seeds)
        except DamagedError as error:
            damage = str(error)
            continue
        return run_id, found.manifest, states, found.passed_over
    raise ConfigError(f"{path} does not fit its config.toml: {damage}")


def _exported(path: pathlib.Path, which: str | None, like: AgentState, num_seeds: int) -> Read:
    if which is not None:
        raise ConfigError(
            f"--checkpoint {shown(which)}: {path} is an exported agent, which has one alone"
        )
    if num_seeds != 1:
        raise ConfigError(
            f"{path / 'config.toml'}: train.num_seeds = {num_seeds}, an exported agent has one seed"
        )
    state, about = exported.read(path, like)
    return about.run_id, {"config": about.config, "steps": about.steps}, [state], []
