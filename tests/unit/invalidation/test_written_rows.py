"""What statements that Django does not compile change for caches."""

from __future__ import annotations

import uuid

import pytest

from cachebackend.invalidation import columns
from cachebackend.invalidation.tables import watched_tables
from cachebackend.invalidation.written_rows import Fetched, WrittenRows
from tests.zoo.models import Token

OLD, NEW = (uuid.uuid4(), "a"), (uuid.uuid4(), "b")


@pytest.fixture(autouse=True)
def no_bound_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no query bind a column, and no trigger change one: which ones there are only a database says."""
    monkeypatch.setattr(columns, "bindable_fields", lambda *_: ())
    monkeypatch.setattr(columns.ReadColumns, "has_before_row_triggers", False)


def written(*existing: str) -> WrittenRows:
    return WrittenRows(Token, "default", existing=existing, with_values=True)


def test_only_columns_that_the_table_has_are_read() -> None:
    """The model may be of another release than the table."""
    assert [field.column for field in written("id", "code").fields] == ["id", "code"]
    assert [field.column for field in written("id").fields] == ["id"]


def test_each_kind_of_statement_changes_rows_in_its_way() -> None:
    """An insertion has no old row, and may end an absence; a deletion has no new row."""
    tokens = written("id", "code")
    [(_, inserted, _)] = tokens.inserted(Fetched([NEW], None))
    [(_, deleted, _)] = tokens.deleted(Fetched([OLD], None))
    assert inserted is not None
    assert inserted.is_new
    assert inserted.rows[0].old is None
    assert deleted is not None
    assert not deleted.is_new
    assert deleted.rows[0].new is None


def test_an_update_matches_rows_by_their_keys() -> None:
    """Without old values, the columns that are read stay the same."""
    tokens = written("id", "code")
    after = Fetched([(OLD[0], "c")], None)
    [(_, changed, _)] = tokens.updated({"code"}, after, Fetched([OLD], None))
    assert changed is not None
    assert (changed.rows[0].old or {})["code"] == "a"
    assert (changed.rows[0].new or {})["code"] == "c"
    assert changed.columns == {"code"}
    [(_, changed, _)] = tokens.updated({"rank"}, after, None)
    assert changed is not None
    assert changed.rows[0].old is changed.rows[0].new


def test_no_rows_change_nothing() -> None:
    """An update may find none of its rows."""
    nothing = Fetched([], None)
    assert written("id").inserted(nothing) == written("id").updated({"code"}, nothing, nothing) == []


@pytest.mark.parametrize("state", ["old", "new"])
def test_rows_that_cannot_be_read_are_not_known(state: str) -> None:
    """Everything that is cached of the table is wrong then."""
    tokens, bad, good = written("id", "code"), Fetched([OLD], ValueError()), Fetched([OLD], None)
    [table] = watched_tables(Token._meta.db_table)
    changes = tokens.updated({"code"}, *((good, bad) if state == "old" else (bad, good)))
    assert changes == tokens.inserted(bad) == tokens.deleted(bad) == [(table, None, True)]


def test_a_row_that_a_field_cannot_read_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field of the project may raise anything."""

    def refuse(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(Token._meta.get_field("code"), "from_db_value", refuse, raising=False)
    [(_, changed, _)] = written("id", "code").inserted(Fetched([NEW], None))
    assert changed is None
