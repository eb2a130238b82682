"""Environments inside JAX: the adapter's convention, and one truth for both loops."""

import csv
import json
import re

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from jdqn import envs, evaluate, fused, train
from jdqn.config import ConfigError, default_preset
from jdqn.envs import jax_native

CARTPOLE = "gymnax/CartPole-v1"


def native(name=CARTPOLE, num_envs=4, **overrides):
    return envs.make_native_env(tiny(name, **overrides), num_envs=num_envs)


def play(env, ticks, action_of):
    """Timesteps of an environment, each leaf `[ticks, E, ...]`."""
    step = jax.jit(env.step)
    state, timestep = jax.jit(env.init)(envs.env_key(0))
    seen = [timestep]
    for tick in range(ticks):
        state, timestep = step(state, action_of(tick), tick)
        seen.append(timestep)
    return jax.tree.map(lambda *x: np.stack(x), *seen)


def test_the_step_after_an_end_resets_and_ignores_the_action():
    steps = play(native(), 60, lambda tick: np.ones(4, np.int32))  # always right: short episodes
    assert steps.first[0].all()
    assert steps.last.sum() >= 8
    np.testing.assert_array_equal(steps.first[1:], steps.last[:-1])
    assert not steps.last[steps.first].any()
    assert (steps.reward[steps.first] == 0).all()
    assert (steps.reward[~steps.first] == 1).all()
    # The last observation is the fallen pole, the first of the next episode is near upright.
    assert (np.abs(steps.frame[steps.last][:, 2]) > 0.2).all()
    assert (np.abs(steps.frame[steps.first]) <= 0.05).all()


def test_physics_are_gymnax_own():
    """One environment against gymnax's `step_env` by hand, up to its first end."""
    env = native(num_envs=1)
    inner, params = gymnax.make("CartPole-v1")
    state, timestep = env.init(envs.env_key(0))
    own = jax.tree.map(lambda x: x[0], state.inner)
    for tick in range(30):
        action = np.array([tick % 2], np.int32)
        if timestep.last[0]:
            break
        state, timestep = env.step(state, action, tick)
        observation, own, *_ = inner.step_env(jax.random.key(9), own, int(action[0]), params)
        np.testing.assert_allclose(timestep.frame[0], observation, rtol=1e-6)


def test_a_time_limit_truncates_and_does_not_terminate():
    """DeepSea ends by itself at its limit: terminated wins. Catch ends before its limit."""
    deep = play(native("bsuite/DeepSea", env__size=5), 17, lambda tick: np.zeros(4, np.int32))
    np.testing.assert_array_equal(np.flatnonzero(deep.last[:, 0]), [5, 11, 17])
    assert deep.terminated[deep.last].all()


def test_truncation_alone(monkeypatch):
    inner, params = gymnax.make("CartPole-v1")
    short = params.replace(max_steps_in_episode=5)
    monkeypatch.setattr(gymnax, "make", lambda name: (inner, short))
    steps = play(native(), 13, lambda tick: np.full(4, tick % 2, np.int32))
    np.testing.assert_array_equal(np.flatnonzero(steps.last[:, 0]), [5, 11])
    assert not steps.terminated.any()


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "actions"),
    [
        ("minatar/Breakout", (10, 10, 4), np.uint8, 3),
        ("minatar/Freeway", (10, 10, 7), np.uint8, 3),
        ("bsuite/Catch", (50,), np.uint8, 3),
        ("bsuite/DeepSea", (64,), np.uint8, 2),
        (CARTPOLE, (4,), np.float32, 2),
    ],
)
def test_spaces(name, shape, dtype, actions):
    env = native(name, env__size=8, network__torso="auto")
    assert env.spec.frame_shape == shape
    assert env.spec.num_actions == actions
    _, timestep = jax.eval_shape(env.init, envs.env_key(0))
    assert timestep.frame.shape == (4, *shape)
    assert timestep.frame.dtype == env.spec.frame_dtype == dtype


@pytest.mark.parametrize("game", ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"])
def test_minatar_frames_are_zeros_and_ones(game):
    """Nothing is lost by keeping them as u8."""
    inner, params = gymnax.make(f"{game}-MinAtar")
    observation, _ = inner.reset_env(jax.random.key(0), params)
    assert set(np.unique(observation)) <= {0.0, 1.0}


def test_stochastic_deep_sea_differs_from_deterministic():
    def rewards(stochastic):
        env = native("bsuite/DeepSea", env__size=4, env__stochastic=stochastic)
        return play(env, 40, lambda tick: np.arange(4) % 2).reward

    assert set(np.unique(rewards(False).round(4))) <= {0, np.float32(-0.0025), np.float32(0.9975)}
    assert len(np.unique(rewards(True))) > 4


def test_presets_follow_the_family():
    assert default_preset("minatar/Breakout") == "minatar"
    assert default_preset("bsuite/DeepSea") == "deep_sea"
    assert default_preset(CARTPOLE) == "classic"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minatar/Brekout", 'did you mean "minatar/Breakout"'),
        ("gymnax/Pendulum-v1", "not discrete"),
        ("bsuite/Nothing", "unknown environment"),
    ],
)
def test_refusals(name, words):
    with pytest.raises(ConfigError, match=words):
        native(name)


