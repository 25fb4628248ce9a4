"""The rules of fills, for every way to read that loads: what is stored, and what a transaction reads."""

from __future__ import annotations

import ast
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import caches
from django.db import IntegrityError, connection, connections, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

import cachebackend
from cachebackend import RingCache, cached, drivers
from cachebackend.backend import fill_rules
from cachebackend.models import OutboxRow
from tests.shop.models import Author
from tests.upserts import unique_fields
from tests.zoo.models import Seat

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes", "lease_on_get"),
]
with_postgres = pytest.mark.postgres
AUTHOR = Author._meta.db_table


@pytest.fixture
def lease_on_get(settings: Any) -> None:
    """Give the site a second alias of the same nodes, whose misses acquire leases."""
    block = settings.CACHES["default"]
    leasing = block | {"OPTIONS": block.get("OPTIONS", {}) | {"lease_on_get": True}, "KEY_PREFIX": "leasing"}
    settings.CACHES = settings.CACHES | {"leasing": leasing}


@pytest.fixture
def author() -> Author:
    """A row of a model that is cached by primary key and by two lookups, and has triggers."""
    return Author.objects.create(name="First")


def name_of(pk: int) -> str:
    loads.append(pk)
    return Author.objects.values_list("name", flat=True).get(pk=pk)


async def async_name_of(pk: int) -> str:
    return await sync_to_async(name_of)(pk)


#: A call of a loader of this module, by primary key.
loads: list[int] = []
tags_of_author: Callable[[int], list[Author]] = lambda pk: [Author(pk=pk)]  # noqa: E731  # both decorators use it
cached_name = cached(600, tags=tags_of_author)(name_of)
async_cached_name = cached(600, tags=tags_of_author)(async_name_of)


def ring(alias: str = "default") -> RingCache:
    cache = caches[alias]
    assert isinstance(cache, RingCache)
    return cache


class Rows:
    """Rows by primary key."""

    covers: ClassVar = {"managers.reads._load"}

    def read(self, author: Author) -> str:
        return Author.cached.get(pk=author.pk).name

    async def aread(self, author: Author) -> str:
        return (await Author.cached.aget(pk=author.pk)).name


class Lookups:
    """Rows by a lookup."""

    covers: ClassVar = {"managers.reads._load"}

    def read(self, author: Author) -> str:
        return Author.cached.get(code=author.code).name

    async def aread(self, author: Author) -> str:
        return (await Author.cached.aget(code=author.code)).name


class ManyRows:
    """Many rows."""

    covers: ClassVar = {"managers.reads._load"}

    def read(self, author: Author) -> str:
        return Author.cached.in_bulk([author.pk])[author.pk].name

    async def aread(self, author: Author) -> str:
        return (await Author.cached.ain_bulk([author.pk]))[author.pk].name


class GetOrSet:
    """``get_or_set`` with a tag."""

    covers: ClassVar = {"backend.guarded_loads.get_or_load", "backend.guarded_loads._get_or_load"}

    def read(self, author: Author) -> str:
        return ring().get_or_set("name", lambda: name_of(author.pk), 600, tags=[author])

    async def aread(self, author: Author) -> str:
        return await ring().aget_or_set("name", lambda: async_name_of(author.pk), 600, tags=[author])


class GetOrSetMany:
    """``get_or_set_many`` with a tag."""

    covers: ClassVar = {"backend.guarded_loads._get_or_load_many"}

    def read(self, author: Author) -> str:
        pks = [author.pk]
        return ring().get_or_set_many(pks, lambda pks: {pk: name_of(pk) for pk in pks}, 600, tags=[author])[
            author.pk
        ]

    async def aread(self, author: Author) -> str:
        async def load(pks: list[int]) -> dict[int, str]:
            return {pk: await async_name_of(pk) for pk in pks}

        return (await ring().aget_or_set_many([author.pk], load, 600, tags=[author]))[author.pk]


class CachedFunctions:
    """``@cached`` with a tag."""

    covers: ClassVar = {"backend.guarded_loads.get_or_load", "backend.guarded_loads._get_or_load"}

    def read(self, author: Author) -> str:
        return cached_name(author.pk)

    async def aread(self, author: Author) -> str:
        return await async_cached_name(author.pk)


