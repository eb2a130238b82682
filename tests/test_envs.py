"""The adapters: the vector protocol, seeds, spaces, lives, stacks."""

import contextlib
import sys
import types

import envpool
import gymnasium
import jax
import numpy as np
import pytest
from conftest import tiny
from gymnasium import spaces

from jdqn import agent as agent_lib
from jdqn.config import ConfigError, load_config
from jdqn.envs import atari, make_env
from jdqn.priorities import uniforms
from jdqn.records import Timestep
from jdqn.replay import make_replay

FIRE = 1  # Breakout: launches the ball
BREAKOUT = {"env": "Breakout", "env__frame_stack": 4}


def play(env, actions):
    """Plays `actions` (`[T, E]`) and closes; the T + 1 timesteps stacked into one, `[T + 1, E]`."""
    timesteps = [env.reset()]
    for action in actions:
        env.send(np.asarray(action))
        timesteps.append(env.recv())
    env.close()
    return Timestep(*map(np.stack, zip(*timesteps, strict=True)))


def always(action, steps, num_envs):
    return np.full((steps, num_envs), action)


def refusal(**overrides):
    with pytest.raises(ConfigError) as info:
        make_env(tiny(**overrides))
    sentence = str(info.value)
    assert "\n" not in sentence
    return sentence


# --- Gymnasium ----------------------------------------------------------------------------------


