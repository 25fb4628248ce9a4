"""The SQL of a statement that writes its own outbox row."""

from __future__ import annotations

from typing import Any

from cachebackend.invalidation.row_texts import changed_member
from cachebackend.invalidation.statement_outbox import StatementOutbox
from cachebackend.invalidation.tables import watched_tables
from tests.zoo.models import Author, Entry, Poem


def outbox(*, is_large: bool = False) -> StatementOutbox:
    [table] = watched_tables(Author._meta.db_table)
    return StatementOutbox(table, lambda name: f'"{name}"', is_large=is_large)


def test_a_statement_returns_its_rows_and_the_key_of_its_outbox_row() -> None:
    """The marker remains the name of the first column."""
    sql = outbox().around("DELETE", "marker", 2, 1)
    assert sql.startswith('WITH ringcache_rows ("marker", c1) AS (DELETE), ringcache_outbox AS (INSERT INTO')
    assert "'zoo.author'" in sql


def test_columns_of_the_caller_are_no_part_of_the_outbox_row() -> None:
    """They follow those of the row, in each of its states."""
    sql = outbox().around("UPDATE", "marker", 6, 2)
    assert '("marker", c1) IS DISTINCT FROM (c3, c4)' in sql
    assert "c2" not in sql.partition("INSERT")[2]


def test_a_large_statement_writes_rows_of_a_limited_length() -> None:
    """They are numbered in groups."""
    assert "GROUP BY chunk" in outbox(is_large=True).around("UPDATE", "marker", 2, 1)
    assert "GROUP BY" not in outbox().around("UPDATE", "marker", 2, 1)


def test_a_statement_of_any_number_of_rows_returns_a_limited_number() -> None:
    """Above the limit it returns how many rows it has changed, and the keys of its outbox rows."""
    [table] = watched_tables(Author._meta.db_table)
    rows = StatementOutbox(table, str, is_large=True, returns_all=False)
    assert "ON total <= 2500 WHERE total > 0" in rows.around("UPDATE", "marker", 2, 1)
    assert rows.take([(1, "a", [7], 1)]) == [(1, "a")]
    assert (rows.pks, rows.omitted) == ([7], 0)
    assert rows.take([(None, None, [8, 9], 2501)]) == []
    assert (rows.pks, rows.omitted) == ([7, 8, 9], 2501)


def test_the_keys_of_outbox_rows_are_taken_from_the_result() -> None:
    """A wrapper of another package may leave them out."""
    rows = outbox()
    assert rows.take([(1, "a", [7]), (2, "b", [7])]) == [(1, "a"), (2, "b")]
    assert (rows.take([]), rows.take([(3, "c", None)])) == ([], [(3, "c")])
    assert rows.pks == [7]


VALUES = [Poem._meta.get_field("rank"), Poem._meta.get_field("author")]
LISTED = {"rank", "name"}


def sql_of(*, is_large: bool = False, states: int = 1, **options: Any) -> str:
    """Return the SQL of a statement whose outbox row holds values."""
    [table] = watched_tables(Poem._meta.db_table)
    options = {"values": VALUES, "bindable": table.fields} | options
    rows = StatementOutbox(table, lambda name: f'"{name}"', is_large=is_large, **options)
    return rows.around("UPDATE", "marker", 4 * states, states)


def test_the_outbox_row_holds_values_that_queries_may_bind() -> None:
    """They follow the columns that keys are made of, in each state."""
    sql = sql_of(states=2)
    assert "'rank', c2::text" in sql
    assert "'author_id', c7::text" in sql
    assert '("marker", c1, c2, c3) IS DISTINCT FROM (c4, c5, c6, c7)' in sql


def test_a_large_statement_writes_values_of_a_limited_number_of_rows() -> None:
    """Of more rows it writes what keys are made of, once if that has not changed."""
    sql = sql_of(is_large=True, states=2)
    keys = "jsonb_build_object('id', \"marker\"::text, 'name', c1"
    assert (
        f"CASE WHEN total <= 1000 THEN {keys}, 'rank', c2::text, 'author_id', c3::text) ELSE {keys}) END"
        in sql
    )
    assert "FROM (c4, c5) OR total <= 1000 AND (c2, c3) IS DISTINCT FROM (c6, c7)" in sql
    assert "CASE WHEN total <= 2000 THEN" in sql_of(is_large=True)


def test_a_statement_of_one_row_writes_it_without_aggregates() -> None:
    """Its outbox row holds both states."""
    sql = sql_of(states=2, is_single=True)
    assert "jsonb_build_array(jsonb_build_object('id', \"marker\"::text" in sql
    assert "jsonb_agg" not in sql
    assert "HAVING" not in sql


def test_a_column_of_an_unusual_type_has_a_text_all_the_same() -> None:
    """An object would hold an integer below a ``CharField`` as a number."""
    sql = sql_of(is_single=True, bindable=())
    assert "'id', to_jsonb(\"marker\") #>> '{}', 'name', to_jsonb(c1) #>> '{}'" in sql
    assert "'rank', c2::text" in sql


def test_each_state_lists_the_columns_that_an_update_sets() -> None:
    """If they are known, and their names are short and usual."""
    text = f"""'{changed_member(Poem)}', '["name", "rank"]'::jsonb"""
    assert text in sql_of(changed=LISTED)
    for changed in (None, {"it's"}, {"100 %"}):
        assert changed_member(Poem) not in sql_of(changed=changed)


def test_a_table_whose_results_nobody_caches_lists_no_columns() -> None:
    """Keys of rows do not depend on them."""
    [table] = watched_tables(Entry._meta.db_table)
    assert not table.result_aliases
    rows = StatementOutbox(table, str, is_large=False, changed=LISTED)
    assert "changed of" not in rows.around("UPDATE", "marker", 2, 1)
