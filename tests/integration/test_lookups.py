"""Rows by unique fields, and by the fields of unique constraints, on real nodes and a real Postgres."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.exceptions import MultipleObjectsReturned
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache
from cachebackend.invalidation import invalidate
from cachebackend.invalidation.transaction_deletes import TransactionDeletes
from tests.zoo.models import Author, Desk, Nickname, Seat, Singer, Song, Stock, Verse

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
Call = Callable[..., Any]


@contextmanager
def queries(count: int) -> Iterator[None]:
    """Assert that the block runs this number of queries, beside those that read a collation once."""
    with CaptureQueriesContext(connection) as captured:
        yield
    of_collation = ("collation", "pragma_index_list")
    run = [
        query["sql"]
        for query in captured.captured_queries
        if not any(word in query["sql"] for word in of_collation)
    ]
    assert len(run) == count, run


@pytest.fixture
def seat() -> Seat:
    """A row with a name, and with a number in a hall."""
    return Seat.objects.create(hall=1, rank=2, name="a")


LOOKUPS = [{"name": "a"}, {"hall": 1, "rank": 2}, {"rank": "2", "hall": "1"}]


def seat_or_none(call: Call, **lookup: Any) -> Seat | None:
    try:
        found: Seat = call(Seat.cached, "get", **lookup)
    except Seat.DoesNotExist:
        return None
    return found


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_lookup_that_misses_runs_one_query(seat: Seat, call: Call, lookup: dict[str, Any]) -> None:
    """It loads the row. The lookup is stored; the row by the next read; then no query runs."""
    for count in (1, 1, 0):
        with queries(count):
            assert call(Seat.cached, "get", **lookup) == seat


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_lookup_of_a_cached_row_misses_once(seat: Seat, call: Call, lookup: dict[str, Any]) -> None:
    """Its row was stored when it was read by its primary key."""
    call(Seat.cached, "get", pk=seat.pk)
    for count in (1, 0):
        with queries(count):
            assert call(Seat.cached, "get", **lookup) == seat


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_an_absent_lookup_runs_one_query(call: Call, lookup: dict[str, Any]) -> None:
    """Then its absence is cached, until a row is created that has the value."""
    for count in (1, 0):
        with queries(count):
            assert seat_or_none(call, **lookup) is None
    created = Seat.objects.create(hall=1, rank=2, name="a")
    assert seat_or_none(call, **lookup) == created


def test_a_row_that_moves_ends_the_absence_of_its_new_value(seat: Seat, call: Call) -> None:
    """Although only one column of the lookup has changed."""
    for rank in (2, 3):
        seat_or_none(call, hall=1, rank=rank)
    Seat.objects.filter(pk=seat.pk).update(rank=3)
    assert seat_or_none(call, hall=1, rank=3) == seat
    assert seat_or_none(call, hall=1, rank=2) is None


def test_a_value_that_moves_to_another_row_finds_that_row(seat: Seat, call: Call) -> None:
    """A cached lookup holds only a primary key, and is compared with all columns of the row."""
    other = Seat.objects.create(hall=2, rank=2, name="b")
    for row in (seat, other):
        for _ in range(2):
            assert seat_or_none(call, hall=row.hall, rank=row.rank) == row
    Seat.objects.filter(pk=seat.pk).update(hall=3)
    Seat.objects.filter(pk=other.pk).update(hall=1)
    assert seat_or_none(call, hall=1, rank=2) == other
    assert seat_or_none(call, hall=2, rank=2) is None


def test_a_lookup_holds_only_a_primary_key(seat: Seat, ring_cache: RingCache) -> None:
    """So it cannot return an old row; one that names a wrong row is read again."""
    key = Seat.cached.key_of(hall=1, rank=2)
    assert Seat.cached.get(hall=1, rank=2) == seat
    assert ring_cache.get(key) == seat.pk
    other = Seat.objects.create(hall=1, rank=3, name="b")
    for wrong in (other.pk, 10**6, None, "x", [1]):
        Seat.cached.in_bulk([seat.pk, other.pk])
        ring_cache.set(key, wrong)
        assert (seat_or_none(_call, hall=1, rank=2) == seat) is (wrong is not None)
        ring_cache.delete(key)


def _call(target: Any, name: str, /, **lookup: Any) -> Any:
    return getattr(target, name)(**lookup)


def test_a_transaction_reads_its_own_changes(seat: Seat, call: Call) -> None:
    """By every lookup, past what is cached; a rollback leaves nothing of them."""
    for lookup in LOOKUPS:
        seat_or_none(call, **lookup)
    with transaction.atomic():
        Seat.objects.filter(pk=seat.pk).update(rank=3)
        assert seat_or_none(call, hall=1, rank=2) is None
        assert seat_or_none(call, hall=1, rank=3) == seat
        transaction.set_rollback(True)
    assert seat_or_none(call, hall=1, rank=3) is None
    assert seat_or_none(call, hall=1, rank=2) == seat


def test_invalidate_drops_the_lookups_of_a_row(ring_cache: RingCache) -> None:
    """As far as its columns are loaded."""
    assert seat_or_none(_call, hall=1, rank=2) is None
    invalidate(Seat(pk=5, hall=1, rank=2, name="a"))
    assert Seat.cached.key_of(hall=1, rank=2) not in ring_cache


@pytest.mark.postgres
def test_triggers_drop_an_absence(call: Call) -> None:
    """The lookup has a foreign key and a number, in another order than the constraint."""
    song = Song.objects.create(name="s", singer=Singer.objects.create(name="x"))
    for given in (song, song.pk):
        with pytest.raises(Verse.DoesNotExist):
            call(Verse.cached, "get", song=given, rank=1)
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("INSERT INTO zoo_verse (name, rank, song_id) VALUES ('v', 1, %s)", [song.pk])
    assert call(Verse.cached, "get", song_id=song.pk, rank=1).name == "v"


def test_values_that_are_null_are_asked_of_the_database(call: Call) -> None:
    """NULL is not unique."""
    Verse.objects.create(name="a", rank=1)
    with queries(1):
        assert call(Verse.cached, "get", song=None, rank=1).name == "a"
    Verse.objects.create(name="b", rank=1)
    with pytest.raises(MultipleObjectsReturned, match="song=None"):
        call(Verse.cached, "get", song=None, rank=1)


def test_a_composite_primary_key_may_be_asked_for_by_its_columns(call: Call) -> None:
    """As in Django."""
    row = Stock.objects.create(shop=1, sku="a")
    assert call(Stock.cached, "get", sku="a", shop=1) == call(Stock.cached, "get", pk=(1, "a")) == row


def test_columns_that_are_not_a_lookup_are_a_query(seat: Seat, call: Call) -> None:
    """It may find several rows."""
    assert call(Seat.cached, "get", hall=1, name="a") == call(Seat.cached, "get", hall=1) == seat
    Seat.objects.create(hall=1, rank=3, name="b")
    with pytest.raises(MultipleObjectsReturned):
        call(Seat.cached, "get", hall=1)


# By an instance


def test_a_row_is_found_by_the_instance_that_it_refers_to(call: Call) -> None:
    """One key with its primary key; an instance that is not saved raises as in Django."""
    author = Author.objects.create(name="a")
    desk = Desk.objects.create(name="d", author=author)
    for _ in range(2):
        assert call(Desk.cached, "get", author=author) == desk
    with queries(0):
        assert call(Desk.cached, "get", author_id=author.pk) == desk
    assert call(Desk.cached, "in_bulk", [author], field_name="author") == {author.pk: desk}
    with pytest.raises(ValueError, match="must be saved"):
        call(Desk.cached, "get", author=Author(name="new"))


# Many rows


def test_in_bulk_finds_rows_by_a_lookup(call: Call) -> None:
    """Under what their columns hold, in the order of the values; an absent row is left out."""
    seats = [Seat.objects.create(hall=1, rank=rank, name=name) for rank, name in enumerate("abc")]
    asked = ["c", "a", "missing", "a"]
    for count in (1, 1, 0):  # the lookups with their rows; the rows; nothing
        with queries(count):
            found = call(Seat.cached, "in_bulk", asked, field_name="name")
        assert [*found.items()] == [("c", seats[2]), ("a", seats[0])]
    Seat.objects.filter(pk=seats[0].pk).update(name="missing")
    found = call(Seat.cached, "in_bulk", asked, field_name="name")
    assert {name: seat.name for name, seat in found.items()} == {"c": "c", "missing": "missing"}


def test_in_bulk_runs_one_query_for_the_lookups_that_miss(seat: Seat, call: Call) -> None:
    """The rows of the others are cached."""
    call(Seat.cached, "get", pk=seat.pk)
    call(Seat.cached, "get", name="a")
    Seat.objects.bulk_create(Seat(hall=2, rank=rank, name=name) for rank, name in enumerate("bc"))
    with queries(1):
        assert [*call(Seat.cached, "in_bulk", "abc", field_name="name")] == ["a", "b", "c"]


def test_in_bulk_leaves_out_none(call: Call) -> None:
    """As in Django: NULL equals nothing."""
    Nickname.objects.create(name=None, code=1)
    assert call(Nickname.cached, "in_bulk", [None], field_name="name") == {}


def test_in_bulk_takes_one_unique_field() -> None:
    """Its values could not be told apart otherwise."""
    with pytest.raises(ValueError, match="must be a unique field but 'hall'"):
        Seat.cached.in_bulk([1], field_name="hall")


@pytest.mark.parametrize("cached", [True, False])
def test_without_a_ring_lookups_are_queries(seat: Seat, settings: Any, cached: bool) -> None:
    """And say the same."""
    if not cached:
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    other = Seat.objects.create(hall=1, rank=3, name="b")
    for _ in range(2):
        assert Seat.cached.get(hall=1, rank=2) == Seat.cached.get(name="a") == seat
        assert [*Seat.cached.in_bulk(["b", "x", "a"], field_name="name").items()] == [
            ("b", other),
            ("a", seat),
        ]
        with pytest.raises(Seat.DoesNotExist, match="Seat with hall=1, rank=9 does not exist"):
            Seat.cached.get(hall=1, rank=9)


@pytest.mark.parametrize("reads_before_commit", [2, 0])
def test_a_name_that_another_writer_has_just_given_up(
    seat: Seat, call: Call, reads_before_commit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That writer has committed, but has not yet deleted the row's entry, which still has the name.

    The row that has got the name is found in its transaction, and after it. The entry of the first row
    alone, without the lookup, could not say that it has the name no more.
    """
    for _ in range(3):
        assert seat_or_none(call, name="a") == seat
    committed, may_delete = threading.Event(), threading.Event()
    after_commit = TransactionDeletes.after_commit

    def wait(deletes: TransactionDeletes, **options: Any) -> None:
        if threading.current_thread() is writer:
            committed.set()
            assert may_delete.wait(10)
        after_commit(deletes, **options)

    def rename() -> None:
        with transaction.atomic():
            Seat.objects.filter(name="a").update(name="old")
        connections.close_all()

    monkeypatch.setattr(TransactionDeletes, "after_commit", wait)
    writer = threading.Thread(target=rename)
    writer.start()
    try:
        assert committed.wait(10)
        with transaction.atomic():
            created = Seat.objects.create(hall=3, rank=0, name="a")
            assert all(seat_or_none(call, name="a") == created for _ in range(reads_before_commit))
        assert [seat_or_none(call, name="a") for _ in range(3)] == [created] * 3
    finally:
        may_delete.set()
        writer.join()
