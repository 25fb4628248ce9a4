"""What is remembered of the statements of a transaction."""

from __future__ import annotations

import gc
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from cachebackend.backend import open_transactions
from cachebackend.backend.open_transactions import (
    OpenTransaction,
    any_begun,
    any_changed,
    any_open,
    is_aborted,
    is_in_transaction,
    is_unmanaged,
    rollbacks,
    was_rolled_back_since,
)


class FakeConnection:
    """A database connection that runs statements through its wrappers, as Django does."""

    vendor = "sqlite"
    needs_rollback = closed_in_transaction = False

    def __init__(self) -> None:
        self.connection: Any = SimpleNamespace(in_transaction=False)
        self.execute_wrappers: list[Any] = []
        self.in_atomic_block, self.autocommit, self.commit_on_exit = True, False, True

    def run(self, sql: Any, *, begins: bool = False, ends: bool = False, fails: bool = False) -> None:
        def execute(*_: Any) -> None:
            if begins:
                self.connection.in_transaction = True
            if fails:
                raise ConnectionError
            if ends:
                self.connection.in_transaction = False

        for wrapper in self.execute_wrappers:
            wrapper(execute, sql, None, False, {"connection": self})

    def commit(self) -> None: ...

    def close(self) -> None: ...

    def rollback(self) -> None:
        raise ConnectionError


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A connection whose transaction has just begun; no other transaction is open."""
    for name in ("_connections", "_begun", "_changed"):
        monkeypatch.setattr(open_transactions, name, set())
    connection = FakeConnection()
    connection.in_atomic_block, connection.autocommit = False, True
    OpenTransaction.of(connection)  # type: ignore[arg-type]  # a stand-in
    connection.in_atomic_block, connection.autocommit = True, False
    return connection


READS = [
    "SELECT 1 FROM t",
    "  select *\nfrom t",
    "(SELECT a FROM t) UNION (SELECT b FROM t)",
    "SAVEPOINT x",
    "RELEASE SAVEPOINT x",
    "SET TRANSACTION READ ONLY",
    "SHOW transaction_isolation",
    "PRAGMA journal_mode",
    "/* a comment; */ -- and another\nSELECT 1 FROM t;",
]
CHANGES: list[Any] = [
    "UPDATE t SET a = 1",
    "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
    "SELECT refresh_all()",
    "CALL p()",
    "SET LOCAL lock_timeout = 0; UPDATE t SET a = 1",
    "SELECT 1 FROM t; DELETE FROM t",
    "SAVEPOINT x; DELETE FROM t",
    "SET CONSTRAINTS ALL IMMEDIATE",
    "TRUNCATE t",
    b"UPDATE t SET a = 1",
]


@pytest.mark.parametrize("sql", READS)
def test_a_statement_that_only_reads_begins_the_transaction(connection: Any, sql: str) -> None:
    """And changes nothing."""
    connection.run(sql)
    assert (any_begun(), any_changed()) == (True, False)
    assert OpenTransaction.of(connection).has_begun()


@pytest.mark.parametrize("sql", CHANGES)
def test_any_other_statement_may_have_changed_rows(connection: Any, sql: Any) -> None:
    """A call of a function too, and a statement that is not a string."""
    connection.run(sql)
    assert any_changed()
    assert OpenTransaction.of(connection).has_new_changes


def test_a_connection_that_is_closed_has_changed_nothing(connection: Any) -> None:
    """Without waiting for the garbage collector."""
    connection.run("DELETE FROM t")
    before = rollbacks()
    connection.close()  # as for SQLite in memory, which Django does not close
    assert any_changed()
    connection.closed_in_transaction = True
    connection.close()
    assert (any_begun(), any_changed(), rollbacks()) == (False, False, before + 1)


def test_a_connection_of_sqlite_that_another_thread_closes_is_in_no_transaction(connection: Any) -> None:
    """Each thread asks the connections of all; Django forgets the driver's connection after it is closed."""
    connection.in_atomic_block, connection.autocommit = False, True
    connection.Database, connection.connection = sqlite3, sqlite3.connect(":memory:")
    connection.connection.execute("BEGIN")
    assert any_open()
    connection.connection.close()
    assert not any_open()


