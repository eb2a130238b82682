"""Which environment in JAX a name stands for, and what is said where it stands for none."""

import sys
import types

import pytest
from helpers import tiny

from jdqn.config import ConfigError
from jdqn.envs import jax_names
from jdqn.envs.chain import Chain

MODULE = """
from jdqn.envs.chain import Chain

def make():
    return Chain(4)

def with_params():
    return Chain(4), "the parameters"

def failing():
    raise OSError("out of\\nink")

def needing(what):
    return what
"""


def refusal(name):
    with pytest.raises(ConfigError) as info:
        jax_names.find(tiny(name).env)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's."""
    (tmp_path / "ones_own.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("ones_own", None)


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("minatar/Breakout", True),
        ("bsuite/Nothing", True),
        ("jdqn/Chain", True),
        ("jax:my_module:make", True),
        ("Breakout", False),
        ("jdqn", False),
        ("ALE/Breakout-v5", False),
        ("my_module:MyEnv-v0", False),
    ],
)
def test_native_names(name, native):
    assert jax_names.is_native(name) is native


def test_an_environment_of_the_users(module):
    found = jax_names.find(tiny("jax:ones_own:make").env)
    assert isinstance(found.env, Chain)
    assert found.params is None
    assert jax_names.find(tiny("jax:ones_own:with_params").env).params == "the parameters"
    sized = tiny("jax:ones_own:needing", env__kwargs={"what": [3, {"a": 1}]})
    assert jax_names.find(sized.env).env == [3, {"a": 1}]
    with pytest.raises(ConfigError, match=r"TypeError: make.* with env.kwargs = {'size': 3}"):
        jax_names.find(tiny("jax:ones_own:make", env__kwargs={"size": 3}).env)


def test_gymnaxs_default_params_are_taken(monkeypatch):
    made = types.SimpleNamespace(default_params=3)
    monkeypatch.setitem(
        sys.modules, "ones_own", types.SimpleNamespace(make=lambda: made, __name__="ones_own")
    )
    assert jax_names.find(tiny("jax:ones_own:make").env) == (made, 3, False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jax:ones_own", 'expected "jax:MODULE:FUNCTION"'),
        ("jax:ones_own:", 'expected "jax:MODULE:FUNCTION"'),
        ("jax::make", 'expected "jax:MODULE:FUNCTION"'),
        ("jax:ones_own:mak", 'ones_own has no "mak"; did you mean "make"'),
        ("jax:none_such:make", 'no module "none_such"'),
        ("jax:ones_own:failing", "ones_own:failing raised OSError: out of ink"),
        ("jax:ones_own:needing", "ones_own:needing raised TypeError: needing() missing 1"),
        ("jax:ones_own:Chain", "ones_own:Chain raised TypeError"),
    ],
)
def test_what_cannot_be_made(module, name, words):
    sentence = refusal(name)
    assert sentence.startswith(f'env.name = "{name}": ')
    assert words in sentence


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minatar/Brekout", 'did you mean "minatar/Breakout"'),
        ("bsuite/Deepsea", 'did you mean "bsuite/DeepSea"'),
        ("bsuite/Nothing", "unknown environment"),
        ("jdqn/Nothing", "unknown environment"),
    ],
)
def test_unknown_names(name, words):
    pytest.importorskip("gymnax")  # an extra
    assert words in refusal(name)


def test_a_missing_gymnax_is_answered_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    sentence = refusal("gymnax/CartPole-v1")
    assert "gymnax is not installed; pip install -e '.[jax-envs]'" in sentence


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module", "raised ModuleNotFoundError: No module named 'no_such_module'"),
        ("from sys import no_such_name", "raised ImportError: cannot import name"),
    ],
)
def test_what_gymnax_itself_cannot_import_is_named(tmp_path, monkeypatch, source, words):
    (tmp_path / "gymnax.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gymnax", raising=False)
    sentence = refusal("gymnax/CartPole-v1")
    assert f"importing gymnax {words}" in sentence
    assert "not installed" not in sentence


def test_what_gymnax_cannot_make_is_said(monkeypatch):
    def make(name):
        raise OSError("no network")

    fake = types.SimpleNamespace(registered_envs=["MNISTBandit-bsuite"], make=make)
    monkeypatch.setitem(sys.modules, "gymnax", fake)
    assert "gymnax.make raised OSError: no network (test_jax_names.py:" in refusal(
        "bsuite/MNISTBandit"
    )
