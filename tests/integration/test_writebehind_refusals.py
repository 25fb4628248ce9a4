"""Errors of the database: which are one row's own, and which are the table's or the server's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from django.db import DatabaseError, connection
from django.db.models import F

from cachebackend import uuid7, writebehind
from cachebackend.models import ParkedWrite
from cachebackend.writebehind import bisection, statement_sizes
from tests.integration.write_behind import drain_all, one_partition
from tests.sessions import session
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


@pytest.mark.parametrize("code", ["40P01", "53400", "57P01", "58030", "XX000", "25006", "55006", "08000"])
def test_a_row_whose_trigger_raises_an_error_of_the_server_waits(meters: list[Meter], code: str) -> None:
    """The batch has failed so several times, while a statement without rows succeeds: the other rows land."""
    with one_partition():
        add_one(meters)
        with trigger("ROW", f"NEW.id = '{meters[2].pk}'", code):
            drained: list[writebehind.Drained] = []
            for _ in range(6):
                with suppress(DatabaseError):
                    drained += drain_all()
            assert [(each.rows, each.waiting) for each in drained] == [(5, 1)]
        assert writebehind.retry_waiting("default", due_only=False).applied == 1
    assert set(Meter.objects.values_list("count", flat=True)) == {1}


@contextmanager
def slow_table(most: int) -> Iterator[None]:
    """Let Postgres cancel a statement that updates more than ``most`` rows, as if it took too long."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF (SELECT count(*) FROM changed) > {most} THEN RAISE EXCEPTION 'too slow' "
            "USING ERRCODE = '57014'; END IF; RETURN NULL; END $$;"
            "CREATE TRIGGER slow AFTER UPDATE ON shop_meter REFERENCING NEW TABLE AS changed "
            "FOR EACH STATEMENT EXECUTE FUNCTION slow()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER slow ON shop_meter; DROP FUNCTION slow")


def test_a_statement_that_takes_too_long_is_divided(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows land, and the next statements have fewer rows."""
    sizes = statement_sizes.StatementSizes()
    monkeypatch.setattr(bisection, "statement_sizes", sizes)
    with one_partition(), slow_table(3):
        for _ in range(2):
            add_one(meters)
            assert [(each.rows, each.parked, each.waiting) for each in drain_all()] == [(6, 0, 0)]
        assert sizes.rows(Meter, "default") <= 3
    assert not ParkedWrite.objects.exists()


def test_rows_for_which_no_time_is_left_are_written_by_themselves(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain ends in time, and no later batch waits for a slow one."""
    monkeypatch.setattr(bisection, "WRITE_SECONDS", 0.0)
    with one_partition():
        add_one(meters)
        assert [(each.rows, each.waiting) for each in drain_all()] == [(0, 6)]
        monkeypatch.undo()
        assert writebehind.retry_waiting("default", due_only=False).applied == 6
    assert set(Meter.objects.values_list("count", flat=True)) == {1}


def test_a_locked_row_waits_alone_in_a_session_with_a_low_limit(meters: list[Meter]) -> None:
    """The wait for its lock ends before the limit of the statement."""
    lock = f"SELECT 1 FROM shop_meter WHERE id = '{meters[3].pk}' FOR UPDATE"
    with one_partition(), session(lock), connection.cursor() as cursor:
        add_one(meters)
        cursor.execute("SET statement_timeout = '500ms'")
        try:
            assert [(each.rows, each.waiting) for each in drain_all()] == [(5, 1)]
        finally:
            cursor.execute("RESET statement_timeout")


@pytest.mark.parametrize("updates", [True, False])
def test_rows_that_cannot_be_created_do_not_stop_the_others(meters: list[Meter], updates: bool) -> None:
    """A partitioned table has no unique index on the key alone; creations wait, beside updates or alone."""
    with one_partition():
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE shop_meter DROP CONSTRAINT shop_meter_pkey")
        try:
            Meter.behind.create(pk=(created := uuid7()), count=1)
            if updates:
                add_one(meters)
            assert [(each.rows, each.waiting) for each in drain_all()] == [(6 if updates else 0, 1)]
            assert "no unique or exclusion constraint" in ParkedWrite.objects.get().error
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE shop_meter ADD PRIMARY KEY (id)")
        assert writebehind.retry_waiting("default", due_only=False).applied == 1
        assert Meter.objects.get(pk=created).count == 1


def test_columns_that_are_closed_do_not_stop_the_others(meters: list[Meter]) -> None:
    """A statement of one shape fails without rows, and that of another shape succeeds."""
    with one_partition():
        Meter.behind.update(meters[0].pk, level=5)
        Meter.behind.update(meters[1].pk, count=F("count") + 1)
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE EXCEPTION 'it is closed' USING ERRCODE = '42501'; END $$;"
                "CREATE TRIGGER refuse BEFORE UPDATE OF level ON shop_meter "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
            )
        try:
            assert [(each.rows, each.waiting) for each in drain_all()] == [(1, 1)]
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP TRIGGER refuse ON shop_meter; DROP FUNCTION refuse")
        assert writebehind.retry_waiting("default", due_only=False).applied == 1


def test_a_row_that_a_trigger_skips_is_parked_with_that_reason() -> None:
    """Its key does not exist; another row's does."""
    Meter.objects.create(pk=(existing := uuid7()), count=5)
    with one_partition(), connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
            "CREATE TRIGGER skip BEFORE INSERT ON shop_meter FOR EACH ROW EXECUTE FUNCTION skip()"
        )
        try:
            for pk in (existing, skipped := uuid7()):
                Meter.behind.create(pk=pk, count=1)
            assert [each.parked for each in drain_all()] == [2]
        finally:
            cursor.execute("DROP TRIGGER skip ON shop_meter; DROP FUNCTION skip")
    assert "exists already" in ParkedWrite.objects.get(key=existing.hex).error
    assert "a trigger or a rule skips it" in ParkedWrite.objects.get(key=skipped.hex).error
