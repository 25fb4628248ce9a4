"""Mutants of the write seam: each breaks one rule, and a named test must fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from django.db import OperationalError, connection

from cachebackend.invalidation import (
    columns,
    conflicts,
    key_parts,
    old_rows,
    pending_deletes,
    returning,
    statement_outbox,
    stored_changes,
    tables,
    transactions,
    writes,
)
from cacheproject.demo.models import Article
from tests.integration import (
    test_statement_outbox,
    test_strict,
    test_transactions,
    test_write_seam,
    test_writes,
)
from tests.integration.test_strict import before_commit  # noqa: F401  # a fixture that a test needs
from tests.integration.test_transactions import article, articles  # noqa: F401  # fixtures
from tests.integration.test_write_seam import tenants_on_sqlite  # noqa: F401  # a fixture
from tests.mutations.test_mutants import is_caught
from tests.zoo.models import Seat

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
Patch = pytest.MonkeyPatch
Rows = Iterator[tuple[Any, list[Any]]]


def returns_new_rows_only(patch: Patch) -> None:
    """An UPDATE of a primary key forgets the old one."""
    patch.setattr(writes.Write, "_returns_old_rows", False)
    patch.setattr(writes.Write, "_changes_keys", False)


def evaluates_the_filter_twice(patch: Patch) -> None:
    """Where the rows are read first, the statement uses its own filter again."""
    patch.setattr(writes.Write, "_can_return", False)
    patch.setattr(writes.Write, "_named", lambda write, _: write._query.clone())


def ignores_children(patch: Patch) -> None:
    """A row of a parent's table invalidates what is cached of the parent only."""
    changed = tables.WatchedTable.changed

    def own_only(table: Any, *given: Any, **options: Any) -> Rows:
        table.dependents[:] = [entry for entry in table.dependents if entry[0] is table.model]
        return changed(table, *given, **options)

    patch.setattr(tables.WatchedTable, "changed", own_only)
    patch.setattr(tables, "_tables", None)


def takes_the_parent_s_key_for_the_child_s(patch: Patch) -> None:
    """A child is believed to have the primary key of its parent."""
    patch.setattr(
        tables.WatchedTable, "_parts", lambda _, __, ___, rows, *____, **_____: (list(rows), [], None)
    )


def ignores_the_ends(patch: Patch) -> None:
    """A row of a many-to-many table invalidates nothing at its ends."""
    patch.setattr(tables, "_changed_ends", lambda *_, **__: iter(()))


def ignores_that_a_row_is_new(patch: Patch) -> None:
    """The inherited lookups of a new child are not read."""
    changed = tables.WatchedTable.changed

    def all_old(table: Any, rows: Any, using: str, **_: Any) -> Rows:
        return changed(table, rows, using, is_new=False)

    patch.setattr(tables.WatchedTable, "changed", all_old)


def trusts_the_instance(patch: Patch) -> None:
    """The keys of an INSERT come from the instance, also if another row was updated."""

    def insert(write: Any, returning_fields: Any = None) -> Any:
        returned = write._method(write._compiler, returning_fields)
        write._add_instances(returned)
        return returned

    patch.setattr(writes.Write, "insert", insert)


WRITE_MUTANTS: list[tuple[Callable[[Patch], None], str]] = [
    (returns_new_rows_only, "update of the key"),
    (ignores_children, "children through their parent"),
    (takes_the_parent_s_key_for_the_child_s, "the parent of a child with its own key"),
    (ignores_that_a_row_is_new, "a child of a parent that exists"),
    (trusts_the_instance, "upsert under a key made by the client"),
]


@pytest.fixture(autouse=True)
def fresh_tables() -> Iterator[None]:
    """Find the watched tables again after a mutant has changed them."""
    yield
    tables.forget_tables()


@pytest.mark.parametrize(("mutant", "way"), WRITE_MUTANTS)
def test_a_write_that_is_not_seen(mutant: Callable[[Patch], None], way: str, monkeypatch: Patch) -> None:
    """A test of one way to write reads a stale row."""
    mutant(monkeypatch)
    assert is_caught(test_writes.test_every_way_to_write_a_row_invalidates_it, way)


def test_a_filter_that_is_evaluated_twice(monkeypatch: Patch) -> None:
    """The statement could change other rows than those that were read."""
    evaluates_the_filter_twice(monkeypatch)
    assert is_caught(test_writes.test_rows_that_are_read_first_are_named_by_key)


def test_a_result_that_is_looked_for_in_the_first_place_only(monkeypatch: Patch) -> None:
    """Another package has put a statement before it."""
    monkeypatch.setattr(returning, "_find_result", lambda cursor, name: cursor.description[0][0] == name)
    monkeypatch.setattr(writes.Write, "_add_everything", lambda *_: None)
    test = test_write_seam.test_a_statement_whose_text_is_changed_is_seen
    assert is_caught(test, "update of all", "pgtrigger.ignore")


