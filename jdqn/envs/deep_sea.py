"""bsuite's DeepSea (Osband et al. 2020): one sequence of actions in 2^N pays."""

import chex
import flax.struct
import jax
import jax.numpy as jnp

MOVE_COST = 0.01  # of a whole episode to the right


class DeepSeaState(flax.struct.PyTreeNode):
    """Where the agent is."""

    row: chex.Array  # [] i32, 0 to N; N: the episode has ended
    column: chex.Array  # [] i32, 0 to N - 1


class DeepSea:
    """An N × N grid; each step goes one row down, and left or right.

    Which action goes right in a cell is drawn once for the seed of a run. Going right costs
    0.01 / N, and pays 1 in the last column: the best episode returns 0.99. Where it is stochastic,
    going right fails with probability 1 / N, at the same cost and pay, and a reward in either
    corner of the last row has normal noise added. Observations `[N, N]` show the cell, one-hot;
    nothing after the last row.
    """

    num_actions = 2

    def __init__(self, size: int, is_stochastic: bool):
        self._size = size
        self._is_stochastic = is_stochastic

    def draw_params(self, key: chex.PRNGKey) -> chex.Array:
        """Which action goes right, `[N, N]` i32."""
        return jax.random.bernoulli(key, 0.5, (self._size, self._size)).astype(jnp.int32)

    def reset_env(self, _: chex.PRNGKey, __: chex.Array) -> tuple[chex.Array, DeepSeaState]:
        """The upper left corner."""
        state = DeepSeaState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        return self._observe(state), state

    def step_env(
        self, key: chex.PRNGKey, state: DeepSeaState, action: chex.Array, rightward: chex.Array
    ) -> tuple[chex.Array, DeepSeaState, chex.Array, chex.Array, dict]:
        """Observation, state, reward, whether the episode has ended, nothing."""
        row = state.row
        column = state.column
        last = self._size - 1
        right = action == rightward[row, column]
        moves_right = right
        reward = right * ((column == last) - MOVE_COST / self._size)
        if self._is_stochastic:
            fail_key, noise_key = jax.random.split(key)
            moves_right &= jax.random.uniform(fail_key) > 1 / self._size
            noisy = (row == last) & ((column == 0) | (column == last))
            reward += noisy * jax.random.normal(noise_key)
        # To the right, nowhere where that failed, to the left.
        column = jnp.clip(column + jnp.where(right, 1 * moves_right, -1), 0, last)
        state = DeepSeaState(row + 1, column)
        return self._observe(state), state, reward, state.row == self._size, {}

    def _observe(self, state: DeepSeaState) -> chex.Array:
        cell = state.row * self._size + state.column
        return (jnp.arange(self._size**2) == cell).reshape(self._size, self._size)
