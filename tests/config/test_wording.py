"""Values are shown short, sentences on one line."""

import datetime

import pytest

from jdqn.config import shown, wording


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("many", "'many'"),
        ("a\nb\0", "'a\\nb\\x00'"),
        (1.5, "1.5"),
        (True, "true"),
        ([False, 3], "[false, 3]"),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (datetime.time(7, 30), "07:30:00"),
    ],
)
def test_a_value_is_shown_as_it_was_written(value, want):
    assert shown(value) == want


@pytest.mark.parametrize("value", ["x" * 1_000, [1] * 1_000, {i: i for i in range(99)}, 10**999])
def test_a_long_value_is_shortened(value):
    assert "..." in shown(value)
    assert len(shown(value)) <= 80


def test_more_digits_than_python_writes_are_hexadecimal():
    assert shown([16**6_000]) == f"[0x1{'0' * 17}...{'0' * 20}]"


def test_a_deep_value_is_cut():
    value = []
    for _ in range(10_000):
        value = [value]
    assert shown(value) == "[[[[...]]]]"


def test_a_sentence_is_one_line_whatever_is_in_it():
    sentence = wording.one_line("a\tb\r\nc\x1b[0m \u2028\udce9é – ±")
    assert sentence == "a\\tb\\r\\nc\\x1b[0m \\u2028\\udce9é – ±"


def test_a_long_sentence_keeps_both_ends():
    sentence = wording.one_line("field " + "x" * 9_000 + " accepted")
    assert sentence.startswith("field xxx")
    assert sentence.endswith("xxx accepted")
    assert len(sentence) <= 410
