"""Values of triggers: they make the keys that Django makes, and none stops the relay."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from django.db import connection, models, transaction

from cachebackend import RingCache, invalidation
from cachebackend.invalidation import pending_deletes, trigger_rows
from cachebackend.models import OutboxRow
from tests.integration.triggered import AUTHOR, POEM, author
from tests.shop.models import Author, Poem
from tests.zoo.models import Arrival, Bill, Moment

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def test_values_of_triggers_make_the_keys_that_django_makes(author: Author, ring_cache: RingCache) -> None:
    """One function makes the keys, from equal values."""
    keys = trigger_rows.keys_of_trigger_row(
        "shop.author", [{"id": str(author.pk), "name": "Sappho", "code": str(author.code).upper()}], "default"
    )
    row = {"id": author.pk, "pk": author.pk, "name": "Sappho", "code": author.code}
    assert set(Author.cached.keys_of([row], "default")) <= keys["default"]


UNREADABLE = [
    ("at", "'infinity'"),
    ("at", "'-infinity'"),
    ("at", "'0044-03-15 BC'"),
    ("at", "'20000-01-01'"),
    ("day", "'infinity'"),
    ("amount", "'NaN'"),
    ("length", "'1 month'"),
    ("hash", r"'\xdeadbeef'"),
]


@pytest.mark.parametrize(("column", "value"), UNREADABLE)
def test_a_value_that_python_cannot_read_does_not_stop_the_relay(
    author: Author, program: psycopg.Connection[Any], column: str, value: str
) -> None:
    """Nothing is cached under it; the row's other keys, and other rows, are deleted."""
    moment = Moment.objects.create(name="now")
    assert Moment.cached.get(pk=moment.pk).rank == 0
    with pytest.raises(Moment.DoesNotExist):
        Moment.cached.get(name="then")
    program.execute(f"UPDATE zoo_moment SET name = 'then', rank = 1, {column} = {value}")
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho'")
    result = invalidation.relay()
    assert (result.rows, result.pending) == (2, 0)
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    program.execute(f"UPDATE zoo_moment SET {column} = NULL")  # Django cannot read such rows either
    invalidation.relay()
    assert Moment.cached.get(name="then").rank == 1
    assert Moment.cached.get(pk=moment.pk).rank == 1


@pytest.mark.parametrize(("column", "value"), UNREADABLE)
@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_value_that_python_cannot_read_does_not_lose_a_write(
    column: str, value: str, *, in_transaction: bool
) -> None:
    """Nor what else the transaction writes, in autocommit or in ``atomic``."""
    with transaction.atomic() if in_transaction else nullcontext(), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO zoo_moment (name, rank, {column}) VALUES ('now', 0, {value})")
        Author.objects.create(name="Psappho")
    assert Moment.objects.filter(name="now").exists()
    assert Author.objects.filter(name="Psappho").exists()


def test_a_time_without_time_zones_makes_the_keys_of_its_row(
    program: psycopg.Connection[Any], settings: Any
) -> None:
    """Without ``USE_TZ``, Django reads naive times in its own time zone; a trigger writes an offset."""
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kathmandu"
    at = datetime(2026, 6, 1, 12)  # as Django reads it
    Arrival.objects.create(at=at, name="early")
    Moment.objects.create(at=at, name="now")
    invalidation.relay()
    assert [Arrival.cached.get(pk=at).rank, Moment.cached.get(at=at).rank] == [0, 0]
    program.execute("SET TimeZone = 'Europe/Amsterdam'")
    program.execute("UPDATE zoo_arrival SET rank = 1")
    program.execute("UPDATE zoo_moment SET rank = 1")
    invalidation.relay()
    assert [Arrival.cached.get(pk=at).rank, Moment.cached.get(at=at).rank] == [1, 1]


