"""Every way to read that loads, and what tests of their fills share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import caches
from django.db import connection, connections

import cachebackend
from cachebackend import RingCache, cached
from tests.shop.models import Author

__all__ = [
    "AUTHOR",
    "READERS",
    "CachedFunctions",
    "GetOrSet",
    "GetOrSetMany",
    "LeaseOnGet",
    "LeaseOnGetMany",
    "Lookups",
    "ManyRows",
    "Read",
    "Refresh",
    "RolledBackError",
    "Rows",
    "assert_all_read",
    "async_cached_name",
    "async_name_of",
    "author",
    "cached_name",
    "elsewhere",
    "functions",
    "has_tags",
    "lease_all_keys",
    "lease_on_get",
    "loads",
    "name_of",
    "raw_rename",
    "read",
    "reader",
    "rename_elsewhere",
    "ring",
    "tags_of_author",
    "with_postgres",
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
