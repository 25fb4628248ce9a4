"""The form of changed rows in an outbox row, and what is read from it."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models
from django.test.utils import isolate_apps

from cachebackend.invalidation import row_texts
from cachebackend.invalidation.query_changes import MAX_ROWS, ValueChange
from cachebackend.invalidation.row_texts import (
    changed_member,
    has_short_names,
    is_virtual,
    most_states,
    object_of,
    text_of,
    value_changes,
    value_fields,
)
from cachebackend.shapes import NULL, value_digest
from tests.second_models import second_model
from tests.unit.invalidation.computed_columns import Doubled
from tests.zoo.models import Sample, Singer

MEMBER = changed_member(Singer)


@pytest.fixture(autouse=True)
def bindable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database says of the table."""
    monkeypatch.setattr(row_texts, "bindable_fields", lambda model, _: model._meta.local_concrete_fields)


def changes(row: dict[str, Any], text: dict[str, Any]) -> ValueChange:
    [change] = value_changes(Singer, [row], [text], "default")
    return change


def test_the_values_of_a_state_have_digests() -> None:
    """NULL has its own, and a column that is not there has none."""
    change = changes({"id": 1, "rank": None}, {"id": "1", "rank": None, MEMBER: ["rank"]})
    assert change == ValueChange({"rank"}, {"id": value_digest("1"), "rank": NULL}, None)


def test_a_text_that_cannot_be_read_has_no_digest() -> None:
    """Its value is None, like that of NULL."""
    assert changes({"rank": None}, {"rank": "infinity"}).old == {}


def test_a_state_that_lists_no_columns_has_changed_in_all() -> None:
    """It was inserted or deleted, or a trigger of an earlier release has written it."""
    assert changes({"id": 1}, {"id": "1"}).columns is None
    assert changes({"id": 1}, {"id": "1", MEMBER: None}).columns is None
    assert changes({"id": 1}, {"id": "1", "changed of 00000000": ["rank"]}).columns is None


@pytest.mark.parametrize("damaged", ["rank", {"rank": "1"}, [["rank"]]])
def test_a_damaged_list_is_no_list_of_columns(damaged: Any) -> None:
    """The relay sets the row aside."""
    with pytest.raises(ValueError, match="is not a list of columns"):
        changes({"id": 1}, {"id": "1", MEMBER: damaged})


@isolate_apps("tests.zoo")
def test_a_model_with_other_columns_lists_them_under_another_name() -> None:
    """A column that a trigger does not compare may have changed."""

    class Same(models.Model):
        name = models.TextField()
        rank = models.IntegerField()

        class Meta:
            app_label = "zoo"

    class More(models.Model):
        name = models.TextField()
        rank = models.IntegerField()
        beds = models.IntegerField()

        class Meta:
            app_label = "zoo"

    assert changed_member(Same) == MEMBER != changed_member(More)


def test_columns_of_other_models_of_the_table_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing compares them."""
    monkeypatch.setattr(row_texts, "_others", {Singer: frozenset({"beds"})})
    assert changes({}, {MEMBER: ["rank"]}).columns == {"rank", "beds"}
    assert changes({}, {}).columns is None


def test_the_columns_of_all_models_of_a_table_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """However they write its name."""
    guitarist = second_model(
        Singer,
        f'public"."{Singer._meta.db_table}',
        strings=models.IntegerField(),
        rank=models.IntegerField(),
    )
    monkeypatch.setattr(row_texts, "_others", {})
    monkeypatch.setattr(row_texts.apps, "get_models", lambda **_: [Singer, guitarist, Sample])
    assert row_texts._columns_of_others(Singer) == {"strings"}


def test_a_statement_writes_the_values_of_a_limited_number_of_states() -> None:
    """All of them together fit into an outbox row, with any values."""
    assert most_states([]) == most_states(Singer._meta.local_concrete_fields) == MAX_ROWS
    texts = [Sample._meta.get_field("label")] * 50
    assert 100 < most_states(texts) * 50 * 800 < row_texts.MAX_VALUE_BYTES


def test_a_column_that_is_computed_when_it_is_read_has_no_value() -> None:
    """In the rows that a trigger sees it is NULL."""
    assert [is_virtual(field) for field in Doubled._meta.local_concrete_fields] == [False, False, True]
    assert [field.attname for field in value_fields(Doubled)] == ["id", "rank"]


def test_the_values_are_those_that_a_query_may_bind() -> None:
    """A long text, a float and a document may not be bound."""
    names = {field.attname for field in value_fields(Sample)}
    assert names >= {"parent_id", "price", "at", "loud"}
    assert not names & {"essay", "weight", "data"}
    assert has_short_names(Sample)


def test_no_function_has_more_than_a_hundred_arguments() -> None:
    """Postgres allows no more, and a model may have more columns."""
    parts = object_of((f"c{number}", text_of(f"n.c{number}")) for number in range(120)).split(
        "jsonb_build_object("
    )[1:]
    assert [part.count("#>>") for part in parts] == [50, 50, 20]
    assert object_of([]) == "'{}'::jsonb"
