"""ALE's own vector environment behind the same contract, and beside envpool."""

import contextlib

import chex
import gymnasium
import numpy as np
from envs_helpers import always, play
from helpers import tiny

from jdqn.envs import ale, atari, make_env

FIRE = 1  # Breakout: launches the ball


def config_of(game="Breakout", **fields):
    """A configuration with these emulators; `fields` are of section `env`."""
    return tiny(
        game, **{f"env__{name}": value for name, value in ({"backend": "ale"} | fields).items()}
    )


def frame_numbers(env):
    """Frames since the start, of which the no-ops are the first."""
    return env._emulators._envs.reset(seed=0)[1]["frame_number"]


def test_the_games_are_envpools():
    fields = tiny("Breakout").env
    assert sorted(ale.rom_ids()) == sorted(atari.games(fields))
    assert ale.rom_ids()["MsPacman"] == "ms_pacman"


def test_gymnasiums_registry_stays_as_it_was():
    """ale_py registers `Breakout-v4` and others, which are not these games."""
    assert ale.rom_ids()
    assert not [name for name in gymnasium.registry if name.startswith(("ALE/", "Breakout"))]


def test_frames_rewards_and_lives_are_envpools_to_the_byte():
    """What differs is how many no-ops a seed gives: these two give the same."""
    fields = {"frame_skip": 3, "full_action_space": True}
    one = make_env(config_of("MsPacman", **fields), num_envs=1, seed=0)
    two = make_env(config_of("MsPacman", **fields, backend="envpool"), num_envs=1, seed=14)
    assert one.spec == two.spec
    actions = np.random.default_rng(0).integers(0, 18, (600, 1))
    ours = play(one, actions)
    chex.assert_trees_all_equal(ours, play(two, actions))
    assert ours.terminated.any()  # a life lost
    assert ours.reward.any()


def test_the_last_seeds_are_seeds_too():
    last = make_env(config_of(), num_envs=2, seed=2**31 - 1)
    first = make_env(config_of(), num_envs=1, seed=0)
    actions = always(1, 8, 1)
    chex.assert_trees_all_equal(
        play(last, always(1, 8, 2)).frame[:, 1:], play(first, actions).frame
    )


def test_every_option_reaches_ale(monkeypatch):
    assert ale.rom_ids()  # before ale_py, which registers games of its own
    from ale_py import vector_env

    calls = []

    class Recorded(vector_env.AtariVectorEnv):
        def __init__(self, *arguments, **options):
            calls.append((arguments, options))
            super().__init__(*arguments, **options)

    monkeypatch.setattr(vector_env, "AtariVectorEnv", Recorded)
    fields = dict(
        frame_skip=3,
        sticky_probability=0.5,
        full_action_space=True,
        noop_max=7,
        fire_on_reset=True,
        max_episode_steps=99,
        num_threads=1,
    )
    make_env(config_of("Pong", **fields), num_envs=2).close()
    (arguments, options) = calls[0]
    assert arguments == ("pong", 2)
    want = dict(
        frameskip=3,
        repeat_action_probability=0.5,
        full_action_space=True,
        noop_max=7,
        use_fire_reset=True,
        max_num_frames_per_episode=297,
        num_threads=1,
        episodic_life=False,
        reward_clipping=False,
        stack_num=1,
    )
    assert {name: options[name] for name in want} == want
    make_env(config_of("Pong", max_episode_steps=2_000_000_000)).close()
    assert calls[1][1]["max_num_frames_per_episode"] == 2**31 - 1


def test_games_start_after_up_to_noop_max_no_ops_less_one():
    """envpool: 1 to `noop_max`."""
    with contextlib.closing(make_env(config_of("Freeway", noop_max=3), num_envs=16)) as env:
        assert set(frame_numbers(env)) == {0, 1, 2}
    with contextlib.closing(make_env(config_of("Freeway", noop_max=1), num_envs=2)) as env:
        assert set(frame_numbers(env)) == {0}


def test_a_lost_life_terminates_and_the_game_goes_on():
    steps = play(make_env(config_of(), num_envs=2), always(FIRE, 250, 2))
    assert (steps.last.sum(axis=0) >= 1).all()
    assert (steps.terminated & ~steps.last).sum() >= 8  # four lives before each game's last
    assert steps.terminated[steps.last].all()
    np.testing.assert_array_equal(steps.first[1:], steps.last[:-1])
    assert not steps.terminated[steps.first].any()
    assert (steps.reward[steps.first] == 0).all()


def test_the_step_limit_truncates():
    steps = play(make_env(config_of(max_episode_steps=10), num_envs=2), always(0, 33, 2))
    np.testing.assert_array_equal(np.flatnonzero(steps.last[:, 0]), [10, 21, 32])
    np.testing.assert_array_equal(np.flatnonzero(steps.first[:, 0]), [0, 11, 22, 33])
    assert not steps.terminated.any()


def test_a_game_over_on_the_step_limit_is_a_termination():
    def first_end(limit):
        config = config_of(max_episode_steps=limit, life_loss_terminates=False)
        steps = play(make_env(config, num_envs=1), always(FIRE, 250, 1))
        end = int(np.flatnonzero(steps.last)[0])
        return end, bool(steps.terminated[end, 0])

    length, terminated = first_end(1000)
    assert terminated
    assert first_end(length) == (length, True)
    assert first_end(length - 1) == (length - 1, False)


def test_what_does_not_fit_is_not_brought_back():
    there = make_env(config_of())
    timestep = there.reset()
    for _ in range(10):
        there.send(np.ones(4, int))
        timestep = there.recv()
    saved = there.save()
    for change in ({"resets": np.array([1, 1, 3, 1])}, {"resets": np.array([1, 1])}):
        assert make_env(config_of()).restore(saved | change, timestep) is False
    assert make_env(config_of()).restore(saved, timestep) is True


def test_sticky_actions_cannot_be_brought_back():
    assert make_env(config_of("Pong", sticky_probability=0.25), num_envs=1).save() is None