def test_a_missing_gymnax_is_answered_with_the_install_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gymnax", None)
    with pytest.raises(ConfigError, match=r"pip install \"jdqn\[jax-envs\]\""):
        jax_native.make(tiny(CARTPOLE).env, num_envs=1)


def both_loops(tmp_path, **overrides):
    """Results of the host loop and of the fused loop, their episodes checked to be the same."""
    config = tiny(CARTPOLE, train__eval_episodes=0, **overrides)
    host = train.train_on_host(config, run_dir=tmp_path / "host")
    one_program = train.train(config, run_dir=tmp_path / "fused")
    episodes = [(tmp_path / d / "episodes.csv").read_text() for d in ("host", "fused")]
    assert episodes[0] == episodes[1]
    assert host.episodes == one_program.episodes > 0
    return [jax.tree.map(np.asarray, r.state.params) for r in (host, one_program)]


@pytest.mark.parametrize(
    "switches",
    [{}, {"replay__priority_exponent": 0.6, "network__noisy": "factorised"}],
    ids=["uniform", "prioritised and noisy"],
)
def test_host_and_fused_loop_agree_to_the_bit(tmp_path, switches):
    """Three-step double, 300 ticks, four updates a call."""
    chex.assert_trees_all_equal(
        *both_loops(
            tmp_path,
            train__steps=1200,
            train__update_period_steps=1,
            replay__n_step=3,
            agent__double=True,
            **switches,
        )
    )


def test_host_and_fused_loop_agree_where_a_call_makes_one_update(tmp_path):
    """XLA of jaxlib 0.10.2 inlines a scan of one step and rounds differently in the two loops."""
    parameters = both_loops(tmp_path, train__steps=120, train__update_period_steps=8)
    chex.assert_trees_all_close(*parameters, atol=1e-5, rtol=1e-5)


def without_time(run_dir, seed=None):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if seed is None or row["seed"] == seed]
    clock = ("seed", "seconds", "steps_per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def test_seed_i_of_many_is_a_run_of_its_own(tmp_path):
    config = tiny(CARTPOLE, train__seed=5, train__num_seeds=3)
    many = train.train(config, run_dir=tmp_path / "many")
    alone = train.train(tiny(CARTPOLE, train__seed=6), run_dir=tmp_path / "alone")
    second = jax.tree.map(lambda x: np.asarray(x[1]), many.state.params)
    chex.assert_trees_all_equal(second, jax.tree.map(np.asarray, alone.state.params))
    assert without_time(tmp_path / "many", seed=6) == without_time(tmp_path / "alone")
    assert many.evaluations[1] == alone.evaluation
    with (tmp_path / "many" / "episodes.csv").open() as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"5", "6", "7"}


