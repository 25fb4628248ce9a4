"""A value that was read in a snapshot, which may be older than the lease, is not stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from django.db import connection, connections, transaction

from cachebackend import drivers
from tests.integration.fill_readers import (
    Read,
    assert_all_read,
    author,
    functions,
    lease_all_keys,
    lease_on_get,
    read,
    reader,
    rename_elsewhere,
    ring,
    with_postgres,
)
from tests.shop.models import Author

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes", "lease_on_get"),
]


@with_postgres
@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("begin", ["django", "raw"])
def test_a_snapshot_that_no_statement_shows_is_not_stored(author: Author, read: Read, begin: str) -> None:
    """A function that was called past Django's wrappers took it, or the program began the transaction."""
    level = "REPEATABLE READ"
    with connection.cursor() as cursor:
        cursor.execute(f"SET default_transaction_isolation = '{level}'")
        with transaction.atomic() if begin == "django" else connection.connection.transaction():
            cursor.callproc("one") if begin == "django" else connection.connection.execute("SELECT 1")
            rename_elsewhere(author, "New")
            read(author)
        cursor.execute("RESET default_transaction_isolation")
    assert_all_read(read, author, "New")


@with_postgres
def test_a_snapshot_does_not_wait(author: Author, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not store what it waits to load, and its row locks would block others meanwhile."""
    monkeypatch.setattr(drivers.time, "sleep", lambda _: pytest.fail("waited"))
    monkeypatch.setattr(drivers.asyncio, "sleep", lambda _: pytest.fail("waited"))
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert Author.objects.count() == 1
        lease_all_keys(author)
        assert read(author) == "First"


@with_postgres
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_is_not_stored(author: Author, read: Read, level: str) -> None:
    """It may be older than the lease."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert Author.objects.count() == 1
        rename_elsewhere(author, "New")
        assert read(author) == "First"
    assert_all_read(read, author, "New")


@with_postgres
def test_the_isolation_level_is_asked_once_in_a_transaction(author: Author, read: Read) -> None:
    """And not before a statement ran, because it could not be set any more."""
    with transaction.atomic():
        ring().get_or_set("plain", lambda: 1)
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    queries: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        queries.append(sql)
        return execute(sql, params, many, context)

    with transaction.atomic(), connection.execute_wrapper(note):
        for number in range(3):
            ring().get_or_set(number, Author.objects.count)
        read(author)
    assert queries.count("SHOW transaction_isolation") == 1


@contextmanager
def write_ahead_log(alias: str) -> Iterator[Any]:
    """Let SQLite have a write-ahead log in a block, and yield the connection."""
    lite: Any = connections[alias]
    lite.close()
    with lite.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode=wal")
    try:
        yield lite
    finally:
        lite.transaction_mode = None
        with lite.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode=delete")
        lite.close()  # it takes the file for damaged by what it remembers of the log


def test_what_a_write_ahead_log_hides_is_not_stored(author: Author) -> None:
    """SQLite with a WAL reads a snapshot; a transaction that begins IMMEDIATE reads the newest rows."""
    with write_ahead_log("lite") as lite:
        for mode, is_stored in ((None, False), ("IMMEDIATE", True)):
            lite.transaction_mode = mode
            with transaction.atomic(using="lite"):
                Author.objects.using("lite").count()
                ring().get_or_set(mode, lambda: "loaded")
            assert (ring().get(mode) == "loaded") is is_stored


@pytest.mark.parametrize("block", [nullcontext, transaction.atomic], ids=["autocommit", "atomic"])
def test_what_an_open_statement_hides_is_not_stored(author: Author, read: Read, block: Any) -> None:
    """SQLite with a WAL keeps the snapshot until every row is read, outside of a transaction, too."""
    if connection.vendor != "sqlite":
        pytest.skip("needs a write-ahead log")
    Author.objects.bulk_create([Author(name=str(number)) for number in range(3)])
    with write_ahead_log("default"):
        rows = Author.objects.iterator(chunk_size=1)
        next(rows)
        rename_elsewhere(author, "New")
        with block():
            assert read(author) == "First"
        list(rows)
        assert_all_read(read, author, "New")


@pytest.mark.parametrize(("is_open", "has_log"), [(True, True), (True, False), (False, True)])
def test_an_open_statement_keeps_a_snapshot_of_a_write_ahead_log(is_open: bool, has_log: bool) -> None:
    """With a rollback journal nobody can commit while it is open; a value is stored as soon as none is."""
    Author.objects.using("lite").bulk_create([Author(name=str(number)) for number in range(3)])
    with write_ahead_log("lite") if has_log else nullcontext():
        rows = Author.objects.using("lite").iterator(chunk_size=1)
        next(rows)
        if not is_open:
            rows.close()
        ring().get_or_set("name", lambda: "loaded")
        list(rows)
        assert (ring().get("name") is None) is (is_open and has_log)
        ring().get_or_set("other", lambda: "loaded")
        assert ring().get("other") == "loaded"
