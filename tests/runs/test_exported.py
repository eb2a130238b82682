"""`model.safetensors`: what was written is read, and nothing else."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import tiny, vector_spec
from trained_helpers import drawn

from jdqn.config import ConfigError
from jdqn.runs import exported, parts

CONFIG = tiny(agent="bootstrapped_prior", network__heads=2)
ROWS = [{"steps": "80", "return_mean": "1.5"}]


@pytest.fixture(scope="module")
def state():
    return drawn(CONFIG, vector_spec(), 0)[1]


@pytest.fixture
def write(tmp_path, state):
    """Writes a file of some dtype; returns its folder."""

    def written(dtype="float32"):
        about = exported.about(CONFIG, run_id="abc", steps=80, seed=3, evaluations=ROWS)
        (tmp_path / exported.FILE).write_bytes(exported.to_bytes(state, about, dtype))
        return tmp_path

    return written


def like(state):
    """The abstract state."""
    return jax.eval_shape(lambda x: x, state)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_acts_is_read_again(write, state, dtype):
    path = write(dtype)
    again, about = exported.read(path, like(state))
    assert about == exported.read_about(path)
    assert (about.run_id, about.steps, about.seed, about.evaluations) == ("abc", 80, 3, ROWS)
    assert about.config["agent"]["name"] == "bootstrapped_prior"
    names = safetensors.numpy.load_file(path / exported.FILE)
    assert {name.partition("/")[0] for name in names} == {"params", "prior_params"}
    assert {array.dtype for array in names.values()} == {np.dtype(dtype)}
    for mine, theirs in [
        (again.params, state.params),
        (again.target_params, state.params),
        (again.prior_params, state.prior_params),
    ]:
        pairs = zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True)
        for a, b in pairs:
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a, np.asarray(b).astype(dtype))
    assert exported.is_exported(path)
    assert not exported.is_exported(path.parent)


def test_what_half_precision_cannot_hold_is_refused(state):
    about = exported.about(CONFIG, run_id="abc", steps=80, seed=3, evaluations=ROWS)
    large = state.replace(params=jax.tree.map(lambda x: np.full_like(x, -1e6), state.params))
    assert exported.to_bytes(large, about, "float32")
    with pytest.raises(ConfigError, match=r"^--dtype float16: params/.* has -1e\+06, which it can"):
        exported.to_bytes(large, about, "float16")


def rewritten(path, change):
    """Writes the file again with other arrays and metadata."""
    file = path / exported.FILE
    with safetensors.safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    arrays = safetensors.numpy.load_file(file)
    change(arrays, metadata)
    file.write_bytes(safetensors.numpy.save(arrays, metadata))


HIDDEN = "params/q_hidden_0/kernel"

CHANGES = {
    "another number": (lambda arrays, _: arrays[HIDDEN].__imul__(2), "has changed since"),
    "no array": (
        lambda arrays, _: arrays.pop(HIDDEN),
        f"does not fit its config.toml: {HIDDEN} is not there, expected float32 .2, 8, 8.",
    ),
    "one more": (
        lambda arrays, _: arrays.update(more=np.zeros(2, np.int32)),
        r"more is int32 \[2\], expected nothing",
    ),
    "another shape": (
        lambda arrays, _: arrays.update({HIDDEN: np.zeros((3, 8, 8), np.float32)}),
        r"kernel is float32 \[3, 8, 8\], expected float32 \[2, 8, 8\]",
    ),
    "doubles": (
        lambda arrays, _: arrays.update({HIDDEN: arrays[HIDDEN].astype(np.float64)}),
        r"kernel is F64 \[2, 8, 8\]",
    ),
    "foreign": (lambda _, metadata: metadata.update(format="pt"), "not written by python -m"),
    "later": (lambda _, metadata: metadata.update(format_version="2"), "format '2', this version"),
    "no steps": (lambda _, metadata: metadata.update(steps="many"), "which run it is of"),
    "no table": (lambda _, metadata: metadata.update(config="[1]"), "which run it is of"),
    "no rows": (lambda _, metadata: metadata.update(evaluations="[1]"), "which run it is of"),
    "no section": (lambda _, metadata: metadata.update(config='{"env": {}}'), "which run it is of"),
    "no field": (lambda _, metadata: metadata.update(config='{"train": {}}'), "which run it is of"),
    "no text": (
        lambda _, metadata: metadata.update(evaluations='[{"steps": null}]'),
        "which run it is of",
    ),
    "too many": (lambda _, metadata: metadata.update(steps="9" * 30), "which run it is of"),
    "no JSON": (lambda _, metadata: metadata.update(config="{"), "which run it is of"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES.keys())
def test_a_file_that_is_another_is_refused(write, state, change, said):
    path = write()
    rewritten(path, change)
    with pytest.raises(ConfigError, match=said) as info:
        exported.read(path, like(state))
    assert str(path) in str(info.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:100],
        lambda data: b"",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: b"PK" + data,
    ],
)
def test_a_file_that_is_damaged_is_one_sentence(write, state, damage):
    path = write()
    file = path / exported.FILE
    file.write_bytes(damage(file.read_bytes()))
    for read in (exported.read_about, lambda path: exported.read(path, like(state))):
        with pytest.raises(ConfigError, match="is no safetensors file, or damaged"):
            read(path)


def test_a_flipped_bit_is_seen(write, state):
    path = write()
    file = path / exported.FILE
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    with pytest.raises(ConfigError, match="has changed since it was written"):
        exported.read(path, like(state))


def test_differences_are_named_in_order():
    one = parts.forms_of({"a": np.zeros(2), "b": np.zeros(3)})
    other = parts.forms_of({"a": np.zeros(2), "b": np.zeros(4), "c": np.zeros(1)})
    assert exported.first_difference(one, one) is None
    assert exported.first_difference(one, other) == "b is float64 [3], expected float64 [4]"