@pytest.mark.parametrize("name", ["x", '"x"', "`x`"])
def test_a_rollback_to_a_savepoint_before_all_changes_leaves_none(connection: Any, name: str) -> None:
    """So the tests of a TestCase do not count the changes of each other."""
    connection.run(f"SAVEPOINT {name}")
    connection.run("SAVEPOINT y")
    connection.run("DELETE FROM t")
    connection.run("RELEASE SAVEPOINT y")
    assert any_changed()
    connection.run(f"ROLLBACK TO SAVEPOINT {name}")
    transaction = OpenTransaction.of(connection)
    assert (any_begun(), any_changed(), transaction.has_new_changes) == (True, False, False)


@pytest.mark.parametrize("sql", ["ROLLBACK TO x", "ROLLBACK WORK TO SAVEPOINT x;", "rollback to unknown"])
def test_a_rollback_to_a_savepoint_after_changes_is_a_change(connection: Any, sql: str) -> None:
    """They may have been noticed under the savepoint, and are unknown again."""
    transaction = OpenTransaction.of(connection)
    connection.run("DELETE FROM t")
    connection.run("SAVEPOINT x")
    transaction.changes_are_known()
    connection.run(sql)
    assert (transaction.has_new_changes, any_changed()) == (True, True)


@pytest.mark.parametrize("first", ["SAVEPOINT x", "SAVEPOINT X;"])
@pytest.mark.parametrize(
    "second",
    [
        "SAVEPOINT x",
        'savepoint "x"',
        "SAVEPOINT /* a comment */ x",
        "-- a comment\nSAVEPOINT x",
        "UPDATE t SET a = 1; SAVEPOINT x",
        b"SAVEPOINT x",
        SimpleNamespace(as_string=lambda _: "SAVEPOINT x"),
        object(),
    ],
    ids=["name", "quoted", "comment", "comment before", "several", "bytes", "composed", "object"],
)
def test_a_savepoint_after_changes_hides_one_of_its_name(connection: Any, first: str, second: Any) -> None:
    """A rollback to the name leaves the changes, in whichever form the second savepoint is made."""
    connection.run(first)
    connection.run("DELETE FROM t")
    connection.run(second)
    connection.run("ROLLBACK TO SAVEPOINT x")
    assert any_changed()


def test_a_failed_rollback_to_a_savepoint_leaves_the_changes(connection: Any) -> None:
    """Some databases do not end the transaction then."""
    connection.run("SAVEPOINT x")
    connection.run("DELETE FROM t")
    with pytest.raises(ConnectionError):
        connection.run("ROLLBACK TO SAVEPOINT x", fails=True)
    assert any_changed()


def test_a_transaction_that_sets_what_results_depend_on_has_results_of_its_own(connection: Any) -> None:
    """Until it ends, or is rolled back to a savepoint before that."""
    transaction = OpenTransaction.of(connection)
    connection.run("SAVEPOINT x")
    connection.run("SET LOCAL app.tenant = '7'")
    assert (transaction.has_own_settings, any_changed()) == (False, False)
    connection.run("SET LOCAL TIME ZONE 'Asia/Tokyo'")
    assert (transaction.has_own_settings, any_changed()) == (True, True)
    connection.run("ROLLBACK TO SAVEPOINT x")
    assert not transaction.has_own_settings
    connection.run("SET LOCAL TIME ZONE 'Asia/Tokyo'")
    connection.commit()
    assert not transaction.has_own_settings


def test_mysql_keeps_a_setting_when_a_savepoint_is_rolled_back(connection: Any) -> None:
    """It is one of the session."""
    connection.vendor = "mysql"
    connection.run("SAVEPOINT x")
    connection.run("SET sql_select_limit = 1")
    connection.run("ROLLBACK TO SAVEPOINT x")
    assert (OpenTransaction.of(connection).has_own_settings, any_changed()) == (True, True)