class Picture(gymnasium.Env):
    """Shows what happened to it: the pixels are `[[seed, episode], [step, last action]]`.

    Episodes 1, 2, 3: two steps, truncated; one step, terminated and truncated; three steps,
    terminated; and again. The reward is the action. The buffer is used again and again.
    """

    action_space = spaces.Discrete(3, start=5)
    observation_space = spaces.Box(0, 255, (2, 2), np.uint8)
    endings = ((2, False, True), (1, True, True), (3, True, False))

    def __init__(self):
        self.pixels = np.zeros((2, 2), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.pixels[0] = seed, 0
        self.pixels[0, 1] += 1
        self.pixels[1] = 0
        return self.pixels, {}

    def step(self, action):
        self.pixels[1] = self.pixels[1, 0] + 1, action
        length, terminated, truncated = self.endings[(self.pixels[0, 1] - 1) % 3]
        over = bool(self.pixels[1, 0] == length)
        return self.pixels, float(action), terminated and over, truncated and over, {}


class Bare(gymnasium.Env):
    """Spaces and nothing else."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


@pytest.fixture
def register(monkeypatch):
    """Registers an environment for the length of a test and returns its id."""

    def add(entry_point):
        spec = gymnasium.envs.registration.EnvSpec("JdqnTest-v0", entry_point=entry_point)
        monkeypatch.setitem(gymnasium.registry, "JdqnTest-v0", spec)
        return spec.id

    return add


def test_episodes_of_a_gymnasium_environment(register):
    actions = np.array([[0, 1], [2, 2], [1, 1], [2, 0], [0, 0], [1, 2], [2, 1], [0, 0], [1, 1]])
    steps = play(make_env(tiny(register(Picture), env__num_envs=2)), actions)
    seed, episode, step, action = np.moveaxis(steps.frame.reshape(10, 2, 4), -1, 0)
    np.testing.assert_array_equal(seed, [[0, 1]] * 10)
    # The step after an end starts the next episode, and its action does nothing.
    np.testing.assert_array_equal(episode[:, 0], [1, 1, 1, 2, 2, 3, 3, 3, 3, 4])
    np.testing.assert_array_equal(step[:, 0], [0, 1, 2, 0, 1, 0, 1, 2, 3, 0])
    np.testing.assert_array_equal(steps.first[:, 0], step[:, 0] == 0)
    np.testing.assert_array_equal(np.flatnonzero(steps.last[:, 0]), [2, 4, 8])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated[:, 0]), [4, 8])
    # Action a is sent as 5 + a, the first of the space.
    np.testing.assert_array_equal(action[:, 0], [0, 5, 7, 0, 7, 0, 6, 7, 5, 0])
    np.testing.assert_array_equal(steps.reward, action)
    assert steps.reward.dtype == np.float32


def test_images_stay_uint8_and_are_scaled_later(register):
    spec = make_env(tiny(register(Picture))).spec
    assert (spec.frame_shape, spec.frame_dtype, spec.num_actions) == ((2, 2), np.uint8, 3)
    assert spec.scale == 1 / 255


@pytest.mark.parametrize("name", ["picture", "CartPole-v1", "Breakout"])
def test_every_step_returns_fresh_arrays(register, name):
    env = make_env(tiny(register(Picture) if name == "picture" else name))
    kept = [env.reset()]
    copies = [jax.tree.map(np.copy, kept[0])]
    for _ in range(20):
        env.send(np.ones(4, np.int32))
        kept.append(env.recv())
        copies.append(jax.tree.map(np.copy, kept[-1]))
    env.close()
    jax.tree.map(np.testing.assert_array_equal, kept, copies)
    assert not np.shares_memory(kept[-1].frame, kept[-2].frame)


def test_cartpole_is_gymnasiums_own():
    actions = np.random.default_rng(0).integers(0, 2, (60, 3))
    got = play(make_env(tiny(), num_envs=3, seed=7), actions)
    assert got.frame.dtype == np.float32
    for i in range(3):
        env = gymnasium.make("CartPole-v1")
        frame, _ = env.reset(seed=7 + i)
        over = False
        for t in range(60):
            np.testing.assert_array_equal(got.frame[t, i], frame)
            assert got.first[t, i] == (t == 0 or got.last[t - 1, i])
            assert got.last[t, i] == over
            if over:
                (frame, _), over = env.reset(), False
            else:
                frame, _, over, _, _ = env.step(actions[t, i])
    assert got.last.any(axis=0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8])
def test_vectors_of_any_number_become_f32(register, dtype):
    class Vector(Picture):
        observation_space = spaces.Box(0, 5, (2,), dtype)

        def reset(self, *, seed=None, options=None):
            return np.array([1, 2], dtype), {}

        def step(self, action):
            return np.array([3, 4], dtype), 0.0, False, False, {}

    env = make_env(tiny(register(Vector)), num_envs=1)
    assert env.spec[:2] == ((2,), np.float32)
    assert env.spec.scale == 1
    frame = play(env, [[0]]).frame
    assert frame.dtype == np.float32
    np.testing.assert_array_equal(frame[:, 0], [[1, 2], [3, 4]])


def test_discrete_observations_are_one_hot():
    actions = np.array([[1], [1], [2], [2]])
    steps = play(make_env(tiny("FrozenLake-v1"), num_envs=1, seed=3), actions)
    env = gymnasium.make("FrozenLake-v1")
    squares = [env.reset(seed=3)[0]] + [env.step(int(action))[0] for action in actions[:, 0]]
    assert steps.frame.dtype == np.uint8
    np.testing.assert_array_equal(steps.frame[:, 0], np.eye(16)[squares])


def test_discrete_observations_may_start_anywhere(register):
    class Countdown(Picture):
        observation_space = spaces.Discrete(3, start=-1)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return 1, {}

        def step(self, action):
            return -1, *super().step(action)[1:]

    steps = play(make_env(tiny(register(Countdown)), num_envs=1), [[0]])
    np.testing.assert_array_equal(steps.frame[:, 0], [[0, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)], ids=str
)
def test_only_discrete_actions_are_taken(register, space):
    name = register(lambda: Bare(spaces.Box(0, 1, (2,)), space))
    sentence = refusal(env=name)
    for words in ["env.name", name, str(space), "Discrete actions"]:
        assert words in sentence


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1, ()),
        spaces.Box(0, 1, (2, 2)),
        spaces.Box(0, 255, (2, 3, 4, 5), np.uint8),
        spaces.MultiDiscrete([2, 3]),
        spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
        spaces.Dict({"x": spaces.Discrete(2)}),
        spaces.Text(3),
    ],
    ids=str,
)
def test_odd_observations_are_refused(register, space):
    name = register(lambda: Bare(space, spaces.Discrete(2)))
    sentence = refusal(env=name)
    for words in ["env.name", name, str(space), "Box vector", "uint8 image", "Discrete"]:
        assert words in sentence


def test_continuous_actions_of_a_real_environment():
    assert "Discrete actions" in refusal(env="Pendulum-v1")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BreakoutNoFrameskip-v4", "Breakout"),
        ("BreakoutDeterministic-v4", "Breakout"),
        ("Breakout-v4", "Breakout"),
        ("ALE/Breakout-v5", "Breakout"),
        ("ALE/MontezumaRevenge-v5", "MontezumaRevenge"),
        ("Breakot", "Breakout"),
        ("breakout", "Breakout"),
        ("CartPole", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
    ],
)
def test_a_near_miss_is_answered_with_the_name(name, meant):
    sentence = refusal(env=name)
    assert f'unknown environment "{name}"' in sentence
    assert f'"{meant}"' in sentence


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ALE/Joust-v5", None),
        ("ALE/Combat-v5", None),
        ("BreakotNoFrameskip-v4", "Breakout"),
        ("breakoutDeterministic-v4", "Breakout"),
    ],
)
def test_a_game_that_envpool_does_not_have(name, meant):
    sentence = refusal(env=name)
    assert f'"{name}": envpool has no such Atari game' in sentence
    assert meant is None or sentence.endswith(f'did you mean "{meant}"?')


def test_a_name_near_nothing_is_answered_with_examples():
    sentence = refusal(env="xyzzy")
    assert all(words in sentence for words in ['"xyzzy"', '"Breakout"', '"CartPole-v1"'])


# --- Atari --------------------------------------------------------------------------------------


def with_twin(monkeypatch, config, **options):
    """Our environments, and the bare envpool with the same options but for `options`."""
    calls, make = [], envpool.make
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
        with contextlib.closing(make_env(tiny("Pong", **fields))) as env:
            return env._envs.spec.config

    changed, usual = found(**{f"env__{name}": value for name, value in given.items()}), found()
    for name, value in given.items():
        assert getattr(changed, renamed.get(name, name)) == value, name
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

    np.testing.assert_array_equal(frames(0.0), frames(0.0))
    assert not np.array_equal(frames(0.0), frames(0.25))


def test_games_start_after_different_numbers_of_no_ops():
    with contextlib.closing(make_env(tiny("Freeway"), num_envs=16)) as env:
        assert len(np.unique(env.reset().frame, axis=0)) > 4
    with contextlib.closing(make_env(tiny("Freeway", env__noop_max=1), num_envs=16)) as env:
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
    for _ in range(350):
        _, _, terminated, _, info = bare.step(np.full(2, FIRE))
        lives.append(info["lives"])
        over.append(terminated)
    lives, over = np.array(lives), np.array(over)
    lost = np.zeros_like(over)
    lost[1:] = lives[1:] < lives[:-1]
    steps = play(env, always(FIRE, 350, 2))
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
    steps = play(make_env(config), always(FIRE, 350, 2))
    assert steps.last.any()
    np.testing.assert_array_equal(steps.terminated, steps.last)


def test_the_step_limit_truncates():
    config = tiny(**BREAKOUT, env__num_envs=2, env__max_episode_steps=10)
    steps = play(make_env(config), always(0, 33, 2))  # the ball is never launched
    ends = np.flatnonzero(steps.last[:, 0])
    np.testing.assert_array_equal(ends, [10, 21, 32])  # the reset takes a step of its own
    np.testing.assert_array_equal(np.flatnonzero(steps.first[:, 0]), [0, 11, 22, 33])
    assert not steps.terminated.any()


def test_without_envpool_an_atari_game_is_answered_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool.atari.registration", None)
    with pytest.raises(ConfigError, match=r"Breakout.*pip install envpool.*Intel Macs"):
        make_env(load_config(env="Breakout"))
    assert make_env(tiny("CartPole-v1")).spec.num_actions == 2  # the rest still works


def test_a_game_over_on_the_step_limit_is_a_termination():
    def first_end(max_episode_steps):
        config = tiny(
            **BREAKOUT,
            env__max_episode_steps=max_episode_steps,
            env__life_loss_terminates=False,  # the last life is lost as well
        )
        steps = play(make_env(config, num_envs=1), always(FIRE, 300, 1))
        end = int(np.flatnonzero(steps.last)[0])
        return end, bool(steps.terminated[end, 0])

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
    env = atari.AtariEnv(scripted_pool(answers), life_loss_terminates=True, frame_stack=4)
    steps = play(env, always(0, 7, 1))
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated), [4, 5, 7])
    np.testing.assert_array_equal(np.flatnonzero(steps.last), [2, 5, 7])
    np.testing.assert_array_equal(np.flatnonzero(steps.first), [0, 3, 6])
    np.testing.assert_array_equal(steps.reward[:, 0], [0, 5, 0, 0, -7, 2, 0, 1])


def test_rewards_are_raw():
    steps = play(make_env(tiny("MsPacman"), num_envs=1), always(3, 80, 1))  # leftwards
    assert set(np.unique(steps.reward)) == {0, 10}  # a pill is worth 10


def test_seeds():
    def frames(num_envs, seed):
        config = tiny("Pong", env__sticky_probability=0.25)
        return play(make_env(config, num_envs=num_envs, seed=seed), always(2, 40, num_envs)).frame

    three = frames(3, seed=5)
    np.testing.assert_array_equal(three, frames(3, seed=5))
    for i in range(3):
        np.testing.assert_array_equal(three[:, i], frames(1, seed=5 + i)[:, 0])
    assert (three[:, 0] != three[:, 1]).any()
    assert (three[:, 1] != three[:, 2]).any()


def test_the_seed_is_the_runs_unless_given():
    frames = [
        play(make_env(tiny("Pong", train__seed=11), **arguments), always(2, 10, 4)).frame
        for arguments in ({}, {"seed": 11}, {"seed": 15})
    ]
    np.testing.assert_array_equal(frames[0], frames[1])
    assert (frames[0] != frames[2]).any()


def test_stacks_are_envpools_to_the_byte(monkeypatch):
    """The actor's and the replay's: across episode starts, ends and the ring's wrap-around."""
    num_ticks, num_rows = 50, 20
    config = tiny(
        **BREAKOUT, env__max_episode_steps=6, network__torso="mlp", replay__capacity=4 * num_rows
    )
    env, bare = with_twin(monkeypatch, config, stack_num=4)
    memory = make_replay(config, env.spec)
    agent = agent_lib.make_agent(config, env.spec, memory)
    act, add, sample = jax.jit(agent.act), jax.jit(memory.add), jax.jit(memory.sample)
    state, actor = agent.init(jax.random.key(0))
    replay_state = memory.init(jax.random.key(1))
    timestep, stacks, flags = env.reset(), [bare.reset()[0]], []
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
    stacks, (first, last) = np.stack(stacks), np.stack(flags, axis=1)
    drawn_first = 0
    for key in jax.random.split(jax.random.key(2), 50):
        batch = sample(replay_state, uniforms(key, config.replay.batch_size), num_ticks)
        row, e = np.asarray(batch.row), np.asarray(batch.env)
        # Last written at the newest tick that is `row` modulo the number of rows.
        tick = row + (num_ticks - 1 - row) // num_rows * num_rows
        np.testing.assert_array_equal(batch.obs, stacks[tick, e])
        np.testing.assert_array_equal(batch.next_obs, stacks[tick + 1, e])
        assert not last[tick, e].any()
        drawn_first += first[tick, e].sum()
    assert drawn_first > 20
