"""Upserts and saves of rows that another transaction inserts after the write has looked for them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections
from django.db.models import Value
from django.db.models.functions import Lower

from cachebackend import RingCache
from cachebackend.invalidation import old_rows, writes
from tests.zoo.models import Label, Poem, Post

#: Lets another transaction commit before the next upsert is executed.
Race = Callable[[Callable[[], None]], None]

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache) -> RingCache:
    """The cache on empty nodes."""
    return ring_cache


@pytest.fixture(params=["as it is", "before Postgres 18", "no RETURNING"])
def race(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Race:
    """Return a function that lets another transaction commit before the next upsert is executed."""
    if request.param != "as it is":
        monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)
    if request.param == "no RETURNING":
        monkeypatch.setattr(connection.features, "can_return_rows_from_bulk_insert", False)

    def prepare(insert: Callable[[], None]) -> None:
        read = writes.Write._read_conflicting
        waiting = [insert]

        def run() -> None:
            try:
                waiting.pop()()
            finally:
                connections.close_all()

        def in_another_thread(write: writes.Write) -> None:
            read(write)
            if waiting:
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(run).result()

        if connection.pg_version >= old_rows.POSTGRES_18:
            insert()  # no row is read before the upsert
        monkeypatch.setattr(writes.Write, "_read_conflicting", in_another_thread)

    return prepare


def ranks(rank: int) -> list[str]:
    return list(Poem.cached.filter(rank=rank).values_list("name", flat=True))


def test_results_with_its_old_values_are_wrong(race: Race) -> None:
    """A reader has cached them in between; the upsert does not know the values."""

    def insert() -> None:
        Poem.objects.create(name="a", rank=5)
        assert ranks(5) == ["a"]

    race(insert)
    row = Poem(name="a", rank=7)
    Poem.objects.bulk_create([row], update_conflicts=True, unique_fields=["name"], update_fields=["rank"])
    assert (ranks(5), ranks(7)) == ([], ["a"])


def test_rows_at_its_old_ends_are_wrong(race: Race, cache: RingCache) -> None:
    """A value is tagged with the row of a many-to-many relation that the upsert takes a row from."""
    through = Post.labels.through
    post, old, new = Post.objects.create(name="a"), *[Label.objects.create(name=each) for each in "xy"]

    def names() -> list[str]:
        return cache.get_or_set("posts", lambda: [each.name for each in old.posts.all()], tags=[old])

    def insert() -> None:
        through.objects.create(pk=9, post=post, label=old)
        assert names() == ["a"]

    race(insert)
    row = through(pk=9, post=post, label=new)
    through.objects.bulk_create([row], update_conflicts=True, unique_fields=["id"], update_fields=["label"])
    assert names() == []


@pytest.mark.parametrize("version", [old_rows.POSTGRES_18, 10**9])
def test_results_with_the_old_values_of_a_saved_row_are_wrong(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django 6.1 reads the name back. The row is inserted right before the UPDATE."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", version)

    def insert() -> None:
        try:
            Poem.objects.create(pk=9, name="a", rank=5)
            assert ranks(5) == ["a"]
        finally:
            connections.close_all()

    waiting = [insert]

    def before_update(execute: Callable[..., Any], sql: str, *given: Any) -> Any:
        if waiting and sql.startswith(("UPDATE", "WITH")):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(waiting.pop()).result()
        return execute(sql, *given)

    with connection.execute_wrapper(before_update):
        Poem(pk=9, name=Lower(Value("B")), rank=7).save()
    assert (ranks(5), ranks(7)) == ([], ["b"])


def test_results_of_a_row_with_old_and_new_values_are_wrong(race: Race) -> None:
    """An upsert keeps the columns that it does not name."""

    def count() -> int:
        return Poem.cached.filter(name="b", rank=5).count()

    Poem.objects.create(pk=9, name="a", rank=5)
    assert count() == 0
    row = Poem(pk=9, name="b", rank=7)
    Poem.objects.bulk_create([row], update_conflicts=True, unique_fields=["id"], update_fields=["name"])
    assert count() == 1