@pytest.mark.parametrize(
    ("at", "zone"),
    [
        (datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), "Europe/Amsterdam"),
        (datetime(1, 1, 1, tzinfo=UTC), "America/New_York"),
    ],
)
def test_a_time_that_a_zone_moves_out_of_the_calendar_makes_the_keys_of_its_row(
    program: psycopg.Connection[Any], at: datetime, zone: str
) -> None:
    """In the session of a writer it has the year 10000, or one before Christ. Readers ask for it in UTC."""
    for lookup in ({"at": at}, {"name": "now"}):
        with pytest.raises(Moment.DoesNotExist):
            Moment.cached.get(**lookup)
    with pytest.raises(Arrival.DoesNotExist):
        Arrival.cached.get(pk=at)
    assert list(Moment.cached.filter(at=at)) == []
    program.execute(f"SET TimeZone = '{zone}'")
    program.execute("INSERT INTO zoo_moment (name, rank, at) VALUES ('now', 1, %s)", [at.isoformat()])
    program.execute("INSERT INTO zoo_arrival (at, name, rank) VALUES (%s, 'late', 1)", [at.isoformat()])
    invalidation.relay()
    assert [Moment.cached.get(at=at).rank, Moment.cached.get(name="now").rank] == [1, 1]
    assert [Arrival.cached.get(pk=at).rank, *(row.rank for row in Moment.cached.filter(at=at))] == [1, 1]
    program.execute("UPDATE zoo_moment SET rank = 2")
    program.execute("UPDATE zoo_arrival SET rank = 2")
    invalidation.relay()
    assert [Moment.cached.get(at=at).rank, Arrival.cached.get(pk=at).rank] == [2, 2]


@pytest.mark.parametrize("output", ["hex", "escape"])
def test_bytes_that_a_trigger_wrote_make_the_key_of_a_lookup(
    program: psycopg.Connection[Any], output: str
) -> None:
    """In both forms in which Postgres writes them."""
    value = bytes(range(256))
    with pytest.raises(Moment.DoesNotExist):
        Moment.cached.get(hash=value)
    program.execute(f"SET bytea_output = {output}")
    program.execute("INSERT INTO zoo_moment (name, rank, hash) VALUES ('now', 0, %s)", [value])
    invalidation.relay()
    assert Moment.cached.get(hash=value).name == "now"


def test_a_custom_primary_key_is_asked_of_the_database(program: psycopg.Connection[Any]) -> None:
    """Python cannot know which of its values the database holds equal."""
    Bill.objects.create(number=5, name="five")
    assert Bill.cached.get(number=5).rank == 0
    program.execute("UPDATE zoo_bill SET rank = 1")
    for bill in (Bill.cached.get(pk=5), Bill.cached.get(name="five"), Bill.cached.in_bulk([5])[5]):
        assert bill.rank == 1
    assert invalidation.relay().rows == 1


def test_trigger_values_are_converted_as_rows_that_django_reads() -> None:
    """By ``from_db_value``; a text that it refuses is None, in a column that is not the primary key."""
    model, rows, _ = trigger_rows._changed_rows("zoo.bill", [{"number": "1005"}], "default")
    assert (model, [row["pk"] for row in rows]) == (Bill, [5])
    with pytest.raises(ValueError, match="the primary key 'number' is 'x', which cannot be read"):
        trigger_rows._changed_rows("zoo.bill", [{"number": "x"}], "default")
    everything = {"id": "1", "flag": "true", "length": "1 mon"}
    _, rows, _ = trigger_rows._changed_rows("shop.everything", [everything], "default")
    assert (rows[0]["flag"], rows[0]["length"]) == (True, None)


def test_an_outbox_row_that_cannot_be_processed_does_not_delay_the_others(
    author: Author,
    program: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is set aside, whether Python or a query failed, and what is cached of its model is deleted."""
    program.execute(f"UPDATE {POEM} SET title = 'x'")
    Poem.objects.create(author=author, title="Ode")
    program.execute(f"UPDATE {POEM} SET title = 'x'")
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho'")
    changed_rows = pending_deletes.changed_rows

    def failing(model: type[models.Model], *args: Any) -> Any:
        if model is Poem:
            Author.objects.raw("SELECT no_such_column FROM shop_author")[0]
        return changed_rows(model, *args)

    monkeypatch.setattr(pending_deletes, "changed_rows", failing)
    result = invalidation.relay()
    assert (result.rows, result.pending) == (1, 0)
    assert "cannot be read and is set aside" in caplog.text
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert [row.error[:16] for row in OutboxRow.objects.all()] == ["ProgrammingError"]
