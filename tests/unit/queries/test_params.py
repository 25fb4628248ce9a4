"""Parameters of statements as a part of keys: two that differ have different texts."""

from __future__ import annotations

import datetime
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Float8, Int4, Int8
from psycopg.types.range import Range

from cachebackend.queries.not_cached import NotCached
from cachebackend.queries.params import text_of_params
from tests.zones import Zone

DIFFERENT: list[Any] = [
    1, 1.0, True, "1", b"1", Decimal(1), Decimal("1.0"), None, "None", Int4(1), Int8(1), Float8(1), [1], (1,),
    [[1]], [1, 1], "1,1",
    Jsonb({"a": 1}), Jsonb({"a": True}), Jsonb([1]), Range(1, 2), Range(1, 2, "[]"), {"a": 1},
    datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2024, 1, 1, fold=1),
    *(datetime.datetime(2024, 1, 1, tzinfo=Zone(hours)) for hours in (1, 2)),
    *(datetime.time(1, tzinfo=Zone(hours)) for hours in (1, 2)), {True: "a"}, {1: "a"}, {1.0: "a"},
    datetime.time(1), datetime.timedelta(1), UUID(int=1), "x" * 10_000, "x" * 10_001,
]  # fmt: skip


def test_different_parameters_have_different_texts() -> None:
    """By type and by value, however long they are."""
    texts = sorted(text_of_params([param]) for param in DIFFERENT)
    assert all(first != second for first, second in pairwise(texts))


def test_a_derived_text_is_the_text() -> None:
    """The database gets the same bytes."""
    assert text_of_params([mark_safe("a")]) == text_of_params(["a"])


class Colour(StrEnum):
    RED = "red"


class Mood(StrEnum):
    RED = "red"


def test_members_of_enumerations_have_texts() -> None:
    """By class and value: a driver may send members of some enumerations in a form of their own."""
    texts = [text_of_params([each]) for each in (Colour.RED, Mood.RED, "red")]
    assert len(set(texts)) == 3
    assert text_of_params([Colour("red")]) == texts[0]


@pytest.mark.parametrize("param", [object(), gettext_lazy("a"), {1, 2}], ids=["object", "lazy", "set"])
def test_other_parameters_are_not_cached(param: Any) -> None:
    """What the driver makes of them is not known."""
    with pytest.raises(NotCached, match="a parameter is a"):
        text_of_params([param])
