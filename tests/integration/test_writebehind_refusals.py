"""Errors of the database: which are one row's own, and which are the table's or the server's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import DatabaseError, connection
from django.db.models import F

from cachebackend.models import ParkedWrite
from tests.integration.write_behind import drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def meters() -> list[Meter]:
    """Rows, in the order of their keys."""
    return sorted(Meter.objects.bulk_create([Meter() for _ in range(6)]), key=lambda meter: meter.pk)


def add_one(meters: list[Meter]) -> None:
    Meter.behind.update_many({meter.pk: {"count": F("count") + 1} for meter in meters})


@contextmanager
def trigger(each: str, condition: str, code: str) -> Iterator[None]:
    """Refuse updates with an SQLSTATE: ``each`` ROW for which the condition holds, or each STATEMENT."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} THEN "
            f"RAISE EXCEPTION 'it is frozen' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$;"
            f"CREATE TRIGGER refuse BEFORE UPDATE ON shop_meter FOR EACH {each} EXECUTE FUNCTION refuse()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse ON shop_meter; DROP FUNCTION refuse")


@pytest.mark.parametrize("code", ["45000", "42501", "0A000", "54000", "P0001"])
def test_a_row_is_parked_for_any_error_of_its_own(meters: list[Meter], code: str) -> None:
    """A trigger may choose any SQLSTATE; the other rows of the batch are applied."""
    with one_partition():
        add_one(meters)
        with trigger("ROW", f"NEW.id = '{meters[2].pk}'", code):
            assert [(each.rows, each.parked) for each in drain_all()] == [(5, 1)]
    [parked] = ParkedWrite.objects.all()
    assert parked.key == meters[2].pk.hex
    assert "it is frozen" in parked.error


@pytest.mark.parametrize("code", ["40P01", "53100", "57P01", "58030", "XX000"])
def test_an_error_of_the_server_parks_nothing(meters: list[Meter], code: str) -> None:
    """A conflict, missing resources, an operator's action or a fault of the server: the batch is retried."""
    with one_partition():
        add_one(meters)
        with trigger("ROW", f"NEW.id = '{meters[2].pk}'", code), pytest.raises(DatabaseError):
            drain_all()
        assert not ParkedWrite.objects.exists()
        assert [(each.rows, each.parked) for each in drain_all()] == [(6, 0)]


def test_an_error_of_the_table_parks_nothing(meters: list[Meter]) -> None:
    """A statement that fails even without rows fails for every row, so the batch waits."""
    with one_partition():
        add_one(meters)
        with trigger("STATEMENT", "true", "45000"), pytest.raises(DatabaseError, match="it is frozen"):
            drain_all()
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE shop_meter RENAME TO away")
        try:
            with pytest.raises(DatabaseError, match="does not exist"):
                drain_all()
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE away RENAME TO shop_meter")
        assert not ParkedWrite.objects.exists()
        assert [(each.rows, each.parked) for each in drain_all()] == [(6, 0)]