def test_a_savepoint_of_an_earlier_transaction_is_unknown(connection: Any) -> None:
    """Another one may have its name."""
    connection.run("SAVEPOINT x")
    connection.commit()
    connection.run("DELETE FROM t")
    connection.run("SAVEPOINT x")
    connection.run("ROLLBACK TO SAVEPOINT x")
    assert any_changed()


def test_known_changes_are_not_new(connection: Any) -> None:
    """The transaction has still changed rows; the next statement may change more."""
    transaction = OpenTransaction.of(connection)
    connection.run("DELETE FROM t")
    transaction.changes_are_known()
    assert (transaction.has_new_changes, any_changed()) == (False, True)
    connection.run("DELETE FROM t")
    assert transaction.has_new_changes


def test_the_end_of_a_transaction_forgets_its_statements(connection: Any) -> None:
    """By a commit, and by a rollback that fails."""
    transaction = OpenTransaction.of(connection)
    for end in ("commit", "rollback"):
        connection.run("DELETE FROM t")
        transaction.sees_commits = False
        if end == "rollback":
            with pytest.raises(ConnectionError):
                connection.rollback()
        else:
            connection.commit()
        assert (any_begun(), any_changed()) == (False, False)
        assert (transaction.has_begun(), transaction.has_new_changes) == (False, False)
        assert transaction.sees_commits is None


def test_statements_in_autocommit_are_not_remembered(connection: Any) -> None:
    """Each is committed when it ends."""
    connection.in_atomic_block, connection.autocommit = False, True
    connection.run("DELETE FROM t")
    assert (any_begun(), any_changed()) == (False, False)


@pytest.mark.parametrize(
    ("sql", "may_change", "is_set"),
    [
        ("BEGIN", False, False),
        ("/* a; b */ begin isolation level serializable;", False, False),
        ("BEGIN; SELECT 1 FROM t", False, False),
        ("START TRANSACTION; UPDATE t SET a = 1", True, False),
        ("BEGIN; SELECT 1 FROM t; UPDATE t SET a = 1", True, False),
        ("UPDATE t SET a = 1; BEGIN", True, False),
        ("BEGIN; SET LOCAL TIME ZONE 'UTC'", True, True),
        (object(), True, False),
    ],
)
def test_statements_after_begin_are_those_of_the_transaction(
    connection: Any, sql: Any, may_change: bool, is_set: bool
) -> None:
    """They are in one text, before which no transaction is open."""
    connection.in_atomic_block, connection.autocommit = False, True
    connection.run(sql, begins=True)
    transaction = OpenTransaction.of(connection)
    assert (transaction.has_changes, transaction.has_own_settings) == (may_change, is_set)
    assert transaction.has_unknown_changes == (may_change and not is_set)
    connection.run("COMMIT", ends=True)
    assert (any_begun(), any_changed()) == (False, False)


def test_statements_after_begin_may_have_run_before_one_fails(connection: Any) -> None:
    connection.in_atomic_block, connection.autocommit = False, True
    with pytest.raises(ConnectionError):
        connection.run("BEGIN; UPDATE t SET a = 1", begins=True, fails=True)
    assert any_changed()


def test_the_earlier_statements_of_a_transaction_are_unknown(connection: Any) -> None:
    """A connection that is seen first in the middle of a transaction may have changed anything."""
    transaction = OpenTransaction.of(FakeConnection())  # type: ignore[arg-type]  # a stand-in
    assert transaction.has_begun()
    assert transaction.has_new_changes


def test_a_connection_that_no_longer_exists_is_forgotten(connection: Any) -> None:
    """The thread ended in the middle of a transaction."""
    OpenTransaction.of(FakeConnection())  # type: ignore[arg-type]  # a stand-in
    gc.collect()
    assert (any_begun(), any_changed()) == (False, False)


def test_a_transaction_that_must_be_rolled_back_is_aborted(connection: Any) -> None:
    """Django says so, or Postgres does."""
    assert not is_aborted(connection)
    connection.needs_rollback = True
    assert is_aborted(connection)


