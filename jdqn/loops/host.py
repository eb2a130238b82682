"""The host loop, for any environment behind the vector protocol."""

from collections.abc import Iterator

import jax
import numpy as np

from jdqn import clock, envs, kernels, learning, replay
from jdqn.config import Config
from jdqn.loops import frame


def turns(
    config: Config, env: envs.VectorEnv, memory: replay.Replay, agent: learning.Agent
) -> Iterator[frame.Turn]:
    """One turn a tick."""
    agent_key, replay_key = jax.random.split(jax.random.key(config.train.seed))
    state, actor = jax.jit(agent.init)(agent_key)
    replay_state = jax.jit(memory.init)(replay_key)
    act = jax.jit(agent.act, donate_argnums=1)
    add = jax.jit(memory.add, donate_argnums=0)
    learn = kernels.jit_learning(agent.learn, (0, 1))
    hold_out = learning.held_out(memory)
    learned: dict[str, jax.Array] = {}
    timestep = env.reset()
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
        yield frame.Turn(tick, [[timestep]], [state], [learned], held_out)
        timestep = following
