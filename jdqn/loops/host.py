"""The host loop, for any environment behind the vector protocol."""

from collections.abc import Generator

import jax
import numpy as np

from jdqn import clock, envs, kernels, learning
from jdqn.config import Config
from jdqn.loops.shared import Carry, Turn
from jdqn.replay import Replay


def start(config: Config, env: envs.VectorEnv, replay: Replay, agent: learning.Agent) -> Carry:
    """Before the first tick."""
    agent_key, replay_key = jax.random.split(jax.random.key(config.train.seed))
    state, actor = jax.jit(agent.init)(agent_key)
    return Carry(state, actor, jax.jit(replay.init)(replay_key), None, env.reset())


def turns(
    config: Config, env: envs.VectorEnv, replay: Replay, agent: learning.Agent, carry: Carry
) -> Generator[Turn]:
    """One turn a tick."""
    act = jax.jit(agent.act, donate_argnums=1)
    add = jax.jit(replay.add, donate_argnums=0)
    learn = kernels.jit_learning(agent.learn, (0, 1))
    hold_out = learning.held_out(replay)
    learned: dict[str, jax.Array] = {}
    state, actor, replay_state, _, timestep = carry
    del carry  # its buffers are donated
    for tick in range(clock.num_ticks(config)):
        starts = tick == clock.first_learning_tick(config)
        held_out = [hold_out(replay_state)] if starts else []
        on_device = jax.device_put(timestep)
        action, actor = act(state, actor, on_device, tick)
        env.send(np.asarray(action))  # the emulators now run on host threads ...
        replay_state = add(replay_state, on_device, action, tick)
        if clock.learns_at(config, tick):  # ... while the device works beside them
            state, replay_state, learned = learn(state, replay_state, tick)
        following = env.recv()
        after = Carry(state, actor, replay_state, None, following)
        yield Turn(tick, [[timestep]], [after], [state], [learned], held_out)
        timestep = following
