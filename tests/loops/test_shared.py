"""What both loops share: a run is driven turn by turn, signals end it, its replay must fit."""

import re
import signal

import pytest
from helpers import tiny

from jdqn import envs
from jdqn.config import ConfigError, RunError
from jdqn.loops import shared
from jdqn.runs import stopping
from jdqn.train import train

# --- Turns --------------------------------------------------------------------------------------


class Recorded:
    """A run that writes down what it is told; with the states `goal` its goal is reached."""

    def __init__(self, goal=None):
        self.goal = goal
        self.held_out = ()
        self.told = []

    def count(self, tick, timesteps):
        self.told.append((tick, timesteps))

    def hold_out(self, observations):
        self.held_out = self.held_out or observations

    def report(self, states, learned, position):
        self.told.append((states, learned, position, self.held_out))
        return states == self.goal

    def finish(self, states, learned, position):
        self.told.append(("finish", states, learned, position))
        return "finished"

    def fail(self, what, states, position):
        raise RunError(f"{what}, saved {position}")

    def what_is_kept(self):
        return "kept"


def turn(number):
    """Of two ticks; learning starts in the second turn."""
    ticks = [2 * number, 2 * number + 1]
    held_out = ["held out"] if number == 1 else ()
    position = f"after {ticks[1]}"
    return shared.Turn(ticks[0], [[f"at {t}"] for t in ticks], position, [number], [{}], held_out)


def test_every_tick_is_counted_before_its_turn_is_reported_and_the_run_finishes_once():
    run = Recorded()
    assert shared.drive(run, map(turn, range(3)), stopping.Stop()) == "finished"
    assert run.told == [
        (0, ["at 0"]),
        (1, ["at 1"]),
        ([0], [{}], "after 1", ()),
        (2, ["at 2"]),
        (3, ["at 3"]),
        ([1], [{}], "after 3", ["held out"]),
        (4, ["at 4"]),
        (5, ["at 5"]),
        ([2], [{}], "after 5", ["held out"]),
        ("finish", [2], [{}], "after 5"),
    ]


def test_no_turn_is_taken_after_the_goal():
    turns = map(turn, range(4))
    run = Recorded(goal=[1])
    shared.drive(run, turns, stopping.Stop())
    assert run.told[-1] == ("finish", [1], [{}], "after 3")
    assert next(turns) == turn(2)


def test_a_signal_ends_the_run_after_the_turn_it_came_in():
    stop = stopping.Stop()

    def turns():
        yield turn(0)
        stop.reasons.append(signal.SIGTERM)
        yield turn(1)
        raise AssertionError("another turn was taken")

    run = Recorded()
    shared.drive(run, turns(), stop)
    assert run.told[-1] == ("finish", [1], [{}], "after 3")


def test_a_turn_with_a_failure_is_the_last_and_saved():
    run = Recorded()
    failed = turn(0)._replace(failure="it broke")
    with pytest.raises(RunError, match="it broke, saved after 1"):
        shared.drive(run, iter([failed]), stopping.Stop())
    assert run.told == [(0, ["at 0"]), (1, ["at 1"])]


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (envs.EnvError("no reward"), "no reward; kept", 1),
        (stopping.Interrupted(), "stopped by SIGTERM while compiling; kept", 128 + 15),
    ],
)
def test_what_ends_a_loop_from_within_saves_nothing(error, said, status):
    def turns():
        raise error
        yield

    stop = stopping.Stop()
    stop.reasons.append(signal.SIGTERM)
    with pytest.raises(RunError) as info:
        shared.drive(Recorded(), turns(), stop)
    assert (str(info.value), info.value.status) == (said, status)


# --- Memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["CartPole-v1", "jdqn/Chain"], ids=["host", "fused"])
def test_a_replay_that_cannot_fit_says_what_it_needs_and_what_there_is(tmp_path, env):
    config = tiny(env, replay__capacity=10**12)
    with pytest.raises(ConfigError) as info:
        train(config, run_dir=tmp_path / "run")
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]+", str(info.value))]
    capacity, needed, of_replay, available = numbers[:4]
    assert capacity == 10**12
    assert needed > of_replay > 10**12 * (16 if env == "CartPole-v1" else 1)  # the frames alone
    assert 0 < available < needed
    assert not (tmp_path / "run").exists()
