"""The rules of fills, for every way to read that loads: what is stored, and what a transaction reads."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

import cachebackend
from cachebackend import cached, drivers
from cachebackend.backend import fill_rules
from cachebackend.models import OutboxRow
from tests.integration.fill_readers import (
    AUTHOR,
    READERS,
    CachedFunctions,
    GetOrSet,
    GetOrSetMany,
    LeaseOnGet,
    LeaseOnGetMany,
    Lookups,
    ManyRows,
    Read,
    RolledBackError,
    Rows,
    assert_all_read,
    author,
    elsewhere,
    has_tags,
    lease_all_keys,
    lease_on_get,
    loads,
    name_of,
    read,
    reader,
    ring,
    with_postgres,
)
from tests.shop.models import Author
from tests.upserts import unique_fields
from tests.zoo.models import Seat

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes", "lease_on_get"),
]


@pytest.mark.parametrize("is_cached", [False, True])
def test_what_a_transaction_has_changed_is_not_stored(
    author: Author, reader: Any, read: Read, is_cached: bool
) -> None:
    """It reads its own change, also if the old value is cached; after its rollback all read the old value."""
    if is_cached and not has_tags(reader):
        pytest.skip("no write deletes a plain key")
    if is_cached:
        read(author)
    with pytest.raises(RolledBackError), transaction.atomic():
        Author.objects.filter(pk=author.pk).update(name="Lost")
        assert read(author) == "Lost"
        assert elsewhere(lambda: read(author)) == "First"
        if has_tags(reader):  # what another reader has stored in between is not read
            assert read(author) == "Lost"
        raise RolledBackError
    assert_all_read(read, author, "First")


@with_postgres
def test_the_old_lookup_value_of_an_upserted_row_is_not_stored_as_absent() -> None:
    """The INSERT does not return the row as it was, so no pending delete names the old value."""
    Seat.objects.create(pk=1, hall=1, name="old")
    with pytest.raises(RolledBackError), transaction.atomic():
        row = Seat(pk=1, hall=1, name="new")
        Seat.objects.bulk_create(
            [row], update_conflicts=True, update_fields=["name"], unique_fields=unique_fields("pk")
        )
        with pytest.raises(Seat.DoesNotExist):
            Seat.cached.get(name="old")
        raise RolledBackError
    assert Seat.cached.get(name="old").pk == 1


def test_a_committed_change_is_read_after_the_commit(author: Author, reader: Any, read: Read) -> None:
    """Also if others have read and stored the old value in between."""
    with transaction.atomic():
        Author.objects.filter(pk=author.pk).update(name="New")
        read(author)
        elsewhere(lambda: read(author))
    if not has_tags(reader):
        ring("leasing").delete("name")
    assert_all_read(read, author, "New")


def test_a_transaction_that_has_only_read_stores_what_it_reads(author: Author) -> None:
    """By raw SQL, too, and under a savepoint; the question for the rows of triggers is not a change."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT name FROM {AUTHOR}")
        transaction.savepoint_rollback(connection.savepoint())
        for key in ("one", "two"):
            ring().get_or_set(key, lambda: 1)
        assert Author.cached.get(pk=author.pk).name == "First"
    assert ring().get_many(["one", "two"]) == {"one": 1, "two": 1}
    assert ring().get(Author.cached.key_of(pk=author.pk)) is not None


@with_postgres
def test_a_hit_asks_no_database(author: Author) -> None:
    """In autocommit, and in a transaction that has only read."""
    Author.cached.get(pk=author.pk)
    with CaptureQueriesContext(connection) as captured:
        Author.cached.get(pk=author.pk)
    assert len(captured) == 0
    with transaction.atomic():
        Author.objects.count()
        with CaptureQueriesContext(connection) as captured:
            Author.cached.get(pk=author.pk)
    assert [query["sql"] for query in captured if query["sql"] != "COMMIT"] == []