def lose(connection: Any, how: str) -> None:
    """Lose the changes of a transaction."""
    if how == "savepoint":
        connection.run("ROLLBACK TO SAVEPOINT x")
    elif how == "new connection":
        open_transactions._watch(connection=connection)
    else:
        with pytest.raises(ConnectionError):
            getattr(connection, how)()


@pytest.mark.parametrize("how", ["rollback", "savepoint", "failed commit", "new connection"])
def test_a_rollback_of_changes_is_remembered(
    connection: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Also one that a failed commit, or the end of the connection, implies."""
    if how == "failed commit":
        connection.commit = OpenTransaction.of(connection)._ending(connection.rollback, commits=True)
        how = "commit"
    monkeypatch.setattr(open_transactions, "connections", FakeConnections([connection]))
    connection.run("DELETE FROM t")
    before = rollbacks()
    lose(connection, how)
    assert was_rolled_back_since(before)
    assert not was_rolled_back_since(rollbacks())


def test_a_rollback_of_reads_and_a_commit_are_not_remembered(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was read is lost with them. Nor is the rollback of another thread's connection."""
    monkeypatch.setattr(open_transactions, "connections", FakeConnections([connection]))
    before = rollbacks()
    connection.run("SELECT 1 FROM t")
    lose(connection, "rollback")
    connection.run("DELETE FROM t")
    connection.commit()
    assert rollbacks() == before
    other = FakeConnection()
    OpenTransaction.of(other)  # type: ignore[arg-type]  # a stand-in
    lose(other, "rollback")
    assert rollbacks() == before + 1
    assert not was_rolled_back_since(before)


class FakeConnections:
    """The database connections of a thread."""

    def __init__(self, connections: list[Any]) -> None:
        self._connections = connections

    def all(self, *, initialized_only: bool) -> list[Any]:
        assert initialized_only
        return self._connections


def test_the_driver_is_asked_for_transactions_that_django_does_not_manage(connection: Any) -> None:
    """Their statements are remembered until a statement after which the driver has no transaction."""
    connection.in_atomic_block, connection.autocommit = False, True
    assert not any_open()
    connection.connection.in_transaction = True
    assert (any_open(), is_in_transaction(connection), is_unmanaged(connection)) == (True, True, True)
    connection.run("DELETE FROM t")
    assert any_changed()
    connection.run("COMMIT", ends=True)
    assert (any_open(), any_begun(), any_changed()) == (False, False, False)


def test_a_transaction_of_django_is_managed(connection: Any) -> None:
    """The driver has it open, too."""
    connection.connection.in_transaction = True
    assert (is_in_transaction(connection), is_unmanaged(connection)) == (True, False)


@pytest.mark.parametrize(
    ("status", "expected"), [(0, (False, False)), (1, (True, True)), (2, (True, False)), (3, (True, True))]
)
def test_the_states_of_a_postgres_connection(
    connection: Any, status: int, expected: tuple[bool, bool]
) -> None:
    """Idle, a statement runs, a transaction is open, it has failed."""
    connection.vendor = "postgresql"
    connection.connection = SimpleNamespace(info=SimpleNamespace(transaction_status=status))
    assert (OpenTransaction.of(connection).has_begun(), is_aborted(connection)) == expected


def test_connections_may_end_while_they_are_asked(connection: FakeConnection) -> None:
    """The garbage collector ends them: they refer to themselves. It may run at any allocation."""
    others, thresholds = [FakeConnection() for _ in range(30)], gc.get_threshold()
    for each in others:
        OpenTransaction.of(each)  # type: ignore[arg-type]  # a stand-in
        each.in_atomic_block = False
    connection.in_atomic_block = False
    try:
        for allocations in range(1, 20):
            gc.disable()
            OpenTransaction.of(FakeConnection())  # type: ignore[arg-type]  # a stand-in
            gc.set_threshold(gc.get_count()[0] + allocations, 1000, 1000)
            gc.enable()
            any_open()
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
