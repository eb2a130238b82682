"""The adapter of envpool: options, lives, ends, seeds, stacks."""

import contextlib
import sys
import types

import envpool
import jax
import numpy as np
import pytest
from envs_helpers import always, play
from helpers import QUICK, tiny

from jdqn import learning
from jdqn.config import ConfigError, load_config
from jdqn.envs import atari, make_env
from jdqn.replay import make_replay
from jdqn.replay.priorities import uniforms

FIRE = 1  # Breakout: launches the ball
BREAKOUT = {"env": "Breakout", "env__frame_stack": 4}


def with_twin(monkeypatch, config, **options):
    """Our environments, and the bare envpool with the same options but for `options`."""
    calls = []
    make = envpool.make
    monkeypatch.setattr(envpool, "make", lambda *a, **k: calls.append((a, k)) or make(*a, **k))
    env = make_env(config)
    ((arguments, ours),) = calls
    return env, make(*arguments, **{**ours, **options})


def test_atari_frames():
    env = make_env(tiny("Pong", env__frame_stack=3), num_envs=2)
    assert env.spec == ((84, 84), np.uint8, 3, 6, 1 / 255)
    steps = play(env, always(2, 5, 2))
    assert steps.frame.shape == (6, 2, 84, 84)
    dtypes = [field.dtype for field in steps]
    assert dtypes == [np.uint8, np.float32, bool, bool, bool]
    np.testing.assert_array_equal(steps.first, [[True, True]] + [[False, False]] * 5)
    assert len(np.unique(steps.frame)) > 3  # a picture, not a mask


def test_every_option_reaches_envpool():
    given = dict(
        frame_skip=3,
        sticky_probability=0.5,
        full_action_space=True,
        noop_max=7,
        fire_on_reset=True,
        max_episode_steps=99,
        num_threads=1,
    )
    renamed = {"sticky_probability": "repeat_action_probability", "fire_on_reset": "use_fire_reset"}

    def found(**fields):
        with contextlib.closing(make_env(tiny("Pong", env__num_envs=2, **fields))) as env:
            return env._emulators._envs.spec.config

    changed = found(**{f"env__{name}": value for name, value in given.items()})
    for name, value in given.items():
        assert getattr(changed, renamed.get(name, name)) == value, name
    usual = found()
    usual_values = dict(
        repeat_action_probability=0, use_fire_reset=False, noop_max=30, frame_skip=4
    )
    for name, value in usual_values.items():
        assert getattr(usual, name) == value, name


def test_sticky_actions_change_a_game():
    actions = np.tile([[2], [2], [3], [3], [2]], (12, 1))

    def frames(probability):
        config = tiny("Pong", env__sticky_probability=probability)
        return play(make_env(config, num_envs=1, seed=3), actions).frame

    never = frames(0.0)
    np.testing.assert_array_equal(never, frames(0.0))
    assert not np.array_equal(never, frames(0.25))


def test_games_start_after_different_numbers_of_no_ops():
    with contextlib.closing(make_env(tiny("Freeway"), num_envs=8)) as env:
        assert len(np.unique(env.reset().frame, axis=0)) > 4
    with contextlib.closing(make_env(tiny("Freeway", env__noop_max=1), num_envs=4)) as env:
        assert len(np.unique(env.reset().frame, axis=0)) == 1


def test_full_action_space():
    env = make_env(tiny("Pong", env__full_action_space=True), num_envs=1)
    env.close()
    assert env.spec.num_actions == 18


def test_a_lost_life_terminates_and_the_game_goes_on(monkeypatch):
    config = tiny(**BREAKOUT, env__num_envs=2)
    env, bare = with_twin(monkeypatch, config)
    lives = [bare.reset()[1]["lives"]]
    over = [np.zeros(2, bool)]
    for _ in range(250):
        _, _, terminated, _, info = bare.step(np.full(2, FIRE))
        lives.append(info["lives"])
        over.append(terminated)
    lives = np.array(lives)
    over = np.array(over)
    lost = np.zeros_like(over)
    lost[1:] = lives[1:] < lives[:-1]
    steps = play(env, always(FIRE, 250, 2))
    assert (over.sum(axis=0) >= 1).all()
    assert (lost & ~over).sum() >= 8  # four lives before each game's last
    np.testing.assert_array_equal(steps.terminated, lost)
    np.testing.assert_array_equal(steps.last, over)
    # Only the row after a game over is a first one, and its full set of lives no loss.
    np.testing.assert_array_equal(steps.first[1:], over[:-1])
    assert steps.first[0].all()
    assert not steps.terminated[steps.first].any()


