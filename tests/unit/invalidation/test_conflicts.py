"""Which rows an upsert may update."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import connection, models
from django.db.models import F, Q, Value
from django.db.models.functions import Lower
from django.db.models.sql import InsertQuery

from cachebackend.invalidation.conflicts import conflicting_rows
from tests.zoo.models import Nickname, Seat, Stock, Sum, Token, Word


def conflicts(*rows: models.Model, unique: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return the filters for an upsert of rows, any of which may match; MySQL names no ``unique`` columns."""
    model = type(rows[0])
    fields = [model._meta.get_field(name) for name in unique]
    query: Any = InsertQuery(model, unique_fields=fields)
    query.insert_values([*model._meta.concrete_fields], rows)
    found: list[Any] = conflicting_rows(query.get_compiler(connection=connection))
    assert all(each.connector == Q.OR for each in found)
    return [dict(condition.children) for each in found for condition in each.children]


def test_rows_conflict_by_one_column() -> None:
    assert conflicts(Word(text="a"), Word(text="b"), unique=("text",)) == [{"text__in": ["a", "b"]}]


def test_rows_conflict_by_two_columns() -> None:
    rows = [Seat(hall=1, rank=2, name="x"), Seat(hall=3, rank=4, name="y")]
    assert conflicts(*rows, unique=("hall", "rank")) == [
        {"hall": 1, "rank": 2},
        {"hall": 3, "rank": 4},
    ]


def test_a_filter_names_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database limits the size of a condition."""
    monkeypatch.setattr("cachebackend.invalidation.conflicts.ROWS_PER_FILTER", 2)
    query: Any = InsertQuery(Seat, unique_fields=[Seat._meta.get_field("hall"), Seat._meta.get_field("rank")])
    query.insert_values([*Seat._meta.concrete_fields], [Seat(hall=hall) for hall in range(5)])
    found: list[Any] = conflicting_rows(query.get_compiler(connection=connection))
    assert [len(each.children) for each in found] == [2, 2, 1]


def test_the_values_that_are_compared_are_those_that_are_inserted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although a field makes another value each time it is asked."""
    names = iter("abc")
    monkeypatch.setattr(Word._meta.get_field("text"), "pre_save", lambda *_, **__: next(names))
    query: Any = InsertQuery(Word, unique_fields=[Word._meta.get_field("text")])
    query.insert_values([*Word._meta.concrete_fields], [Word()])
    compiler: Any = query.get_compiler(connection=connection)
    [found] = conflicting_rows(compiler)
    [(_, params)] = compiler.as_sql()
    assert dict(found.children[0].children) == {"text__in": ["a"]}
    assert params[0] == "a"


def test_rows_conflict_by_a_composite_key() -> None:
    assert conflicts(Stock(shop=1, sku="a"), unique=("shop", "sku")) == [{"shop": 1, "sku": "a"}]


def test_null_conflicts_with_nothing() -> None:
    assert conflicts(Nickname(name=None), Nickname(name="a"), unique=("name",)) == [{"name__in": ["a"]}]
    assert conflicts(Nickname(name=None), unique=("name",)) == []


def test_null_conflicts_with_null_if_the_constraint_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a constraint has ``nulls_distinct=False``."""
    constraint = models.UniqueConstraint(fields=["name"], name="one", nulls_distinct=False)
    monkeypatch.setattr(Nickname._meta, "total_unique_constraints", [constraint], raising=False)
    expected = [{"name__isnull": True}, {"name": "a"}]
    assert conflicts(Nickname(name=None), Nickname(name="a"), unique=("name",)) == expected


def test_a_key_that_a_sequence_makes_conflicts_with_nothing() -> None:
    assert conflicts(Seat(hall=1, rank=2, name="x"), unique=("id",)) == []


def test_expressions_and_defaults_of_the_database_are_compared_by_the_database() -> None:
    """A default is the expression that the database evaluates."""
    expression = Lower(Value("A"))
    assert conflicts(Nickname(name=expression), unique=("name",)) == [{"name__in": [expression]}]
    nickname = Nickname(name="x")
    assert conflicts(nickname, unique=("code",)) == [{"code__in": [nickname.code]}]


def test_a_generated_column_is_computed_from_the_others() -> None:
    """The instance does not know its value."""
    [found] = conflicts(Sum(rank=3), unique=("twice",))
    [expression] = found["twice__in"]
    assert F("rank") not in list(expression.flatten())


def test_all_constraints_count_if_none_is_named() -> None:
    """As on MySQL: the primary key, unique columns, and constraints over several of them."""
    found = conflicts(Seat(pk=5, hall=1, rank=2, name="x"))
    assert found == [{"id__in": [5]}, {"name__in": ["x"]}, {"hall": 1, "rank": 2}]


def test_partial_constraints_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django names no condition in ``ON CONFLICT``, so a row that breaks one is an error."""
    partial = models.UniqueConstraint(fields=["rank"], name="one", condition=Q(rank__gt=0))
    monkeypatch.setattr(Token._meta, "constraints", [partial])
    key = uuid.uuid4()
    assert conflicts(Token(pk=key, rank=1)) == [{"id__in": [key]}]