class Refresh:
    """``refresh`` of a cached function; other readers call the function."""

    covers: ClassVar = {"backend.guarded_loads.load_again", "backend.guarded_loads.aload_again"}

    def read(self, author: Author) -> str:
        return cached_name.refresh(author.pk) if connection.in_atomic_block else cached_name(author.pk)

    async def aread(self, author: Author) -> str:
        is_open = await sync_to_async(lambda: connection.in_atomic_block)()
        function = async_cached_name.refresh if is_open else async_cached_name
        return await function(author.pk)


class LeaseOnGet:
    """``get`` and ``set`` of an alias with ``lease_on_get``."""

    covers: ClassVar = {"backend.request_leases._get_and_lease"}

    def read(self, author: Author) -> str:
        name = ring("leasing").get("name")
        if name is None:
            name = name_of(author.pk)
            ring("leasing").set("name", name, 600)
        return str(name)

    async def aread(self, author: Author) -> str:
        cache = ring("leasing")
        name = await cache.aget("name")
        if name is None:
            name = await async_name_of(author.pk)
            await cache.aset("name", name, 600)
        return str(name)


class LeaseOnGetMany:
    """``get_many`` and ``set_many`` of an alias with ``lease_on_get``."""

    covers: ClassVar = {"backend.request_leases._get_many_and_lease"}

    def read(self, author: Author) -> str:
        names = ring("leasing").get_many(["name"])
        if not names:
            names = {"name": name_of(author.pk)}
            ring("leasing").set_many(names, 600)
        return str(names["name"])

    async def aread(self, author: Author) -> str:
        cache = ring("leasing")
        names = await cache.aget_many(["name"])
        if not names:
            names = {"name": await async_name_of(author.pk)}
            await cache.aset_many(names, 600)
        return str(names["name"])


READERS = [
    Rows,
    Lookups,
    ManyRows,
    GetOrSet,
    GetOrSetMany,
    CachedFunctions,
    Refresh,
    LeaseOnGet,
    LeaseOnGetMany,
]
Read = Callable[[Author], str]


@pytest.fixture(params=["sync", "async"])
def read(request: pytest.FixtureRequest, reader: Any) -> Read:
    """Read in the calling thread, or in an event loop that runs the database calls in the calling thread."""
    if request.param == "sync":
        return reader.read  # type: ignore[no-any-return]
    return async_to_sync(reader.aread)


@pytest.fixture(params=READERS, ids=lambda reader: reader.__name__)
def reader(request: pytest.FixtureRequest) -> Any:
    """Return one way to read; the test runs once for each."""
    loads.clear()
    return request.param()


def elsewhere(function: Callable[[], Any]) -> Any:
    """Return the result of a call in another thread, which has database connections of its own."""
    results: list[Any] = []

    def call() -> None:
        try:
            results.append(function())
        finally:
            connections.close_all()

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return results[0]


def rename_elsewhere(author: Author, name: str) -> None:
    """Commit a new name in another thread, and delete the key that has no tag."""

    def rename() -> None:
        Author.objects.filter(pk=author.pk).update(name=name)
        ring("leasing").delete("name")

    elsewhere(rename)