def test_lost_lives_may_be_ignored():
    config = tiny(**BREAKOUT, env__num_envs=2, env__life_loss_terminates=False)
    steps = play(make_env(config), always(FIRE, 150, 2))
    assert steps.last.any()
    np.testing.assert_array_equal(steps.terminated, steps.last)


def test_the_step_limit_truncates():
    config = tiny(**BREAKOUT, env__num_envs=2, env__max_episode_steps=10)
    steps = play(make_env(config), always(0, 33, 2))  # the ball is never launched
    ends = np.flatnonzero(steps.last[:, 0])
    np.testing.assert_array_equal(ends, [10, 21, 32])  # the reset takes a step of its own
    np.testing.assert_array_equal(np.flatnonzero(steps.first[:, 0]), [0, 11, 22, 33])
    assert not steps.terminated.any()


@pytest.mark.parametrize(
    ("backend", "module", "package", "other"),
    [
        ("envpool", "envpool.atari.registration", "envpool", "ale"),
        ("ale", "ale_py", "ale-py", "envpool"),
    ],
)
def test_a_missing_package_is_answered_with_what_to_install(
    monkeypatch, backend, module, package, other
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as info:
        make_env(load_config(env="Breakout", overrides={"env.backend": backend}))
    assert str(info.value) == (
        f'env.name = "Breakout": not a Gymnasium id, and Atari games need {package}, which is not '
        f"installed: pip install {package}, or take other emulators with --env.backend {other}"
    )
    assert make_env(tiny("CartPole-v1")).spec.num_actions == 2  # the rest still works


def test_what_envpool_itself_cannot_import_is_named(monkeypatch):
    broken = types.ModuleType("envpool.atari.registration")
    monkeypatch.setitem(sys.modules, "envpool.atari.registration", broken)
    with pytest.raises(ConfigError, match=r"need envpool; importing it raised ImportError: cannot"):
        make_env(load_config(env="Breakout"))


def test_a_game_over_on_the_step_limit_is_a_termination():
    def first_end(max_episode_steps):
        config = tiny(
            **BREAKOUT,
            env__max_episode_steps=max_episode_steps,
            env__life_loss_terminates=False,  # the last life is lost as well
        )
        with contextlib.closing(make_env(config, num_envs=1)) as env:
            timestep = env.reset()
            end = 0
            while end < 300 and not timestep.last[0]:
                env.send(np.array([FIRE]))
                timestep = env.recv()
                end += 1
        return end, bool(timestep.terminated[0])

    length, terminated = first_end(1000)
    assert terminated
    assert first_end(length) == (length, True)
    assert first_end(length - 1) == (length - 1, False)


def scripted_pool(answers):
    """One environment of envpool that answers `(lives, reward, over, truncated)` one by one."""
    answers = iter(answers)

    def recv():
        lives, reward, over, truncated = next(answers)
        info = {"lives": [lives], "reward": [reward], "terminated": [int(over)]}
        flags = np.array([over and not truncated]), np.array([truncated])
        frame = np.zeros((1, 1, 2, 2), np.uint8)
        return frame, np.sign([reward]), *flags, {k: np.array(v) for k, v in info.items()}

    def reset():
        frame, *_, info = recv()
        return frame, info

    space = types.SimpleNamespace
    return space(
        observation_space=space(shape=(1, 2, 2)),
        action_space=space(n=4),
        spec=space(config=space(num_envs=1)),
        reset=reset,
        send=lambda action: None,
        recv=recv,
        close=lambda: None,
    )


def test_lives_that_no_game_at_hand_shows():
    answers = [
        (3, 0, False, False),
        (4, 5, False, False),  # an extra life
        (4, 0, False, True),  # the limit
        (3, 0, False, False),  # the reset: fewer lives, yet none was lost
        (2, -7, False, False),  # a life lost
        (1, 2, False, True),  # a life lost on the limit
        (3, 0, False, False),
        (0, 1, True, True),  # the game lost on the limit: envpool says truncated alone
    ]
    env = atari.AtariEnv(atari.Envpool(scripted_pool(answers)), tiny("Breakout").env)
    steps = play(env, always(0, 7, 1))
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated), [4, 5, 7])
    np.testing.assert_array_equal(np.flatnonzero(steps.last), [2, 5, 7])
    np.testing.assert_array_equal(np.flatnonzero(steps.first), [0, 3, 6])
    np.testing.assert_array_equal(steps.reward[:, 0], [0, 5, 0, 0, -7, 2, 0, 1])


