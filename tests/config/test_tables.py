"""Tables of free keys: frozen, hashable, and of what TOML and JSON both hold."""

import datetime
import math

import pytest

from jdqn.config import ConfigError, load_config, to_toml, with_overrides
from jdqn.config.tables import Table, table

DEEP = {"size": 7, "map": {"rows": ["ab", "cd"], "odds": [{"p": 0.5}]}, "fast": True}


def test_a_table_is_what_it_was_made_of():
    frozen = table(DEEP)
    assert frozen.plain() == DEEP
    assert frozen["map"]["rows"] == ("ab", "cd")
    assert isinstance(frozen["map"], Table)
    assert repr(frozen) == repr(DEEP)
    assert len(table({})) == 0


def test_tables_are_compared_and_hashed_by_what_is_in_them():
    turned = dict(reversed(DEEP.items()))
    assert table(DEEP) == table(turned)
    assert hash(table(DEEP)) == hash(table(turned))
    assert table(DEEP) != table(DEEP | {"size": 8})


def test_a_number_is_not_what_python_holds_for_equal_to_it():
    for one, other in [(1, True), (1, 1.0), ([0], [False])]:
        assert table({"a": one}) != table({"a": other})
        assert len({table({"a": one}), table({"a": other})}) == 2


def test_nothing_changes_a_table():
    source = {"list": [1]}
    frozen = table(source)
    source["list"].append(2)
    frozen.plain()["list"].append(3)
    assert frozen.plain() == {"list": [1]}
    with pytest.raises(TypeError):
        frozen["list"] = 1


def test_a_configuration_with_a_table_goes_into_a_file_and_back(tmp_path):
    config = load_config(env="CartPole-v1", overrides={"env.kwargs": DEEP})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert load_config(file=file) == config
    assert hash(with_overrides(config, train__seed=0)) == hash(config)
    assert load_config(env="CartPole-v1").env.kwargs == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "must be a table of keyword arguments such as {size = 7}"),
        ([{"a": 1}], "must be a table"),
        ({"a": {"b": math.nan}}, "a.b is nan, expected a finite number"),
        ({"a": math.inf}, "a is inf"),
        ({"a": [datetime.date(2020, 1, 1)]}, "a is 2020-01-01, expected a string, a number"),
        ({"a": None}, "a is None"),
        ({1: 2}, "its key 1 must be a string"),
        ({"a": [{None: 2}]}, "its key None must be a string"),
        ({"a": -(2**63)}, "a is -9223372036854775808, expected a whole number of at most 64 bits"),
    ],
)
def test_what_cannot_be_kept_is_refused(value, words):
    with pytest.raises(ConfigError) as info:
        load_config(env="CartPole-v1", overrides={"env.kwargs": value})
    assert str(info.value).startswith("env.kwargs = ")
    assert words in str(info.value)


def test_a_table_that_is_too_deep_is_refused():
    value = 1
    for _ in range(500):
        value = {"a": value}
    with pytest.raises(ValueError, match="a is more than 16 tables or lists deep"):
        table(value)