def test_a_transaction_that_may_not_store_does_not_wait(
    author: Author, reader: Any, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another reader holds the lease: the transaction loads at once."""
    monkeypatch.setattr(drivers.time, "sleep", lambda _: pytest.fail("waited"))
    monkeypatch.setattr(drivers.asyncio, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(RolledBackError), transaction.atomic():
        Author.objects.filter(pk=author.pk).update(name="Lost")
        lease_all_keys(author)
        assert read(author) == "Lost"
        raise RolledBackError


@pytest.mark.parametrize("reader", [LeaseOnGet, LeaseOnGetMany], indirect=True)
def test_a_lease_from_before_a_change_is_released(author: Author, read: Read) -> None:
    """The transaction does not store what it reads after the change, and no reader waits for its lease."""
    cache = ring("leasing")
    with transaction.atomic():
        assert cache.get("name") is None
        Author.objects.filter(pk=author.pk).update(name="Second")
        assert cache.get("name") is None
        assert cache.get_many(["name"]) == {}
        read(author)
    cache.close()
    key = cache.key_bytes("name")
    assert cache.client.nodes[cache.client.ring.owner(key)].call((b"GET", key)) is None


@pytest.mark.parametrize("reader", [GetOrSet, CachedFunctions, GetOrSetMany], indirect=True)
def test_a_change_on_another_connection_is_not_stored(author: Author, read: Read) -> None:
    """A loader may read any database, so every open transaction of the thread counts."""
    with pytest.raises(RolledBackError), transaction.atomic(using="lite"):
        Author.objects.using("lite").create(name="Lost")
        read(author)
        raise RolledBackError
    loads.clear()
    read(author)
    assert loads == [author.pk]


def test_a_loader_that_writes_is_not_stored() -> None:
    """The transaction in which it writes may roll back."""
    with pytest.raises(RolledBackError), transaction.atomic():
        ring().get_or_set("one", lambda: Author.objects.create(name="One").pk)
        raise RolledBackError
    with pytest.raises(RolledBackError), transaction.atomic():
        ring().get_or_set_many(["many"], lambda names: {"many": Author.objects.create(name="Many").pk})
        raise RolledBackError
    assert ring().get_many(["one", "many"]) == {}


@with_postgres
def test_a_failed_transaction_stores_nothing_and_runs_no_query(author: Author) -> None:
    """Postgres refuses every query until the rollback; a loader without queries still works."""
    with pytest.raises(RolledBackError), transaction.atomic():
        with pytest.raises(IntegrityError):
            Author.objects.create(name="First")
        assert ring().get_or_set("computed", lambda: 1) == 1
        raise RolledBackError
    assert ring().get("computed") is None


def test_a_database_without_outbox_is_not_asked_for_trigger_rows(author: Author, settings: Any) -> None:
    """The query would fail, and end the transaction."""
    settings.DATABASE_ROUTERS = [f"{__name__}.NoOutbox"]
    with transaction.atomic(), CaptureQueriesContext(connection) as captured:
        Author.objects.filter(pk=author.pk).update(name="New")
        assert Author.cached.get(pk=author.pk).name == "New"
    assert not [query for query in captured if OutboxRow._meta.db_table in query["sql"]]


class NoOutbox:
    """A router that forbids the outbox's table."""

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:
        return False if app_label == "cachebackend" else None


def test_a_refresh_in_a_transaction_is_a_miss_after_the_commit(author: Author) -> None:
    """A reader before the commit may have stored the old value again, and the value has no tag."""
    assert untagged_name(author.pk) == "First"
    with transaction.atomic():
        Author.objects.filter(pk=author.pk).update(name="New")
        assert untagged_name.refresh(author.pk) == "New"
        assert elsewhere(lambda: untagged_name(author.pk)) == "First"
    assert untagged_name(author.pk) == "New"


@cached(600)
def untagged_name(pk: int) -> str:
    return name_of(pk)


@pytest.mark.parametrize("pks", [[1001], [1001, 1002]])
def test_a_transaction_that_changed_rows_stores_no_absence(
    author: Author, monkeypatch: pytest.MonkeyPatch, pks: list[int]
) -> None:
    """What is absent in the transaction may exist after its rollback; the next read loads it again."""
    monkeypatch.setattr(Author.cached, "missing_timeout", 60)
    with transaction.atomic():
        author.save()
        assert Author.cached.in_bulk(pks) == {}
    for queries in (1, 0):
        with CaptureQueriesContext(connection) as captured:
            assert Author.cached.in_bulk(pks) == {}
        assert len(captured) == queries


def test_a_transaction_that_only_reads_stores_what_it_loads(author: Author, read: Read) -> None:
    """At READ COMMITTED, and on SQLite with a rollback journal."""
    with transaction.atomic():
        assert Author.objects.count() == 1
        for _ in range(2):  # a lookup is stored by the first read, its row by the second one
            assert read(author) == "First"
    loads.clear()
    with CaptureQueriesContext(connection) as captured:
        assert read(author) == "First"
    assert (loads, len(captured)) == ([], 0)


@with_postgres
def test_atomic_requests_that_store_nothing_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the reason."""
    fill_rules._logged.clear()
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        with caplog.at_level(logging.WARNING, "cachebackend"):
            for number in range(2):
                with transaction.atomic():
                    with connection.cursor() as cursor:
                        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    ring().get_or_set(number, lambda: 1)
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "ATOMIC_REQUESTS of database 'default'"
    ]


def test_every_read_that_loads_has_a_reader() -> None:
    """Each function that runs a loading operation has a reader, and each rule is tested with it."""
    folder = Path(cachebackend.__file__).parent
    found = {
        f"{module}.{function.name}"
        for path in folder.rglob("*.py")
        if not (module := ".".join(path.relative_to(folder).with_suffix("").parts)).startswith(BELOW)
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and runs_a_load(function)
    }
    assert found == set().union(*(way.covers for way in READERS))


#: The packages that define the loading operations.
BELOW = ("client.", "protocol.")


LOADING = {"get_or_load", "get_or_load_many", "load_again", "get_and_lease", "get_many_and_lease"}


def runs_a_load(function: ast.AST) -> bool:
    """Return whether a function calls ``protocol.get_or_load``, ``client.get_or_load`` or the like."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in LOADING
        and ast.unparse(node.value).rpartition(".")[2] in {"protocol", "client"}
        for node in ast.walk(function)
    )


@pytest.mark.usefixtures("empty_nodes")
class TestInsideTestCase(TestCase):
    """Tests of a project: the transaction is never committed, and async tests run in its thread."""

    async def test_uncommitted_rows_are_read_and_not_stored(self) -> None:
        """By every reader, from an async test."""
        author = await Author.objects.acreate(name="Case")
        for way in (Rows(), Lookups(), ManyRows(), GetOrSet(), GetOrSetMany(), CachedFunctions()):
            with self.subTest(type(way).__name__):
                assert await way.aread(author) == "Case"
        assert await ring().aget(Author.cached.key_of(pk=author.pk)) is None
        assert await ring().aget("name") is None
