"""What names look like: known ones, something of the user's own, Atari games."""

from typing import Annotated

import pydantic
import pytest

from jdqn.config import naming


@pytest.mark.parametrize("name", ["mine:loss", "package.module_2.mine:Loss_2", "ünï:ö"])
def test_module_and_name_are_something_of_ones_own(name):
    assert naming.is_own(name)


@pytest.mark.parametrize(
    "name", ["huber", "mine", "mine:", ":loss", "a:b:c", "a b:c", "2a:b", "a:b.c", "a/b:c", "a:b\n"]
)
def test_anything_else_is_not(name):
    assert not naming.is_own(name)


def test_a_known_name_or_ones_own_is_accepted():
    accepts = pydantic.TypeAdapter(Annotated[str, naming.Known(("vote", "head"))])
    assert accepts.validate_python("vote") == "vote"
    assert accepts.validate_python("mine:rule") == "mine:rule"
    with pytest.raises(pydantic.ValidationError, match="'vote' or 'head', or module:name") as info:
        accepts.validate_python("votes")
    assert 'did you mean "vote"?' in str(info.value)
    with pytest.raises(pydantic.ValidationError, match="string"):
        accepts.validate_python(3)


@pytest.mark.parametrize("name", ["Breakout", "MontezumaRevenge"])
def test_a_word_is_an_atari_game(name):
    assert naming.is_atari(name)


@pytest.mark.parametrize("name", ["CartPole-v1", "minatar/Breakout", "ALE/Pong-v5", "mine:Env-v0"])
def test_other_environments_are_called_otherwise(name):
    assert not naming.is_atari(name)


@pytest.mark.parametrize("name", ["../dqn", "a/b", "", ".hidden", "a b", "a\\b", 'a"'])
def test_what_cannot_name_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="must be letters"):
        naming.fits_in_a_path(name)
    assert naming.fits_in_a_path("my_agent-2.1") == "my_agent-2.1"
