"""JSON that anyone may have written."""

import json

import pytest
from hypothesis import given
from strategies import json_values

from decomp_ledger.errors import UnusableValue
from decomp_ledger.model.json_values import parse_json


@given(json_values)
def test_every_value_of_canonical_json_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63) + 1, 0, -1])
def test_integers_of_64_bits_are_read(number: int) -> None:
    assert parse_json(str(number)) == number


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (str(2**63), "an integer is beyond 64 bits"),
        ("-" + "9" * 5000, "an integer is beyond 64 bits"),
        ("1.5", "1.5 is not an integer"),
        ("1e400", "1e400 is not an integer"),
        ("NaN", "NaN is not an integer"),
        ("-Infinity", "-Infinity is not an integer"),
        (r'"\ud800"', "lone surrogate"),
        (r'{"\uDfff": 1}', "lone surrogate"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
@pytest.mark.parametrize("place", ["{}", "[{}]"])
def test_other_values_are_refused_with_one_line(text: str | bytes, problem: str, place: str) -> None:
    given = text if isinstance(text, bytes) else place.replace("{}", text)
    with pytest.raises(UnusableValue, match=problem) as raised:
        parse_json(given)
    assert "\n" not in str(raised.value)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse_json(r'"\ud83d\ude80"') == "\N{ROCKET}"
