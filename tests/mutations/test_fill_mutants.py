"""Mutants of the rules of fills: each breaks one rule, and a named test must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from asgiref.sync import async_to_sync

from cachebackend.backend import fill_rules, guarded_loads, loaders, open_transactions
from cachebackend.backend.fill_rules import Changes
from cachebackend.backend.open_transactions import OpenTransaction
from cachebackend.invalidation import transactions
from cachebackend.protocol import Unfilled
from tests.integration import (
    fill_readers,
    test_fill_rules,
    test_fills_after_raw_sql,
    test_fills_after_rollbacks,
    test_fills_from_snapshots,
)
from tests.mutations.test_mutants import is_caught
from tests.shop.models import Author

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes", "lease_on_get"),
    pytest.mark.postgres,
]
lease_on_get = fill_readers.lease_on_get
Patch = pytest.MonkeyPatch
#: Breaks a rule.
Mutant: TypeAlias = Callable[[Patch], None]
#: Calls a test with a row, a reader and how it reads.
Test: TypeAlias = Callable[[Author, Any, Any], None]


def no_look_at_changes(patch: Patch) -> None:
    """A loader that may read anything is stored from a transaction that wrote."""
    patch.setattr(fill_rules, "_changes", lambda *_, **__: Changes.NOTHING)


def no_look_at_changes_of_a_row(patch: Patch) -> None:
    """The row that a transaction has changed is read from the cache, and stored."""
    patch.setattr(fill_rules, "changed_keys", lambda *_: set())
    patch.setattr("cachebackend.managers.reads.changed_keys", lambda *_: set())


def no_look_at_changes_of_the_loader(patch: Patch) -> None:
    """The changes are asked before the load only."""

    def guarded(loader: Any, *args: Any) -> Any:
        may_fill = fill_rules._may_fill()
        value = loader(*args)
        return value if may_fill else Unfilled(value)

    patch.setattr(fill_rules, "_guarded", guarded)


def only_the_default_connection(patch: Patch) -> None:
    """The transactions of other databases are not looked at."""
    patch.setattr(
        fill_rules,
        "connections_in_transactions",
        lambda: [each for each in open_transactions.connections_in_transactions() if each.alias == "default"],
    )


def no_snapshot_is_old(patch: Patch) -> None:
    """The isolation level is not looked at."""
    patch.setattr(fill_rules, "_reads_committed", lambda _: True)


def no_statement_takes_a_snapshot(patch: Patch) -> None:
    """Statements before the load are not counted."""
    patch.setattr(OpenTransaction, "has_begun", lambda _: False)


def no_look_at_trigger_rows(patch: Patch) -> None:
    """Raw SQL is seen at the commit only."""
    patch.setattr(transactions, "may_have_trigger_rows", lambda _: False)


def no_question_before_a_fill(patch: Patch) -> None:
    """Only what the statements show counts."""
    ask = fill_rules._pending_keys
    patch.setattr(fill_rules, "_pending_keys", lambda connection, _: ask(connection, False))


def only_transactions_of_django(patch: Patch) -> None:
    """The driver is not asked whether a transaction is open."""

    def is_in_transaction(connection: Any) -> bool:
        return bool(connection.in_atomic_block or not connection.autocommit)

    for module in (open_transactions, fill_rules, transactions):
        patch.setattr(module, "is_in_transaction", is_in_transaction)


def trigger_rows_lost_with_a_savepoint(patch: Patch) -> None:
    """The rollback of a savepoint does not count as a change."""
    follow_savepoints_but(patch, "ROLLBACK")


def a_savepoint_does_not_hide_one_of_its_name(patch: Patch) -> None:
    """A savepoint after changes leaves its name with those before which there were none."""
    follow_savepoints_but(patch, "SAVEPOINT")


def follow_savepoints_but(patch: Patch, ignored: str) -> None:
    """Let a transaction with changes ignore one of the statements of savepoints."""
    follow = OpenTransaction._follow_savepoint

    def follow_others(self: OpenTransaction, action: str, name: str) -> None:
        if action != ignored or not self.has_changes:
            follow(self, action, name)

    patch.setattr(OpenTransaction, "_follow_savepoint", follow_others)


def no_rollback_is_remembered(patch: Patch) -> None:
    """What was computed from lost changes is stored after the rollback."""
    patch.setattr(OpenTransaction, "_note_rollback", lambda _: None)


def no_rollback_to_a_savepoint_is_remembered(patch: Patch) -> None:
    """Only the end of a transaction counts."""
    patch.setattr(open_transactions, "rolls_back", lambda _: False)


def no_delete_after_a_refresh(patch: Patch) -> None:
    """A refresh from a transaction leaves what others store before the commit."""
    patch.setattr("cachebackend.decorators.databases_with_changes", list)


def changed(author: Author, reader: Any, read: Any) -> None:
    test_fill_rules.test_what_a_transaction_has_changed_is_not_stored(author, reader, read, False)


def changed_elsewhere(author: Author, _: Any, read: Any) -> None:
    test_fill_rules.test_a_change_on_another_connection_is_not_stored(author, read)


def changed_by_the_loader(*_: Any) -> None:
    test_fill_rules.test_a_loader_that_writes_is_not_stored()


def snapshot(author: Author, _: Any, read: Any) -> None:
    test_fills_from_snapshots.test_a_snapshot_is_not_stored(author, read, "REPEATABLE READ")


def raw(author: Author, reader: Any, read: Any) -> None:
    test_fills_after_raw_sql.test_what_raw_sql_has_changed_is_not_stored(author, reader, read)


def unseen(author: Author, reader: Any, read: Any) -> None:
    rename = test_fills_after_raw_sql.rename_by_driver
    test_fills_after_raw_sql.test_what_no_statement_shows_is_not_stored(author, rename, reader, read)


def past_django(author: Author, reader: Any, read: Any) -> None:
    test_fills_after_raw_sql.test_what_a_transaction_past_django_has_changed_is_not_stored(
        author, reader, read
    )


def savepoint(author: Author, reader: Any, read: Any) -> None:
    test_fills_after_raw_sql.test_a_savepoint_does_not_hide_what_raw_sql_changed_before_it(
        author, reader, read
    )


def savepoint_of_the_same_name(author: Author, reader: Any, read: Any) -> None:
    test_fills_after_raw_sql.test_a_savepoint_of_the_same_name_hides_no_changes(author, reader, read)


def refreshed(author: Author, *_: Any) -> None:
    test_fill_rules.test_a_refresh_in_a_transaction_is_a_miss_after_the_commit(author)


def lost(author: Author, *_: Any) -> None:
    test = test_fills_after_rollbacks.test_a_value_of_a_transaction_that_was_rolled_back_is_not_set
    test(author, test_fills_after_rollbacks.rolled_back, False)


def lost_to_a_savepoint(author: Author, *_: Any) -> None:
    test = test_fills_after_rollbacks.test_a_value_of_a_transaction_that_was_rolled_back_is_not_set
    test(author, test_fills_after_rollbacks.rolled_back_to_a_savepoint, False)


def lost_by_the_loader(author: Author, *_: Any) -> None:
    test_fills_after_rollbacks.test_a_loader_that_rolls_back_what_it_wrote_is_not_stored(
        author, test_fills_after_rollbacks.rolled_back
    )


ROWS, LOADERS = fill_readers.Rows, fill_readers.GetOrSet
LEASES = fill_readers.LeaseOnGet
CASES: list[tuple[Mutant, Test, Any]] = [
    (no_look_at_changes, changed, LOADERS),
    (no_look_at_changes, changed, LEASES),
    (no_look_at_changes_of_a_row, changed, ROWS),
    (no_look_at_changes_of_the_loader, changed_by_the_loader, LOADERS),
    (only_the_default_connection, changed_elsewhere, LOADERS),
    (no_snapshot_is_old, snapshot, ROWS),
    (no_snapshot_is_old, snapshot, LOADERS),
    (no_snapshot_is_old, snapshot, LEASES),
    (no_statement_takes_a_snapshot, snapshot, ROWS),
    (no_look_at_trigger_rows, raw, ROWS),
    (no_look_at_trigger_rows, raw, LOADERS),
    (no_question_before_a_fill, unseen, ROWS),
    (no_question_before_a_fill, unseen, LOADERS),
    (no_question_before_a_fill, unseen, LEASES),
    (only_transactions_of_django, past_django, ROWS),
    (only_transactions_of_django, past_django, LOADERS),
    (trigger_rows_lost_with_a_savepoint, savepoint, ROWS),
    (a_savepoint_does_not_hide_one_of_its_name, savepoint_of_the_same_name, ROWS),
    (no_rollback_is_remembered, lost, LEASES),
    (no_rollback_is_remembered, lost_by_the_loader, LOADERS),
    (no_rollback_to_a_savepoint_is_remembered, lost_to_a_savepoint, LEASES),
    (no_delete_after_a_refresh, refreshed, LOADERS),
]


@pytest.mark.parametrize(("mutant", "test", "reader"), CASES, ids=lambda each: each.__name__)
def test_each_mutant_is_caught(author: Author, patch: Patch, mutant: Mutant, test: Test, reader: Any) -> None:
    """In blocking code."""
    mutant(patch)
    assert is_caught(test, author, reader(), reader().read)


@pytest.mark.parametrize(("test", "reader"), [(changed, LOADERS), (snapshot, LOADERS), (changed, LEASES)])
def test_the_thread_of_the_event_loop_is_not_enough(
    author: Author, patch: Patch, test: Test, reader: Any
) -> None:
    """The transaction is open in the thread in which coroutines use the database."""

    async def in_event_loop(question: Any, _: Any) -> Any:
        return question()

    patch.setattr(fill_rules, "_in_both_threads", in_event_loop)
    assert is_caught(test, author, reader(), async_to_sync(reader().aread))


def test_a_lease_that_is_not_needed_is_waited_for(author: Author, patch: Patch) -> None:
    """The transaction is not asked whether it may store, neither before the read nor before the wait."""
    patch.setattr(guarded_loads, "any_changed", lambda: False)
    patch.setattr(loaders, "MAY_FILL", None)
    test = test_fill_rules.test_a_transaction_that_may_not_store_does_not_wait
    with pytest.MonkeyPatch.context() as inner:
        assert is_caught(test, author, LOADERS(), LOADERS().read, inner)


@pytest.fixture
def author() -> Author:
    """A row."""
    return Author.objects.create(name="First")


@pytest.fixture
def patch(monkeypatch: Patch) -> Patch:
    """The patch of a mutant."""
    return monkeypatch
