"""A trained agent outside of training: raw observations in, the environment's own actions out."""

import functools
import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jdqn.config import Config, ConfigError, shown
from jdqn.learning import Agent, AgentState
from jdqn.learning.actor import init_actor, push_frame
from jdqn.records import Timestep
from jdqn.runs.trained import Trained, load_run


def load(
    path: str | pathlib.Path, *, checkpoint: str | int | None = None, seed: int | None = None
) -> "TrainedAgent":
    """Loads a trained agent to act with.

    Args:
      path: a run directory of `jdqn.train`, or a folder of `jdqn.export`.
      checkpoint: of a run, agent steps or `"best"`; default: the newest that verifies.
      seed: of a run of several seeds, which; default: the first.

    Raises:
      ConfigError: no run, no such checkpoint or seed, or a file that is damaged.
    """
    which = None if checkpoint is None else str(checkpoint)
    try:
        trained = load_run(pathlib.Path(path), which)
    except ConfigError as error:  # of the commands' option, which is an argument here
        option = f"--checkpoint {shown(which)}"
        if not str(error).startswith(option):
            raise
        said = f"checkpoint = {shown(checkpoint)}{str(error).removeprefix(option)}"
        raise ConfigError(said) from None
    return TrainedAgent(trained, trained.number_of(seed))


class TrainedAgent:
    """Acts greedily by the mean of all heads, with mean weights where the network is noisy.

    Observations are raw, as the environment of one's own shows them (`gymnasium.make(...)`; of
    Atari the 84 × 84 grey frames, uint8): one `[*raw]`, or `[B, *raw]` of B environments side by
    side; of a Dict or Tuple space one, or a list of B. The last `env.frame_stack` of them are
    remembered for each environment; `reset` says where an episode starts.
    """

    def __init__(self, trained: Trained, number: int):
        """The agent of one seed, `trained.states[number]`."""
        self.config: Config = trained.config
        self.steps = trained.steps  # agent steps of the training
        self.seed = trained.seeds[number]
        self.path = trained.path
        self._interface = trained.interface
        self._answer = jax.jit(functools.partial(_answer, trained.agent))
        state = trained.states[number]
        lean = state.replace(opt_state=(), target_params=None, target_network_state=None, key=None)
        self._state = jax.device_put(lean)
        self._random = np.random.default_rng(self.seed)
        self.reset()

    def reset(self, which: Any = None) -> None:
        """Says that the next observation is the first of an episode.

        Args:
          which: `[B]` bool, in which environments; default: in all, and there may be another
            number of them.

        Raises:
          ConfigError: it is not of as many environments as there are.
        """
        if which is None or self._stack is None:
            self._stack: chex.Array | None = None
            return
        mask = np.asarray(which)
        if mask.dtype != bool or np.atleast_1d(mask).shape != self._first.shape:
            raise ConfigError(
                f"reset({shown(which)}): expected {len(self._first)} booleans, one for each "
                "environment"
            )
        self._first |= mask

    def act(self, observation: Any, epsilon: float = 0.0) -> Any:
        """Actions of the environment's own, and remembers what was seen.

        Args:
          observation: raw, one `[*raw]` or `[B, *raw]`.
          epsilon: probability of a random action.

        Returns:
          An action, or `[B]` of them.

        Raises:
          ConfigError: an observation that the environment cannot have shown.
        """
        if not isinstance(epsilon, int | float | np.number) or not 0 <= epsilon <= 1:
            raise ConfigError(f"epsilon = {shown(epsilon)}: must be from 0 to 1")
        stack, _, greedy, is_one = self._ask(observation)
        self._stack = stack
        self._first = np.zeros(len(greedy), bool)
        numbers = greedy
        if epsilon:
            random = self._random.integers(self._interface.spec.num_actions, size=len(greedy))
            numbers = np.where(self._random.random(len(greedy)) < epsilon, random, greedy)
        actions = self._interface.actions(numbers)
        if not is_one:
            return actions
        return actions[0].item() if actions.ndim == 1 else actions[0]

    def q_values(self, observation: Any, *, heads: bool = False) -> np.ndarray:
        """What `act` would find of each action, of the same observation; nothing is remembered.

        Args:
          observation: as for `act`; ask before `act`, which takes it for seen.
          heads: of each head apart; default: their mean.

        Returns:
          `[A]` or `[B, A]` f32; `[K, A]` or `[B, K, A]` of each head.

        Raises:
          ConfigError: as `act`.
        """
        is_whole = self._interface.spec.frame_stack == 1  # what was seen before is not asked for
        _, q, _, is_one = self._ask(observation, from_start=is_whole)
        values = np.asarray(q if heads else jnp.mean(q, axis=1))
        return values[0] if is_one else values

    def frames(self, observation: Any) -> np.ndarray:
        """What the agent sees of an observation, `[*frame_shape]` or `[B, *frame_shape]`.

        Raises:
          ConfigError: as `act`.
        """
        observations, is_one = self._interface.batch(observation)
        frames = self._interface.frames(observations)
        return frames[0] if is_one else frames

    def _ask(
        self, observation: Any, *, from_start: bool = False
    ) -> tuple[chex.Array, chex.Array, np.ndarray, bool]:
        """The stack with an observation, Q `[B, K, A]`, the best actions `[B]`, whether it is one.

        All episodes are new where there is no stack yet, or `from_start`.
        """
        observations, is_one = self._interface.batch(observation)
        frames = self._interface.frames(observations)
        stack = None if from_start else self._stack
        first = self._first if stack is not None else np.ones(len(frames), bool)
        if stack is None:
            stack = init_actor(self._interface.spec, None, len(frames)).stack
        if len(stack) != len(frames):
            raise ConfigError(
                f"{len(frames)} observations after {len(stack)}: reset() comes before another "
                "number of environments"
            )
        stack, q, action = self._answer(self._state, stack, frames, first)
        return stack, q, np.asarray(action), is_one

    def __repr__(self) -> str:
        heads = self.config.network.heads
        of_heads = f", mean of {heads} heads" if heads > 1 else ""
        return (
            f"<jdqn agent {self.config.agent.name} on {self.config.env.name}, seed {self.seed}, "
            f"{self.steps:,} steps{of_heads}, from {self.path}>"
        )


def _answer(
    agent: Agent, state: AgentState, stack: chex.Array, frames: chex.Array, first: chex.Array
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """The stack with the newest frames, Q `[B, K, A]`, and the best actions `[B]` by their mean."""
    no = jnp.zeros(first.shape, bool)
    stack = push_frame(stack, Timestep(frames, no, no, no, first))
    q = agent.output(state, stack).q
    return stack, q, jnp.argmax(jnp.mean(q, axis=1), axis=1)