def test_stacks_are_envpools_to_the_byte(monkeypatch):
    """The actor's and the replay's: across episode starts, ends and the ring's wrap-around."""
    num_ticks = 50
    num_rows = 20
    config = tiny(
        **BREAKOUT, env__max_episode_steps=6, network__torso="mlp", replay__capacity=4 * num_rows
    )
    env, bare = with_twin(monkeypatch, config, stack_num=4)
    memory = make_replay(config, env.spec)
    agent = learning.make_agent(config, env.spec, memory)
    act = jax.jit(agent.act)
    add = jax.jit(memory.add)
    init = jax.jit(lambda a, b: (*agent.init(a), memory.init(b)), compiler_options=QUICK)
    state, actor, replay_state = init(*jax.random.split(jax.random.key(0)))
    timestep = env.reset()
    stacks = [bare.reset()[0]]
    flags = []
    for tick in range(num_ticks):
        action, actor = act(state, actor, timestep, tick)
        np.testing.assert_array_equal(actor.stack, stacks[tick])
        replay_state = add(replay_state, timestep, action, tick)
        flags.append((timestep.first, timestep.last))
        env.send(np.asarray(action))
        timestep = env.recv()
        stacks.append(bare.step(np.asarray(action))[0])
    env.close()
    bare.close()
    stacks = np.stack(stacks)
    first, last = np.stack(flags, axis=1)
    batch_size = config.replay.batch_size
    sample = jax.jit(lambda state, key: memory.sample(state, uniforms(key, batch_size), num_ticks))
    drawn_first = 0
    for key in jax.random.split(jax.random.key(2), 50):
        batch = sample(replay_state, key)
        row = np.asarray(batch.row)
        e = np.asarray(batch.env)
        # Last written at the newest tick that is `row` modulo the number of rows.
        tick = row + (num_ticks - 1 - row) // num_rows * num_rows
        np.testing.assert_array_equal(batch.obs, stacks[tick, e])
        np.testing.assert_array_equal(batch.next_obs, stacks[tick + 1, e])
        assert not last[tick, e].any()
        drawn_first += first[tick, e].sum()
    assert drawn_first > 20


# --- Going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"resets": np.array([1, 1, 3, 1])},  # other no-ops: another frame
        {"resets": np.array([0, 1, 1, 1])},
        {"resets": np.array([1, 1])},
        {"lengths": np.array([9, 9, 9, 11])},
        {"lengths": np.array([9, 9, 9, -1])},
        {"actions": np.full((10, 4), 4, np.uint8)},  # Breakout has four
        {"actions": np.full((10, 2), 0, np.uint8)},
        {"actions": None},
        {"ended": np.zeros(4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_fit_is_not_brought_back(change):
    config = load_config(env="Breakout", overrides={"env.num_envs": 4})
    there = make_env(config)
    timestep = there.reset()
    for _ in range(10):
        there.send(np.ones(4, int))
        timestep = there.recv()
    saved = there.save() | change
    assert make_env(config).restore(saved, timestep) is False


def test_sticky_actions_cannot_be_brought_back():
    config = load_config(env="Pong", overrides={"env.num_envs": 1, "env.sticky_probability": 0.25})
    assert make_env(config).save() is None


def test_the_history_of_a_game_grows_beyond_its_room():
    history = atari.History(2)
    for tick in range(3000):
        history.act(np.array([tick % 3, tick % 2]))
        history.reset(np.array([False, tick == 2900]))
    saved = history.save()
    assert saved["resets"].tolist() == [0, 1]
    assert saved["lengths"].tolist() == [3000, 99]
    np.testing.assert_array_equal(saved["actions"][:, 0], np.arange(3000) % 3)
    np.testing.assert_array_equal(saved["actions"][:99, 1], np.arange(2901, 3000) % 2)
    assert not saved["actions"][99:, 1].any()
    assert saved["actions"].dtype == np.uint8
