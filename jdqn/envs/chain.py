"""The chain of Osband et al. 2016 (section 6.1): a small reward near, a large one far."""

from typing import Any

import chex
import flax.struct
import jax.numpy as jnp


class ChainState(flax.struct.PyTreeNode):
    """Where the agent is."""

    position: chex.Array  # [] i32, 1 to N
    time: chex.Array  # [] i32, steps of this episode


class Chain:
    """N states in a row, from the second; 0 goes left and 1 right.

    An episode lasts N + 9 steps. Going left in state 1 pays 0.001, going right in state N pays 1:
    an optimal episode returns 11. Observations are thermometers, feature i is whether i ≤ state.
    """

    num_actions = 2

    def __init__(self, length: int):
        self._length = length

    def reset_env(self, _: chex.PRNGKey, __: Any) -> tuple[chex.Array, ChainState]:
        """The second state."""
        state = ChainState(jnp.full((), 2, jnp.int32), jnp.zeros((), jnp.int32))
        return self._observe(state), state

    def step_env(
        self, _: chex.PRNGKey, state: ChainState, action: chex.Array, __: Any
    ) -> tuple[chex.Array, ChainState, chex.Array, chex.Array, dict]:
        """Observation, state, reward, whether the episode has ended, nothing.

        The horizon is the end, as in bsuite, not a time limit.
        """
        right = jnp.asarray(action) > 0
        reward = jnp.where(
            right, 1.0 * (state.position == self._length), 0.001 * (state.position == 1)
        )
        position = jnp.clip(state.position + jnp.where(right, 1, -1), 1, self._length)
        state = ChainState(position, state.time + 1)
        return self._observe(state), state, reward, state.time >= self._length + 9, {}

    def _observe(self, state: ChainState) -> chex.Array:
        return jnp.arange(1, self._length + 1) <= state.position