def test_unknown_rows_that_are_forgotten(monkeypatch: Patch) -> None:
    """A statement returned nothing of what it changed."""
    monkeypatch.setattr(writes.Write, "_add_everything", lambda *_: None)
    test = test_write_seam.test_a_statement_that_returns_nothing_invalidates_everything
    assert is_caught(test, "update of all")


def test_an_update_that_never_makes_a_row_new(monkeypatch: Patch) -> None:
    """The lookups of a child's new parent are not read."""
    monkeypatch.setattr(writes.Write, "_is_new", False)
    assert is_caught(test_write_seam.test_a_child_that_moves_to_another_parent_is_no_longer_absent)


def test_old_rows_that_are_read_without_a_lock(monkeypatch: Patch, tenants_on_sqlite: None) -> None:  # noqa: F811
    """Another writer comes in between."""
    monkeypatch.setattr(old_rows, "lock_for_writing", lambda _: None)
    assert is_caught(test_write_seam.test_rows_on_sqlite_are_read_under_the_lock_of_writers, True)


def test_an_upsert_whose_conflicts_are_read_at_once(monkeypatch: Patch) -> None:
    """The condition is too large."""
    monkeypatch.setattr(conflicts, "ROWS_PER_FILTER", 10_000)
    with monkeypatch.context() as inner, pytest.raises(OperationalError, match="too large"):
        test_write_seam.test_an_upsert_of_many_rows_by_two_columns(inner)


@pytest.fixture(params=[1, 100])
def statistics(request: pytest.FixtureRequest) -> int:
    """How many rows Postgres expects in the table, as after an earlier test; the plan depends on it."""
    seats = Seat.objects.bulk_create(Seat(hall=9, rank=rank, name=str(rank)) for rank in range(request.param))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE zoo_seat")
    Seat.objects.all().delete()
    return len(seats)


@pytest.mark.parametrize("can_return", [True, False])
@pytest.mark.usefixtures("statistics")
def test_rows_that_are_named_by_any_declared_key(can_return: bool, monkeypatch: Patch) -> None:
    """Other rows are changed: all with the same key, or the first of them.

    If Postgres expects one row, it reads the locked rows again for each row that it joins with them,
    and leaves them out as soon as the statement has updated one.
    """
    named = columns.ReadColumns.__init__

    def init(self: Any, *given: Any, **options: Any) -> None:
        named(self, *given, **options)
        self.names_rows = True

    monkeypatch.setattr(columns.ReadColumns, "__init__", init)
    monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)
    monkeypatch.setattr(writes.Write, "_can_return", can_return)
    assert is_caught(test_write_seam.test_a_key_that_is_not_unique_names_no_rows, "default")


def test_ends_that_are_ignored(monkeypatch: Patch) -> None:
    """A value with the tag of a row at the other end is stale."""
    ignores_the_ends(monkeypatch)
    assert is_caught(test_writes.test_the_tags_of_both_ends_are_invalidated, "clear")


@pytest.mark.parametrize("version", [old_rows.POSTGRES_18, 10**9])
def test_an_upsert_that_returns_new_rows_only(version: int, monkeypatch: Patch) -> None:
    """On Postgres 18 and before, a value with the tag of a row at the old end is stale."""
    returns_new_rows_only(monkeypatch)
    monkeypatch.setattr(old_rows, "POSTGRES_18", version)
    assert is_caught(test_writes.test_the_tags_of_both_ends_are_invalidated, "upsert of the row between them")


def test_an_upsert_whose_conflicts_are_not_read(monkeypatch: Patch) -> None:
    """Where an INSERT returns no rows, the row that was updated is stale."""
    monkeypatch.setattr(writes.Write, "_read_conflicting", lambda _: None)
    monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)
    monkeypatch.setattr(connection.features, "can_return_rows_from_bulk_insert", False)
    assert is_caught(test_writes.test_every_way_to_write_a_row_invalidates_it, "upsert of another row")


def test_autocommit_without_a_transaction(article: Article, monkeypatch: Patch) -> None:  # noqa: F811
    """The outbox row and the statement are committed one after the other."""
    monkeypatch.setattr(writes, "each_statement_in_a_transaction", lambda _: nullcontext())
    test = test_writes.test_a_write_of_a_watched_table_is_one_statement_and_its_outbox_row
    assert is_caught(test, monkeypatch)


def replaced_in_the_statement(old: str, new: str, patch: Patch) -> None:
    """Change the part of a statement that writes its outbox row."""
    around = statement_outbox.StatementOutbox.around

    def mutant(self: Any, *arguments: Any) -> str:
        text = around(self, *arguments)
        assert old in text
        return text.replace(old, new)

    patch.setattr(statement_outbox.StatementOutbox, "around", mutant)


