"""The check around environments that somebody else wrote, behind the vector protocol."""

import types

import jax
import numpy as np
import pytest
from helpers import tiny
from scripted import ScriptedEnv

from jdqn import envs
from jdqn.envs.guard import EnvError, guard, said
from jdqn.records import Timestep

EPISODES = [[(1.0, False, False, False)] * 3 + [(0.0, True, False, False)]]


def guarded(num_envs=3, cls=ScriptedEnv, **changes):
    """A scripted environment that misbehaves in `recv`: fields of its timestep, replaced."""

    class Changed(cls):
        def recv(self):
            timestep = super().recv()
            return timestep._replace(**{name: f(timestep) for name, f in changes.items()})

    return guard(Changed(EPISODES, 3), "mine", num_envs)


def sentence(env):
    """What is said of the first step."""
    env.reset()
    env.send(np.zeros(3, np.int32))
    with pytest.raises(EnvError) as info:
        env.recv()
    return str(info.value)


def with_nan(timestep):
    frame = timestep.frame.copy()
    frame[2, 1] = np.nan
    return frame


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"frame": lambda t: t.frame[:, :2]}, ": frame is of shape (3, 2), float32, expected"),
        ({"frame": lambda t: t.frame[:2]}, ": frame is of shape (2, 3), float32, expected"),
        ({"frame": lambda t: t.frame.astype(np.uint8)}, ": frame is of shape (3, 3), uint8"),
        ({"frame": lambda t: t.frame.tolist()}, ": frame is a list, expected shape (3, 3)"),
        ({"reward": lambda t: t.reward[:, None]}, ": reward is of shape (3, 1), float32"),
        ({"reward": lambda t: t.reward.astype(str)}, ": reward is of shape (3,), <U32"),
        ({"last": lambda t: t.last.astype(int)}, ": last is of shape (3,), int64"),
        ({"terminated": lambda t: t.last[:2]}, ": terminated is of shape (2,), bool"),
        ({"reward": lambda t: t.reward / [1, 0, 1]}, ", copy 1 of 0 to 2: its reward is inf"),
        ({"frame": with_nan}, ", copy 2 of 0 to 2: its observation has nan"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_wrong_timestep_is_named(changes, expected):
    assert sentence(guarded(**changes)).startswith(f'environment "mine"{expected}')


def test_what_is_right_passes_untouched():
    env = guarded()
    env.reset()
    for _ in range(25):
        env.send(np.zeros(3, np.int32))
        assert isinstance(env.recv(), Timestep)
    assert env.spec.num_actions == 2


def test_another_number_of_environments_than_was_asked_for():
    env = guarded(num_envs=4)
    with pytest.raises(EnvError, match=r"shape \(3, 3\), float32, expected shape \(4, 3\)"):
        env.reset()


@pytest.mark.parametrize("method", ["reset", "send", "recv"])
def test_an_exception_is_kept_as_the_cause(method):
    error = ZeroDivisionError("by zero")

    def fail(*_):
        raise error

    fail.__name__ = method
    env = ScriptedEnv(EPISODES, 3)
    setattr(env, method, fail)
    arguments = [np.zeros(3)] if method == "send" else []
    with pytest.raises(
        EnvError, match=f'"mine": {method} raised ZeroDivisionError: by zero'
    ) as info:
        getattr(guard(env, "mine"), method)(*arguments)
    assert info.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_ends_it(error):
    class Interrupted(ScriptedEnv):
        def reset(self):
            raise error

    with pytest.raises(error):
        guarded(cls=Interrupted).reset()


def test_no_timestep():
    class Nothing(ScriptedEnv):
        def reset(self):
            return None

    with pytest.raises(EnvError, match="returned None, not a Timestep"):
        guarded(cls=Nothing).reset()


def test_closing_never_raises():
    class Broken(ScriptedEnv):
        def close(self):
            self.closed = True
            raise OSError("already gone")

    env = Broken(EPISODES, 3)
    guard(env, "mine").close()
    assert env.closed


def test_saving_and_restoring():
    """Passed through; an environment without them cannot be brought back."""

    class Saved(ScriptedEnv):
        def save(self):
            return {"at": np.array(7)}

        def restore(self, saved, timestep):
            return saved["at"] == 7 and timestep == "shown"

    env = guarded(cls=Saved)
    assert env.restore(env.save(), "shown") is True
    assert env.restore({"at": 6}, "shown") is False
    plain = guard(types.SimpleNamespace(spec=env.spec), "mine")
    assert plain.save() is None
    assert plain.restore({}, None) is False


def test_environments_of_gymnasium_cannot_be_brought_back():
    env = guard(envs.make_env(tiny("CartPole-v1")), "CartPole-v1")
    assert env.save() is None
    assert env.restore({}, env.reset()) is False


def test_arrays_on_a_device_stay_there():
    """Their numbers are not looked at."""
    env = guarded(frame=lambda t: jax.numpy.asarray(t.frame) * np.nan)
    env.reset()
    env.send(None)
    assert isinstance(env.recv().frame, jax.Array)


def test_an_exception_names_the_line_of_the_users_own_code():
    def fails():
        raise ValueError("my simulator broke")

    with pytest.raises(ValueError) as info:
        list(map(lambda _: fails(), [0]))
    line = fails.__code__.co_firstlineno + 1
    assert said(info.value) == f"ValueError: my simulator broke (test_guard.py:{line})"
    made = {}
    exec(
        compile("def calls(): raise ValueError('in code without a file')", "<string>", "exec"), made
    )
    with pytest.raises(ValueError) as info:
        made["calls"]()
    assert said(info.value).startswith("ValueError: in code without a file (test_guard.py:")
    with pytest.raises(ValueError) as info:
        np.zeros(3).reshape(2)
    own = said(info.value.with_traceback(info.value.__traceback__.tb_next))
    assert own == "ValueError: cannot reshape array of size 3 into shape (2,)"
