"""Checkpoints: back to the bit, the newest kept, never half written."""

import jax
import jax.numpy as jnp
import numpy as np

from jdqn.runs import checkpoint


def test_a_checkpoint_comes_back_to_the_bit(tmp_path):
    tree = {
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4), 3),
        "f32": jnp.array([0.1, -0.0, 1e-40, jnp.inf, jnp.nan], jnp.float32),
        "u8": jnp.arange(256, dtype=jnp.uint8).reshape(2, -1),
        "i32": jnp.array(-(2**31), jnp.int32),
        "flag": jnp.array([True, False]),
    }
    checkpoint.save(tmp_path, 12, tree, keep=1)
    steps, restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: tree))
    assert steps == 12
    for name, leaf in tree.items():
        assert restored[name].dtype == leaf.dtype
        is_key = "key" in name
        pair = [jax.random.key_data(x) if is_key else x for x in (leaf, restored[name])]
        assert np.asarray(pair[0]).tobytes() == np.asarray(pair[1]).tobytes()
        assert pair[0].shape == pair[1].shape


def test_the_newest_checkpoints_are_kept(tmp_path):
    for steps in (5, 10, 100):
        checkpoint.save(tmp_path, steps, {"x": jnp.array([steps])}, keep=2)
    checkpoint.save(tmp_path, 100, {"x": jnp.array([0])}, keep=2)  # already there
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"10", "100"}
    steps, restored = checkpoint.restore(tmp_path, {"x": jnp.zeros(1, jnp.int32)})
    assert (steps, restored["x"].tolist()) == (100, [100])


def test_an_interrupted_checkpoint_is_not_read(tmp_path):
    checkpoint.save(tmp_path, 5, {"x": jnp.array([5])}, keep=2)
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp-1").mkdir()
    steps, _ = checkpoint.restore(tmp_path, {"x": jnp.zeros(1, jnp.int32)})
    assert steps == 5