def test_seeds_stacked_as_on_an_accelerator(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cfg = tiny(CARTPOLE, train__num_seeds=2, train__steps=160, train__eval_episodes=0)
    result = fused.train(cfg, run_dir=tmp_path / "run")
    first, second = (jax.tree.map(lambda x, i=i: x[i], result.state.params) for i in (0, 1))
    assert not np.allclose(*(jax.tree.leaves(params)[-1] for params in (first, second)))
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [(row["steps"], row["seed"]) for row in rows] == [(80, 0), (80, 1), (160, 0), (160, 1)]
    assert rows[-1]["q_heldout"] != rows[-2]["q_heldout"]


def test_a_saved_run_of_many_seeds_evaluates_each(tmp_path, capsys):
    config = tiny(CARTPOLE, train__num_seeds=2, train__steps=200, train__eval_episodes=2)
    train.train(config, run_dir=tmp_path / "run")
    capsys.readouterr()
    evaluate.main([str(tmp_path / "run"), "--episodes", "3"])
    out = capsys.readouterr().out
    assert out.count("3 full games") == 2
    assert "seed 1" in out


def test_several_seeds_of_an_emulator_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="several seeds at once need an environment written in"):
        train.train(tiny("CartPole-v1", train__num_seeds=2), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_replay_that_does_not_fit_times_seeds_is_refused(tmp_path):
    config = tiny(CARTPOLE, replay__capacity=10**9, train__num_seeds=1000)
    with pytest.raises(ConfigError, match="for 1000 seeds"):
        train.train(config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("num_envs", "period", "starts", "steps"),
    [(4, 4, 32, 400), (4, 8, 33, 402), (8, 2, 100, 1000), (2, 8, 100, 99), (4, 4, 5000, 100)],
)
def test_chunks_cover_every_tick_and_learn_when_the_host_loop_does(num_envs, period, starts, steps):
    config = tiny(
        CARTPOLE,
        env__num_envs=num_envs,
        train__update_period_steps=period,
        train__learning_starts_steps=starts,
        train__steps=steps,
        agent__target_period_steps=16,
    )
    stride = fused.agent_lib.ticks_per_call(config)
    expected, learned = 0, []
    for tick, num_ticks, learns in fused.chunks(config):
        assert tick == expected
        assert 0 < num_ticks <= fused.chunk_ticks(config)
        expected = tick + num_ticks
        if learns:
            assert num_ticks % stride == 0
            learned += range(tick + stride - 1, tick + num_ticks, stride)
    total = -(-steps // num_envs)
    assert expected == total
    assert learned == [t for t in range(total) if fused.agent_lib.learns_at(config, t)]


def test_vmapped_seeds_agree_with_single_ones_for_one_learn_call():
    """What an accelerator does: batched matmuls round differently, so to 1e-5."""
    config = tiny(CARTPOLE)
    env = envs.make_native_env(config, num_envs=4)
    memory = fused.replay.make_replay(config, env.spec)
    agent = fused.agent_lib.make_agent(config, env.spec, memory)
    loop = fused.make_loop(config, env, agent, memory, max_ticks=16)
    warm_up, learn = jax.jit(loop.warm_up), jax.jit(loop.train)
    both = [jax.jit(jax.vmap(f, in_axes=(0, None, None))) for f in (loop.warm_up, loop.train)]
    carries = jax.tree.map(lambda *x: jnp.stack(x), *[jax.jit(loop.init)(s) for s in (3, 4)])
    stacked, _ = both[0](carries, 0, 12)
    single, _ = warm_up(jax.tree.map(lambda x: x[1], carries), 0, 12)
    rows = [c.replay_state.replace(key=0) for c in (jax.tree.map(lambda x: x[1], stacked), single)]
    chex.assert_trees_all_equal(*rows)
    stacked, *_ = both[1](stacked, 12, 1)
    single, *_ = learn(single, 12, 1)
    own = jax.tree.map(lambda x: x[1], stacked.state.params)
    chex.assert_trees_all_close(own, single.state.params, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("period", "rule"), [(1, "uniform"), (4, "uniform"), (8, "proportional"), (4, "rank")]
)
def test_no_whole_array_is_copied_in_the_loop(period, rule):
    """On the optimised program; CI repeats it on another release of jax."""
    config = tiny(
        CARTPOLE,
        replay__capacity=40_000,
        replay__priority_exponent=0.0 if rule == "uniform" else 0.6,
        replay__prioritization="rank" if rule == "rank" else "proportional",
        train__update_period_steps=period,
        replay__n_step=3,
    )
    env = envs.make_native_env(config, num_envs=4)
    memory = fused.replay.make_replay(config, env.spec)
    agent = fused.agent_lib.make_agent(config, env.spec, memory)
    loop = fused.make_loop(config, env, agent, memory, max_ticks=16)
    carry = jax.eval_shape(loop.init, 0)
    ring = carry.replay_state
    large = [x.shape for x in (ring.frame, ring.action, ring.reward, ring.last, ring.mask)]
    if rule != "rank":  # a sort may copy, once in a thousand updates
        large.append(ring.priorities.leaves.shape)
    for part in (loop.warm_up, loop.train):
        compiled = fused.agent_lib.jit_learning(part, 0).lower(carry, 0, 16).compile()
        assert copies(compiled.as_text(), large) == []
    both = jax.jit(loop.train).lower(carry, 0, 16).compile()  # not donated: copied once, seen
    assert copies(both.as_text(), large)


def copies(text, shapes):
    """Copies in an optimised program of arrays of some shapes."""
    found = []
    for shape in shapes:
        size = ",".join(map(str, shape))
        found += re.findall(rf"= \(?\w+\[{size}\][^=]* copy(?:-start)?\(", text)
    return found


def test_the_environments_key_is_no_other():
    """fold_in(key, 1) would be the second half of split(key), the replay's."""
    key = jax.random.key(3)
    others = [*jax.random.split(key), *(jax.random.fold_in(key, tick) for tick in range(100))]
    own = jax.random.key_data(envs.env_key(3)).tolist()
    assert own not in [jax.random.key_data(other).tolist() for other in others]
