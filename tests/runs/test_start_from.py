"""A new run begins with the parameters of another one, and with nothing else of it."""

import tomllib
import types
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from devices_helpers import needs_several
from helpers import tiny
from trained_helpers import drawn, write_run

from jdqn import devices, loops
from jdqn.config import ConfigError, load_config
from jdqn.runs import directory, resume
from jdqn.runs.start_from import prepare, with_parameters
from jdqn.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")

# It ends before it learns.
AGENT = {"agent": "bootstrapped_prior", "network__heads": 2, "train__learning_starts_steps": 64}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run on CartPole."""
    return write_run(tmp_path_factory.mktemp("source"), tiny(train__seed=7, **AGENT))


def equal(one, two):
    """Whether two trees hold the same numbers."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_run_starts_from_the_parameters_and_goes_on_without_them(source, tmp_path, capsys):
    """And says still where it started from."""
    config = tiny(train__steps=32, optimizer__learning_rate=0.01, **AGENT)
    result = train(config, run_dir=tmp_path / "new", start_from=source)
    (theirs,) = prepare(source, config).trained.states
    assert equal(result.state.params, theirs.params)
    assert equal(result.state.prior_params, theirs.prior_params)
    _, fresh = drawn(config, prepare(source, config).trained.interface.spec, 0)
    assert not equal(result.state.params, fresh.params)
    printed = capsys.readouterr().out
    assert f"starts from the parameters of {source} at 80 steps; optimiser, replay" in printed
    assert "other than there: optimizer.learning_rate = 0.01 (there 0.001)\n" in printed
    record = tomllib.loads((tmp_path / "new" / "config.toml").read_text())["started_from"]
    assert record == {"run": directory.run_id_of(source), "path": str(source), "steps": 80}
    recorded = load_config(file=tmp_path / "new" / "config.toml")
    longer = recorded.model_copy(update={"train": recorded.train.model_copy(update={"steps": 40})})
    loops.train(longer, run_dir=tmp_path / "new", resumes=True)
    again = tomllib.loads((tmp_path / "new" / "config.toml").read_text())
    assert (again["started_from"], len(again["resumed"])) == (record, 1)


def test_online_target_and_priors_are_theirs_the_rest_is_new(source):
    config = tiny("MountainCar-v0", **AGENT)
    started = prepare(source, config)
    spec = started.trained.interface.spec
    (theirs,) = started.trained.states
    _, fresh = drawn(config, spec, 0)
    (state,) = started.into([fresh], 1)
    for mine, original in [
        (state.params, theirs.params),
        (state.target_params, theirs.params),
        (state.prior_params, theirs.prior_params),
        (state.opt_state, fresh.opt_state),
    ]:
        assert equal(mine, original)
    assert state.key is fresh.key
    leaves = jax.tree.leaves((state.params, state.target_params))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)  # donated
    (said,) = started.said[1:]
    assert "env.name = 'MountainCar-v0' (there 'CartPole-v1')" in said


def test_what_does_not_fit_is_one_sentence_that_names_the_first_parameter(source, tmp_path):
    wider = tiny(network__torso_hidden=[16], **AGENT)
    message = r"^--start-from .*: params/MlpTorso_0/Dense_0/bias is float32 \[8\], .* \[16\]"
    with pytest.raises(ConfigError, match=message):
        train(wider, run_dir=tmp_path / "wider", start_from=source)
    assert not (tmp_path / "wider").exists()
    none = tiny(network__heads=2)
    with pytest.raises(ConfigError, match=r"prior_params/.* is float32 .*, expected nothing"):
        train(none, run_dir=tmp_path / "none", start_from=source)


def test_seeds_side_by_side_get_each_its_own_or_all_the_same(tmp_path):
    config = tiny("jdqn/Chain", train__num_seeds=2)
    one = write_run(tmp_path / "one", tiny("jdqn/Chain"))
    two = write_run(tmp_path / "two", config)
    started = prepare(two, config)
    spec = started.trained.interface.spec
    states = [drawn(config, spec, seed)[1] for seed in (8, 9)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *[state.params for state in states])
    for path, seeds in {one: (0, 0), two: (0, 1)}.items():
        wanted = [drawn(config, spec, seed)[1].params for seed in seeds]
        started = prepare(path, config)
        for state, params in zip(started.into(states, 2), wanted, strict=True):
            assert equal(state.params, params)
        fields = {name: stacked for name in ("params", "target_params")}
        (several,) = started.into([states[0].replace(**fields)], 2)  # as on an accelerator
        assert equal(several.params, jax.tree.map(lambda *x: np.stack(x), *wanted))
    with pytest.raises(ConfigError, match=r"it has 2 seeds, train.num_seeds = 1; .* --seed N"):
        prepare(two, tiny("jdqn/Chain"))


def test_not_beside_resume(source):
    with pytest.raises(ConfigError, match=r"^start_from = .*: a run that goes on has its own"):
        train(tiny(), run_dir=source, resumes=True, start_from=source)


def test_many_differences_are_cut(source):
    names = ["batch_size", "n_step", "priority_epsilon", "importance_exponent"]
    fields = {f"replay__{name}": value for name, value in zip(names, (9, 2, 0.1, 0.2), strict=True)}
    agent = {"discount": 0.5, "reward_clip": 2.0, "epsilon_eval": 0.2, "epsilon_end": 0.3}
    agent["epsilon_start"] = 0.9
    fields |= {f"agent__{name}": value for name, value in agent.items()}
    *_, said = prepare(source, tiny(**fields, **AGENT)).said
    assert said.endswith(", and 1 more")
    assert said.count("(there ") == 8
    assert "train." not in said


def test_an_exported_folder_is_not_gone_on_with(source, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.toml").write_bytes((source / "config.toml").read_bytes())
    (folder / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"is an exported agent, .*--start-from"):
        resume.prepare(folder, tiny(**AGENT))


class Position(NamedTuple):
    """As `loops.shared.Carry`."""

    state: Any


@needs_several
def test_parameters_go_to_every_device_of_the_new_run():
    mesh = devices.make_mesh(tiny(train__num_devices=4))
    there = devices.placed(mesh, devices.WHOLE)
    begun = Position({"weight": jax.device_put(np.zeros(3, np.float32), there)})
    started = types.SimpleNamespace(into=lambda *_: [{"weight": jax.numpy.ones(3)}])
    ((state,),) = with_parameters(started, [begun], num_seeds=1)
    assert state["weight"].sharding == there
    assert np.array_equal(state["weight"], np.ones(3))