def raw_rename(author: Author, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = %s WHERE id = %s", [name, author.pk])


def assert_all_read(read: Read, author: Author, name: str) -> None:
    """Assert that a reader of another thread, and one of this thread, get a name."""
    assert elsewhere(lambda: read(author)) == name
    assert read(author) == name


def has_tags(reader: Any) -> bool:
    """Return whether a change of the row makes what the reader has stored a miss."""
    return not isinstance(reader, LeaseOnGet | LeaseOnGetMany)


class RolledBackError(Exception):
    """Rolls a transaction back."""


# What a transaction has changed


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


@with_postgres
def test_what_raw_sql_has_changed_is_not_stored(author: Author, reader: Any, read: Read) -> None:
    """If the table has triggers. The transaction reads its own change, also if the old value is cached."""
    if has_tags(reader):
        read(author)
    with pytest.raises(RolledBackError), transaction.atomic():
        raw_rename(author, "Lost")
        assert read(author) == "Lost"
        assert elsewhere(lambda: read(author)) == "First"
        raise RolledBackError
    assert_all_read(read, author, "First")


def get_and_set() -> Any:
    """Read the name of a seat through an alias whose misses acquire leases."""
    cache = ring("leasing")
    name = cache.get("name")
    if name is None:
        cache.set("name", name := Seat.objects.get(pk=1).name)
    return name


READS_OF_SEATS: dict[str, Callable[[], Any]] = {
    "row": lambda: Seat.cached.get(pk=1).name,
    "exists": lambda: Seat.cached.filter(name="First").exists(),
    "values": lambda: list(Seat.cached.values_list("name", flat=True)),
    "rows": lambda: [seat.name for seat in Seat.cached.all()],
    "count": lambda: Seat.cached.filter(name="Lost").count(),
    "get_or_set": lambda: ring().get_or_set("name", lambda: Seat.objects.get(pk=1).name),
    "get_or_set_many": lambda: ring().get_or_set_many(
        ["name"], lambda keys: {key: Seat.objects.get(pk=1).name for key in keys}
    ),
    "set": get_and_set,
}


@pytest.mark.parametrize("read", READS_OF_SEATS.values(), ids=READS_OF_SEATS)
@pytest.mark.parametrize("is_whole", [False, True], ids=["savepoint", "transaction"])
def test_what_raw_sql_has_changed_without_triggers_is_not_stored(
    read: Callable[[], Any], is_whole: bool
) -> None:
    """Nothing says which rows it has changed, so the transaction stores none, also not under a savepoint."""
    Seat.objects.create(pk=1, hall=1, name="First")
    with nullcontext() if is_whole else transaction.atomic():
        with pytest.raises(RolledBackError), transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"UPDATE {Seat._meta.db_table} SET name = 'Lost' WHERE id = 1")
            lost = read()
            raise RolledBackError
        assert read() != lost
    assert read() != lost


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
def test_a_savepoint_does_not_hide_what_raw_sql_changed_before_it(
    author: Author, reader: Any, read: Read
) -> None:
    """The rollback of the savepoint in which the change was noticed leaves the change itself."""
    if has_tags(reader):
        read(author)
    with pytest.raises(RolledBackError), transaction.atomic():
        raw_rename(author, "Lost")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            read(author)
            raise ZeroDivisionError
        assert read(author) == "Lost"
        raise RolledBackError
    assert_all_read(read, author, "First")


@with_postgres
def test_a_savepoint_of_the_same_name_hides_no_changes(author: Author, reader: Any, read: Read) -> None:
    """As in an import that makes one for each row: a rollback to the last one leaves the first row."""
    if has_tags(reader):
        read(author)
    with pytest.raises(RolledBackError), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SAVEPOINT row_of_import")
            raw_rename(author, "Lost")
            cursor.execute("SAVEPOINT row_of_import")
            cursor.execute("ROLLBACK TO SAVEPOINT row_of_import")
        assert read(author) == "Lost"
        raise RolledBackError
    assert_all_read(read, author, "First")


@with_postgres
def test_raw_sql_in_a_read_only_transaction(author: Author, reader: Any, read: Read) -> None:
    """The question for the rows of triggers writes nothing, so it does not fail."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute("SELECT now()")
        assert read(author) == "First"
    assert_all_read(read, author, "First")


@with_postgres
def test_a_temporary_table_in_a_read_only_transaction(author: Author, reader: Any, read: Read) -> None:
    """Its rows give the transaction an id, but no row of a trigger is deleted: Postgres would refuse that."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS numbers (number int)")
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute("INSERT INTO numbers VALUES (1)")
        assert read(author) == "First"
    assert_all_read(read, author, "First")


