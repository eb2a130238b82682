"""The fused loop: chunks, several seeds side by side and stacked."""

import functools

import chex
import jax
import numpy as np
import pytest
from helpers import tiny
from runs_helpers import log, metrics, table

from jdqn import clock, envs, evaluate, kernels
from jdqn.config import with_overrides
from jdqn.loops import fused, shared
from jdqn.train import train

pytest.importorskip("gymnax")  # an extra
pytestmark = pytest.mark.usefixtures("quick_compilation")

CARTPOLE = "gymnax/CartPole-v1"


@pytest.fixture(scope="module")
def told():
    """What the functions of `many` were told."""
    return {"log": [], "evaluation": []}


@pytest.fixture(scope="module")
def many(tmp_path_factory, told):
    """A run of the seeds 5, 6 and 7."""
    config = tiny(CARTPOLE, train__seed=5, train__num_seeds=3)
    path = tmp_path_factory.mktemp("many") / "run"
    hooks = {f"on_{name}": rows.append for name, rows in told.items()}
    return train(config, run_dir=path, **hooks)


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """Programs are built in the forms for an accelerator."""
    return lambda: monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_seed_i_of_many_is_a_run_of_its_own(tmp_path, many):
    alone = train(tiny(CARTPOLE, train__seed=6), run_dir=tmp_path / "alone")
    second = jax.tree.map(lambda x: np.asarray(x[1]), many.state.params)
    chex.assert_trees_all_equal(second, jax.tree.map(np.asarray, alone.state.params))
    assert metrics(many.run_dir, seed=6) == metrics(tmp_path / "alone")
    assert len(metrics(tmp_path / "alone")) == 5
    assert many.evaluations[1] == alone.evaluation
    assert {row["seed"] for row in table(many.run_dir / "episodes.csv")} == {"5", "6", "7"}


def test_functions_are_told_of_every_seed(many, told):
    assert told["log"] == log(many.run_dir)
    assert [row["seed"] for row in told["evaluation"]] == [5, 6, 7] * 2


def test_a_saved_run_of_many_seeds_evaluates_each(many, capsys):
    evaluate.main([str(many.run_dir), "--episodes", "2"])
    out = capsys.readouterr().out
    assert out.count("2 full games") == 3
    for seed in (5, 6, 7):
        assert f"seed {seed}," in out


def test_seeds_stacked_as_on_an_accelerator(tmp_path, as_on_an_accelerator):
    as_on_an_accelerator()
    config = tiny(CARTPOLE, train__num_seeds=2, train__eval_episodes=0)
    result = train(config, run_dir=tmp_path / "run")
    first, second = (jax.tree.map(lambda x, i=i: x[i], result.state.params) for i in (0, 1))
    assert not np.allclose(*(jax.tree.leaves(params)[-1] for params in (first, second)))
    rows = log(tmp_path / "run")
    expected = [(steps, seed) for steps in range(80, 401, 80) for seed in (0, 1)]
    assert [(row["steps"], row["seed"]) for row in rows] == expected
    assert rows[-1]["q_heldout"] != rows[-2]["q_heldout"]


def test_vmapped_seeds_agree_with_single_ones_for_one_learn_call(as_on_an_accelerator):
    """What an accelerator does: batched matmuls round differently, so to 1e-5."""
    config = tiny(CARTPOLE)

    def programs(stacked):
        env = envs.make_native_env(config, num_envs=4)
        memory, agent = shared.build(config, env.spec)
        parts = fused.Parts(config, env, memory, agent, fused.chunk_ticks(config))
        init = jax.jit(functools.partial(fused.init, parts))
        both = [functools.partial(f, parts) for f in (fused.warm_up, fused.act_and_learn)]
        if stacked:
            both = [jax.vmap(f, in_axes=(0, None, None)) for f in both]
        return init, *(kernels.jit_learning(f, 0) for f in both)

    init, warm_up, learn = programs(stacked=False)
    carry, _ = warm_up(init(np.int64(4)), 0, 12)
    single = jax.device_get(plain_replay(carry))
    carry, *_ = learn(carry, 12, 1)

    as_on_an_accelerator()
    init, warm_up, learn = programs(stacked=True)
    stacked, _ = warm_up(jax.vmap(init)(np.arange(3, 5)), 0, 12)
    second = jax.tree.map(lambda x: x[1], plain_replay(stacked))
    chex.assert_trees_all_equal(jax.device_get(second), single)
    stacked, *_ = learn(stacked, 12, 1)
    own = jax.tree.map(lambda x: x[1], stacked.state.params)
    chex.assert_trees_all_close(own, carry.state.params, atol=1e-5, rtol=1e-5)


def plain_replay(carry):
    """The replay of a carry without its key, which NumPy cannot compare."""
    return carry.replay_state.replace(key=None)


def test_a_long_log_period_makes_no_long_buffers():
    config = tiny(CARTPOLE, train__log_period_steps=10**9)
    assert fused.chunk_ticks(config) == 200 / 4  # evaluations
    config = with_overrides(config, train__eval_episodes=0)
    assert fused.chunk_ticks(config) == 400 / 4  # all steps
    config = with_overrides(config, train__checkpoint_period_steps=90)
    assert fused.chunk_ticks(config) == 23


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
    stride = clock.ticks_per_call(config)
    expected = 0
    learned = []
    for tick, num_ticks, learns in fused.chunks(config):
        assert tick == expected
        assert 0 < num_ticks <= fused.chunk_ticks(config)
        expected = tick + num_ticks
        if learns:
            assert num_ticks % stride == 0
            learned += range(tick + stride - 1, tick + num_ticks, stride)
    total = -(-steps // num_envs)
    assert expected == total
    assert learned == [t for t in range(total) if clock.learns_at(config, t)]
