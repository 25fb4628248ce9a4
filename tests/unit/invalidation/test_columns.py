"""Which columns a statement reads, and what they mean for the cached model."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import models
from django.db.migrations.state import ModelState, ProjectState

from cachebackend.invalidation import columns
from cachebackend.invalidation.columns import ReadColumns
from cachebackend.invalidation.tables import watched_tables
from tests.zoo.models import Token


@pytest.fixture(autouse=True)
def no_bound_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no query bind a column: which ones can be bound only a database says."""
    monkeypatch.setattr(columns, "bindable_fields", lambda *_: ())


def state_model(**fields: models.Field[Any, Any]) -> Any:
    """Return a migration's model of the tokens' table."""
    state = ProjectState()
    state.add_model(ModelState("zoo", "Old", list(fields.items()), {"db_table": Token._meta.db_table}))
    return state.apps.get_model("zoo", "Old")


def columns_of(model: Any) -> ReadColumns:
    return ReadColumns(model, watched_tables(Token._meta.db_table), "default")


def names(columns: ReadColumns) -> list[str | None]:
    return [field.column for field in columns.fields]


def test_the_model_s_own_key_comes_first() -> None:
    """The statement names rows by it. A column that the migration may not have yet is not read."""
    old = columns_of(state_model(rank=models.IntegerField(primary_key=True), id=models.UUIDField()))
    assert (names(old), old.key_width) == (["rank", "id"], 1)
    assert names(columns_of(Token)) == ["id", "code"]


def test_values_get_the_type_of_the_cached_model() -> None:
    """A migration may read a UUID as text."""
    old = columns_of(state_model(id=models.CharField(primary_key=True), code=models.CharField(null=True)))
    [table] = watched_tables(Token._meta.db_table)
    key = uuid.uuid4()
    row = {"id": key, "code": None, "pk": key}
    values = key.hex, None
    assert old.rows_of(table, [(None, values), (values, None)]) == [(None, row), (row, None)]


def test_a_row_in_which_nothing_changed_is_read_once() -> None:
    """Before and after the statement it is the same object."""
    [table] = watched_tables(Token._meta.db_table)
    values = uuid.uuid4(), "a"
    [row] = columns_of(Token).rows_of(table, [(values, values)]) or []
    assert row.old is row.new


def test_rows_without_the_cached_key_are_unknown() -> None:
    """So are those whose value the cached model's column cannot hold."""
    [table] = watched_tables(Token._meta.db_table)
    other_key = columns_of(state_model(rank=models.IntegerField(primary_key=True)))
    assert other_key.rows_of(table, [(None, (1,))]) is None
    old = columns_of(state_model(id=models.CharField(primary_key=True)))
    assert old.rows_of(table, [(("no key",), None)]) is None
