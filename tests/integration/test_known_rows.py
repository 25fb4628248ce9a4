"""Rows that a process has found by a lookup: it asks for them without the lookup, and compares them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.db.models import Case, F, Value, When
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache
from tests.zoo.models import Seat

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
Call = Callable[..., Any]


@pytest.fixture
def seats() -> list[Seat]:
    """Two rows."""
    return Seat.objects.bulk_create([Seat(hall=1, rank=rank, name=f"s{rank}") for rank in range(2)])


@pytest.fixture
def named(seats: list[Seat], call: Call) -> Callable[[str], Seat | None]:
    """Return a function that reads a row by its name; all rows were read so before, until they were known."""

    def read(name: str) -> Seat | None:
        try:
            found: Seat = call(Seat.cached, "get", name=name)
        except Seat.DoesNotExist:
            return None
        return found

    for seat in seats * 3:
        assert read(seat.name) == seat
    return read


def queries_of(named: Callable[[str], Seat | None], name: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert named(name) is not None
    return len(captured)


def test_a_known_row_is_read_without_its_lookup(
    seats: list[Seat], named: Callable[[str], Seat | None], ring_cache: RingCache
) -> None:
    """Only a row that is not known, or not cached, needs the lookup."""
    ring_cache.delete_many([Seat.cached.key_of(name=seat.name) for seat in seats])
    assert queries_of(named, "s0") == 0
    ring_cache.delete(Seat.cached.key_of(pk=seats[0].pk))
    assert queries_of(named, "s0") == 1


def test_names_that_are_exchanged(seats: list[Seat], named: Callable[[str], Seat | None], call: Call) -> None:
    """Each name finds the row that has it now, also if the rows are cached again."""
    Seat.objects.update(name=Case(When(name="s0", then=Value("third")), default=F("name")))
    Seat.objects.filter(name="s1").update(name="s0")
    Seat.objects.filter(name="third").update(name="s1")
    call(Seat.cached, "in_bulk", [seat.pk for seat in seats])
    for _ in range(3):
        assert (named("s0"), named("s1")) == (seats[1], seats[0])


@pytest.mark.parametrize(
    "delete", [models.Model.delete, lambda seat: Seat.objects.filter(pk=seat.pk).delete()]
)
def test_a_row_that_is_deleted_is_not_found(
    seats: list[Seat], named: Callable[[str], Seat | None], delete: Callable[[Seat], object]
) -> None:
    """Nor is the next one that gets its name by the primary key of the first."""
    delete(Seat.objects.get(name="s0"))
    assert named("s0") is None
    created = Seat.objects.create(hall=3, rank=0, name="s0")
    assert [named("s0") for _ in range(3)] == [created] * 3


def test_a_transaction_finds_the_row_that_it_has_named(
    seats: list[Seat], named: Callable[[str], Seat | None]
) -> None:
    """A rollback leaves nothing of that."""
    with transaction.atomic():
        Seat.objects.filter(name="s0").update(name="old")
        Seat.objects.filter(name="s1").update(name="s0")
        assert [named("s0"), named("s1"), named("old")] == [seats[1], None, seats[0]]
        transaction.set_rollback(True)
    assert [named("s0"), named("s1"), named("old")] == [*seats, None]
