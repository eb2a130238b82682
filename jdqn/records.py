"""What crosses module borders; no logic.

Letters used everywhere: `B` batch, `E` environments, `T` ring rows, `K` heads, `A` actions,
`Z` atoms or quantiles, `S` stacked frames, `N` n-step length, `H W` frame size, `D` devices.
"""

from typing import Any, NamedTuple

import chex
import numpy as np


class EnvSpec(NamedTuple):
    """What an environment looks like to the agent; all static."""

    frame_shape: tuple[int, ...]  # one observation, without the stack
    frame_dtype: np.dtype  # uint8 or float32
    frame_stack: int  # S
    num_actions: int  # A
    scale: float  # what the network multiplies a frame by: 1/255 for Atari, else 1


class Timestep(NamedTuple):
    """What every adapter returns, one entry per environment; fresh arrays on each step."""

    frame: chex.Array  # [E, *frame_shape]: the newest frame only
    reward: chex.Array  # [E] f32, raw: the result of the previous action
    terminated: chex.Array  # [E] bool: no bootstrap through here (game over, or a lost life)
    last: chex.Array  # [E] bool: the episode ended here; the next action is ignored
    first: chex.Array  # [E] bool: first frame of a true episode


class Batch(NamedTuple):
    """Transitions drawn from the replay, n-step already folded."""

    obs: chex.Array  # [B, S, *frame_shape]
    action: chex.Array  # [B] i32
    reward: chex.Array  # [B] f32: n-step return
    discount: chex.Array  # [B] f32: what multiplies the bootstrap value; 0 at a terminal
    next_obs: chex.Array  # [B, S, *frame_shape]
    mask: chex.Array  # [B, K] u8: bootstrap weights
    weight: chex.Array  # [B] f32: importance weights, maximum 1
    row: chex.Array  # [B] i32: ring row
    env: chex.Array  # [B] i32: environment


class QOutput(NamedTuple):
    """What a Q-network says of observations."""

    q: chex.Array  # [B, K, A] f32: expected values where there is a distribution
    # [B, K, A, Z] f32: what the value head read Q from (logits, quantiles); None: Q itself.
    raw: chex.Array | None = None
    samples: Any = None  # what the value head drew for it, leaves [B, ...]; None: nothing
