"""What a value written as text means, and settings held against their types."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from simpool_viz.errors import OptionError, TrainingError
from simpool_viz.maps.request import parse_map
from simpool_viz.settings import CLOSED, Flag, Number, Positive, Table, check_arguments, checked, pairs_of, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("TRUE", True),
        ("False", False),
        ("none", None),
        ("null", None),
        ("7", 7),
        ("-2", -2),
        ("+5", 5),
        ("2.0", 2.0),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("1.5e+2", 150.0),
        ("8+8+16", [8, 8, 16]),
        ("120x80", (120, 80)),
        ("0.5x2", (0.5, 2)),
        *[(text, text) for text in ("avg", "", "yes", "no", "nan", "inf", "1e999", "1_000", "1 2", "8+", "x", "12x")],
        *[(text, text) for text in ("tench+church", "resnet_gap+slot", "vit_base_patch16_18x2_224", "\u0663")],
    ],
)
def test_text_stands_for_a_value(text: str, value: Any) -> None:
    found = value_of(text)
    assert found == value and type(found) is type(value)
    if isinstance(value, (list, tuple)):
        assert [type(one) for one in found] == [type(one) for one in value]


@pytest.mark.parametrize("text", ["cls:fusion=none", "cls:soft=true", "cls:a=0.001", "cls:a=8+16"])
def test_values_of_a_map_are_read_as_everywhere_and_its_label_reads_back(text: str) -> None:
    request = parse_map(text)
    ((key, value),) = request.options.items()
    assert value == value_of(text.partition("=")[2]) and not isinstance(value, str), key
    assert parse_map(request.label) == request


def test_options_are_pairs() -> None:
    assert pairs_of("", "&", "") == {} and pairs_of("a=1&b=&c=x=y", "&", "") == {"a": "1", "b": "", "c": "x=y"}
    for text in ("a", "=1", "a=1&b"):
        with pytest.raises(OptionError, match="options are written key=value, with & between them, as in a=1"):
            pairs_of(text, "&", "a=1")
    with pytest.raises(OptionError, match="the option a is given twice in 'a=1,a=2'"):
        pairs_of("a=1,a=2", ",", "")
    with pytest.raises(OptionError, match="the option block is given twice"):
        parse_map("cls:block=1,block=2")


# --- types ---


@dataclass(frozen=True)
class Inner:
    __pydantic_config__ = CLOSED

    size: Positive
    open: Flag = False


@dataclass(frozen=True)
class Outer:
    __pydantic_config__ = CLOSED

    inner: Inner
    rows: tuple[Inner, ...] = ()
    rate: Number = 0.5
    options: Table = field(default_factory=dict)


OUTER = TypeAdapter(Outer)


def test_values_of_the_right_kind_are_taken() -> None:
    given = {
        "inner": {"size": 128.0},
        "rows": [{"size": np.int64(3), "open": True}],
        "rate": "1e-3",
        "options": {"gamma": "1e-1", "pos_embed": "none", "deep": [{"lr": "2.5E3", "name": "e5"}]},
    }
    options = {"gamma": 0.1, "pos_embed": "none", "deep": [{"lr": 2500.0, "name": "e5"}]}
    found = checked(OUTER, given, TrainingError)
    assert found == Outer(Inner(128), (Inner(3, True),), 0.001, options)
    assert type(found.inner.size) is type(found.rows[0].size) is int and isinstance(found.rate, float)
    assert checked(OUTER, {"inner": Inner(-1)}, TrainingError) == Outer(Inner(-1)), "what is made in Python is taken"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"inner": {"size": True}}, "inner.size is a whole number, not true"),
        ({"inner": {"size": "5"}}, "inner.size is a whole number (in digits, without quotes and exponent), not '5'"),
        ({"inner": {"size": "1e2"}}, "inner.size is a whole number (in digits, without quotes and exponent), not"),
        ({"inner": {"size": "big"}}, "inner.size is a number, not 'big'"),
        ({"inner": {"size": None}}, "inner.size is a whole number, not null"),
        ({"inner": {"size": math.inf}}, "inner.size is a whole number, not inf"),
        ({"inner": {"size": 0}}, "inner.size is at least 1, not 0"),
        ({"inner": {"size": 10**400}}, "inner.size is less than"),
        ({"inner": {"size": 1, "open": "no"}}, "inner.open is true or false, not 'no'"),
        ({"inner": {"size": 1, "open": 0}}, "inner.open is true or false, not 0"),
        ({"inner": {}}, "'size' is missing in inner"),
        ({}, "'inner' is missing"),
        ({"inner": 5}, "inner is a table, not 5"),
        ([1], "it is a table, not [1]"),
        ({"inner": {"size": 1, "sise": 2}}, "there is no setting inner.sise: 'sise' is none of size, open"),
        ({"inner": {"size": 1}, "rate": "0.5"}, "rate is a number, not '0.5'"),
        ({"inner": {"size": 1}, "rate": True}, "rate is a number, not true"),
        ({"inner": {"size": 1}, "rate": math.nan}, "rate is a finite number, not nan"),
        ({"inner": {"size": 1}, "rate": 10**400}, "rate is a finite number, not 1000"),
        ({"inner": {"size": 1}, "rows": {"size": 1}}, "rows is a list, not {'size': 1}"),
        ({"inner": {"size": 1}, "rows": "ab"}, "rows is a list, not 'ab'"),
        ({"inner": {"size": 1}, "rows": [{"size": 1}, 7]}, "rows[1] is a table, not 7"),
        ({"inner": {"size": 1}, "rows": [{"size": 1, "x": 1}]}, "there is no setting rows[0].x: 'x' is none of size"),
        ({"inner": {"size": 1}, "options": 5}, "options is a table, not 5"),
        ({"inner": {"size": 1}, "options": {1: 2}}, "is text, not 1"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_with_their_key(given: Any, says: str) -> None:
    with pytest.raises(TrainingError) as caught:
        checked(OUTER, given, TrainingError)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_several_faults_are_counted() -> None:
    with pytest.raises(TrainingError, match=r"inner is a table, not 1; rows\[0\].*\(and 2 more\)$"):
        checked(OUTER, {"inner": 1, "rows": [0] * 5}, TrainingError)


def test_options_are_held_against_the_signature_that_they_are_for() -> None:
    def make(size: int, name: str | None = None, deep: tuple[int, ...] = (), free=None, **more: int) -> None: ...  # type: ignore[no-untyped-def]

    check_arguments(make, {"size": 3, "name": None, "deep": [1, 2], "free": "x", "other": "x"}, "{} is")
    check_arguments(make, {"size": object()}, "{} is")
    for options, says in (
        ({"size": "3"}, "size= takes a whole number, not '3'"),
        ({"size": True}, "size= takes a whole number, not true"),
        ({"name": 3}, "name= takes text or none, not 3"),
        ({"deep": ["a"]}, "deep= takes a whole number, not "),
    ):
        with pytest.raises(OptionError) as caught:
            check_arguments(make, options, "{}= takes")
        assert says in str(caught.value)