@pytest.fixture
def functions() -> Iterator[None]:
    """Functions of the database: one that renames a row, and one that returns 1."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION rename(key bigint, new text) RETURNS SETOF bigint LANGUAGE sql AS "
            f"'UPDATE {AUTHOR} SET name = new WHERE id = key RETURNING id'"
        )
        cursor.execute("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION rename; DROP FUNCTION one")


def rename_by_query(author: Author) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM rename(%s, 'Lost')", [author.pk])


def rename_by_callproc(author: Author) -> None:
    with connection.cursor() as cursor:
        cursor.callproc("rename", [author.pk, "Lost"])


def rename_after_set(author: Author) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SET LOCAL lock_timeout = 0; UPDATE {AUTHOR} SET name = 'Lost' WHERE id = {author.pk}"
        )


def rename_by_driver(author: Author) -> None:
    connection.connection.execute(f"UPDATE {AUTHOR} SET name = 'Lost' WHERE id = %s", [author.pk])


def rename_by_stream(author: Author) -> None:
    with connection.cursor() as cursor:
        list(cursor.stream("SELECT * FROM rename(%s, 'Lost')", [author.pk]))


#: Ways to change a row that no statement shows.
UNSEEN = [rename_by_query, rename_by_callproc, rename_after_set, rename_by_driver, rename_by_stream]


@with_postgres
@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("rename", UNSEEN)
def test_what_no_statement_shows_is_not_stored(
    author: Author, rename: Callable[[Author], None], reader: Any, read: Read
) -> None:
    """Before a fill the database is asked what the triggers wrote."""
    with pytest.raises(RolledBackError), transaction.atomic():
        rename(author)
        assert read(author) == "Lost"
        raise RolledBackError
    assert_all_read(read, author, "First")


@with_postgres
@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("rename", UNSEEN)
def test_what_no_statement_shows_is_invalidated_at_the_commit(
    author: Author, rename: Callable[[Author], None]
) -> None:
    """The relay is not needed for it."""
    Author.cached.get(pk=author.pk)
    with transaction.atomic():
        rename(author)
    assert Author.cached.get(pk=author.pk).name == "Lost"
    assert OutboxRow.objects.count() == 0


@with_postgres
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_copied_rows(ending: str) -> None:
    """The cursor of the driver copies them, past Django's wrappers."""
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(name="Copied")
    with transaction.atomic():
        with connection.cursor() as cursor, cursor.copy(f"COPY {AUTHOR} (id, name, code) FROM STDIN") as copy:
            copy.write_row((77, "Copied", "9d1a44ba-5a5c-4a3c-8f43-8c3a0ed3a7a1"))
        assert Author.cached.get(pk=77).name == "Copied"
        transaction.set_rollback(ending == "rollback")
    for lookup in ({"pk": 77}, {"name": "Copied"}):
        if ending == "commit":
            assert Author.cached.get(**lookup).pk == 77
        else:
            with pytest.raises(Author.DoesNotExist):
                Author.cached.get(**lookup)


