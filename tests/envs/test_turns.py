"""What is asked of environments out of turn, or with actions that are none, is one sentence."""

import numpy as np
import pytest
from helpers import tiny

from jdqn.config import ConfigError
from jdqn.envs import make_env
from jdqn.envs.turns import Turns

ADAPTERS = [
    ("CartPole-v1", {}),
    ("CartPole-v1", {"env__vectorization": "async"}),
    ("jdqn/Chain", {}),
    ("Breakout", {}),
    ("Breakout", {"env__backend": "ale"}),
]
NO = np.zeros(2, np.int32)
BY_TURNS = "expected reset() once, then send(action) and recv() by turns"


def sentence(method, *arguments):
    with pytest.raises(ConfigError) as info:
        method(*arguments)
    return str(info.value)


@pytest.mark.parametrize(("name", "fields"), ADAPTERS)
def test_every_adapter_keeps_to_its_turns(name, fields):
    env = make_env(tiny(name, **fields), num_envs=2)
    assert sentence(env.send, NO) == f"send() where reset() is due: {BY_TURNS}"
    env.reset()
    assert sentence(env.recv) == f"recv() where send() is due: {BY_TURNS}"
    last = env.spec.num_actions - 1
    expected = f"expected 2 whole numbers from 0 to {last}, an action for each environment"
    assert sentence(env.send, [0, last + 1]) == f"send([0, {last + 1}]): {expected}"
    env.send([0, last])
    assert sentence(env.send, NO) == f"send() where recv() is due: {BY_TURNS}"
    assert env.recv().reward.shape == (2,)
    assert sentence(env.recv) == f"recv() where send() is due: {BY_TURNS}"
    env.close()


@pytest.mark.parametrize(
    "action", [5, [0], [0, 0, 0], [[0, 1]], [0, -1], [0, 3], [0.0, 1.0], ["0", "1"], None, []]
)
def test_what_is_no_action_is_refused(action):
    turns = Turns(2, 3)
    turns.start()
    assert sentence(turns.send, action).startswith(f"send({action}): expected 2 whole numbers from")
    np.testing.assert_array_equal(turns.send([2, 0]), [2, 0])  # and it is still the turn of send


@pytest.mark.parametrize("name", ["jdqn/Chain", "Breakout"])
def test_environments_that_are_brought_back_go_on(name):
    there, back = (make_env(tiny(name), num_envs=2) for _ in range(2))
    there.reset()
    there.send(NO)
    timestep = there.recv()
    assert back.restore(there.save(), timestep)
    assert sentence(back.recv).startswith("recv() where send() is due")
    back.send(NO)
    back.recv()
    there.close()
    back.close()