@pytest.mark.parametrize(
    ("old", "new", "way"),
    [
        pytest.param("HAVING count(*) > 0", "HAVING count(*) > 9", "save", id="no row"),
        pytest.param(" IS NOT NULL)", " IS NULL)", "update of the key", id="no old values"),
        pytest.param(" IS DISTINCT FROM ", " IS NOT DISTINCT FROM ", "update of the key", id="no new values"),
    ],
)
def test_an_outbox_row_of_a_statement_that_names_too_little(
    old: str, new: str, way: str, monkeypatch: Patch
) -> None:
    """If the writer dies, something stays cached that is wrong."""
    replaced_in_the_statement(old, new, monkeypatch)
    test = test_statement_outbox.test_the_relay_finishes_what_a_dead_writer_has_written
    with monkeypatch.context() as inner:
        assert is_caught(test, way, inner)


def only_the_first_outbox_row(patch: Patch) -> None:
    """The writer forgets that a large statement has written several."""
    delete_stored = writes.delete_stored
    patch.setattr(
        writes,
        "delete_stored",
        lambda changes, pks, using, **options: delete_stored(changes, pks[:1], using, **options),
    )


def lookups_before_the_change_only(patch: Patch) -> None:
    """The writer takes every changed row for one whose keys stay the same."""
    changed_rows = stored_changes._changed_rows
    patch.setattr(
        stored_changes,
        "_changed_rows",
        lambda *arguments, **options: [
            row._replace(new=row.old) for row in changed_rows(*arguments, **options)
        ],
    )


@pytest.mark.parametrize(
    ("mutant", "way"),
    [(only_the_first_outbox_row, "update of all"), (lookups_before_the_change_only, "update")],
)
def test_a_large_statement_whose_rows_are_not_all_read(
    mutant: Callable[[Patch], None], way: str, monkeypatch: Patch
) -> None:
    """What it changed stays cached."""
    monkeypatch.setattr(statement_outbox, "ROWS_PER_OUTBOX_ROW", 1)
    monkeypatch.setattr(statement_outbox, "RETURNED_ROWS", 0)
    mutant(monkeypatch)
    test = test_statement_outbox.test_rows_that_are_not_returned_are_read_from_the_outbox
    with monkeypatch.context() as inner:
        assert is_caught(test, way, old_rows.POSTGRES_18, inner)


def test_outbox_rows_without_the_tags_that_protect_any_value(
    articles: list[Article],  # noqa: F811
    monkeypatch: Patch,
) -> None:
    """A relay may delete a tag before a value of another outbox row."""
    monkeypatch.setattr(pending_deletes, "ROWS_OF_UNIT", 2)
    monkeypatch.setattr(key_parts, "MOST_KEYS", 20)
    with monkeypatch.context() as inner:
        inner.setattr(key_parts.KeyParts, "of_outbox_rows", lambda parts, _: parts.parts)
        test = test_transactions.test_a_transaction_of_many_keys_writes_several_outbox_rows
        assert is_caught(test, articles, inner)


def test_deletes_in_the_order_of_the_callbacks(article: Article, monkeypatch: Patch) -> None:  # noqa: F811
    """A callback that precedes the write reads the old row."""
    run = transactions.TransactionDeletes.after_commit
    monkeypatch.setattr(transactions.TransactionDeletes, "after_commit", lambda _: None)
    monkeypatch.setattr(transactions.TransactionDeletes, "_run_captured", run)
    assert is_caught(test_transactions.test_a_callback_that_precedes_the_write_reads_the_new_row, article)


def test_a_quarantine_after_the_commit(
    article: Article,  # noqa: F811
    before_commit: Any,  # noqa: F811
    monkeypatch: Patch,
) -> None:
    """For a moment the old row is cached, although the new one is committed."""
    monkeypatch.setattr(Article.cached, "is_strict", True)
    monkeypatch.setattr(pending_deletes.PendingDeletes, "quarantine", lambda _: None)
    test = test_strict.test_a_strict_key_is_in_quarantine_while_its_row_is_committed
    assert is_caught(test, Article.cached, article, before_commit, False)


def test_a_commit_in_doubt_that_ends_the_quarantine(article: Article, monkeypatch: Patch) -> None:  # noqa: F811
    """A reader may fill the old row before the database has decided."""
    monkeypatch.setattr(Article.cached, "is_strict", True)
    monkeypatch.setattr(pending_deletes.PendingDeletes, "leave_quarantines", lambda _: None)
    with monkeypatch.context() as patch:
        assert is_caught(
            test_strict.test_a_commit_in_doubt_leaves_the_quarantine, Article.cached, article, patch
        )


def test_a_transaction_past_django_without_outbox_rows(article: Article, monkeypatch: Patch) -> None:  # noqa: F811
    """The commit is not seen, so nothing deletes the keys."""
    monkeypatch.setattr(transactions.TransactionDeletes, "write_outbox_row", lambda _: None)
    assert is_caught(test_transactions.test_the_relay_deletes_what_a_lost_connection_has_committed, article)


def test_a_transaction_past_django_whose_end_is_not_noticed(article: Article, monkeypatch: Patch) -> None:  # noqa: F811
    """The keys wait for the relay."""
    monkeypatch.setattr(transactions, "_delete_if_ended", lambda *_, **__: None)
    test = test_transactions.test_a_transaction_past_django
    assert is_caught(test, article, test_transactions.begun_by_driver, test_transactions.save)