@with_postgres
def test_what_a_transaction_past_django_has_changed_is_not_stored(
    author: Author, reader: Any, read: Read
) -> None:
    """The program began it: by SQL, or by the driver."""
    read(author)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            raw_rename(author, "Lost")
            seen = read(author)
        finally:  # the next test needs the connection
            cursor.execute("ROLLBACK")
    assert seen == "Lost" or not has_tags(reader)
    assert_all_read(read, author, "First")
    with connection.connection.transaction(force_rollback=True):
        raw_rename(author, "Lost")
        read(author)
    assert_all_read(read, author, "First")


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
def test_a_role_that_only_reads_needs_no_rights_on_the_outbox(author: Author) -> None:
    """The outbox is not asked where no trigger has written."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE reader; GRANT SELECT ON {AUTHOR} TO reader")
        try:
            with transaction.atomic():
                cursor.execute("SET LOCAL ROLE reader")
                cursor.execute("SELECT pg_advisory_xact_lock(1)")
                assert Author.cached.get(pk=author.pk).name == "First"
                assert Author.cached.get(pk=author.pk).name == "First"
        finally:
            cursor.execute("DROP OWNED BY reader; DROP ROLE reader")


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


def lease_all_keys(author: Author) -> None:
    """Acquire the lease of each key that the readers may ask for, as another process would."""
    cache = ring()
    plain_keys = [
        Author.cached.key_of(pk=author.pk),
        Author.cached.key_of(code=author.code),
        "name",
        author.pk,
        cached_name.key_of(author.pk),
        async_cached_name.key_of(author.pk),
    ]
    keys = [*map(cache.key_bytes, plain_keys), ring("leasing").key_bytes("name")]
    names = dict(zip(keys, keys, strict=True))
    leasing = cachebackend.protocol.get_many_and_lease(cache.client.context, names)
    elsewhere(lambda: cache.client.run(leasing))


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


def rolled_back(load: Callable[[], str]) -> str:
    """Return what is loaded in a transaction that is rolled back then."""
    with transaction.atomic():
        value = load()
        transaction.set_rollback(True)
    return value


def rolled_back_to_a_savepoint(load: Callable[[], str]) -> str:
    """Return what is loaded under a savepoint that is rolled back then, in a transaction that commits."""
    with transaction.atomic():
        savepoint = connection.savepoint()
        value = load()
        transaction.savepoint_rollback(savepoint)
    return value


UNDO = pytest.mark.parametrize("undo", [rolled_back, rolled_back_to_a_savepoint])


def lost_name(author: Author) -> str:
    """Rename a row, and return its name; the caller rolls back."""
    Author.objects.filter(pk=author.pk).update(name="Lost")
    return name_of(author.pk)


@UNDO
@pytest.mark.parametrize("is_inside", [False, True], ids=["get before", "get inside"])
def test_a_value_of_a_transaction_that_was_rolled_back_is_not_set(
    author: Author, undo: Callable[..., str], is_inside: bool
) -> None:
    """Although no transaction is open any more when ``set`` presents the lease; the next request fills."""
    cache = ring("leasing")

    def load() -> str:
        if is_inside:
            assert cache.get("name") is None
            assert cache.get_many(["other"]) == {}
        return lost_name(author)

    if not is_inside:
        assert cache.get("name") is None
        assert cache.get_many(["other"]) == {}
    lost = undo(load)
    assert cache.set("name", lost) is False
    assert cache.set_many({"other": lost}) == []
    cache.close()
    assert cache.get_many(["name", "other"]) == {}
    assert cache.set("name", "First") is True
    assert cache.set_many({"other": "First"}) == []
    assert cache.get_many(["name", "other"]) == {"name": "First", "other": "First"}


@UNDO
def test_a_loader_that_rolls_back_what_it_wrote_is_not_stored(
    author: Author, undo: Callable[..., str]
) -> None:
    """Its value may have been computed from the lost change."""
    load = partial(undo, partial(lost_name, author))
    assert ring().get_or_set("one", load) == "Lost"
    assert ring().get_or_set_many(["many"], lambda names: {"many": load()}) == {"many": "Lost"}
    assert async_to_sync(ring().aget_or_set)("async", sync_to_async(load)) == "Lost"
    assert ring().get_many(["one", "many", "async"]) == {}


def test_a_rollback_elsewhere_prevents_no_fill(author: Author) -> None:
    """Neither in another thread, nor of a transaction that only read."""
    cache = ring("leasing")
    assert cache.get("name") is None
    elsewhere(lambda: rolled_back(lambda: lost_name(author)))
    rolled_back(lambda: name_of(author.pk))
    assert cache.set("name", "First") is True


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


# Snapshots


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


# Completeness


def test_every_read_that_loads_is_in_this_file() -> None:
    """Each function that runs a loading operation has a reader above, and each rule is tested with it."""
    folder = Path(cachebackend.__file__).parent
    found = {
        f"{module}.{function.name}"
        for path in folder.rglob("*.py")
        if not (module := ".".join(path.relative_to(folder).with_suffix("").parts)).startswith(BELOW)
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and runs_a_load(function)
    }
    assert found == set().union(*(reader.covers for reader in READERS))


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
        for reader in (Rows(), Lookups(), ManyRows(), GetOrSet(), GetOrSetMany(), CachedFunctions()):
            with self.subTest(type(reader).__name__):
                assert await reader.aread(author) == "Case"
        assert await ring().aget(Author.cached.key_of(pk=author.pk)) is None
        assert await ring().aget("name") is None


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
