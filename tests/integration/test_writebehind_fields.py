"""Each kind of field: a value is drained, and read before that, as the ORM would write it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import connections, models
from django.db.models import F
from django.test.utils import isolate_apps
from django.utils.functional import SimpleLazyObject

from cachebackend import WriteBehindManager, checks, uuid7, writebehind
from cachebackend.errors import WriteBehindRefusedError
from cachebackend.models import ParkedWrite
from cacheproject.demo.models import Article
from tests.integration.write_behind import drain_all, one_partition
from tests.shop.models import Everything, Meter, Photo, Stamped, Tag, Target

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]

VALUES: dict[str, list[Any]] = {
    "flag": [True, False, None],
    "small": [-32768, 32767, "7"],
    "positive_small": [0, 32767],
    "large": [-(2**63), 2**63 - 1],
    "positive_large": [2**63 - 1],
    "decimal": [Decimal("-99999999999999999999.9999999999"), Decimal("0E-10"), Decimal("1E+3"), "1.5"],
    "real": [0.1, 1e308, 5e-324, math.inf, -math.inf, math.nan, 3],
    "day": [date.min, date.max, "2020-02-29"],
    "clock": [time.max, time.min, time(1, 2, 3, 4)],
    "moment": [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ],
    "length": [timedelta(microseconds=-1), timedelta(days=-400, seconds=5, microseconds=7), timedelta(36500)],
    "identity": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), str(uuid.UUID(int=7))],
    "document": [{"a": [1, None, True, 1.5, 'x\ty\n"é\U0001f600\\u0000']}, [], "", 0, False, 2**100, "a\\b"],
    "line": ["", "\t\n\r\\N\\.", "é\U0001f600", "\\", None],
    "text": ["x" * 100_000, "\\.\n\\."],
    "binary": [b"", b"\x00\xff\\\n", bytes(range(256)), None],
    "address": ["::1", "10.0.0.1", "::ffff:1.2.3.4"],
    "target_id": ["t\\1", None],
    "odd": ["a"],
}


class LowerCaseField(models.TextField):  # type: ignore[type-arg]  # generic to mypy only
    def get_prep_value(self, value: Any) -> Any:
        return value and value.lower()


def text_of(row: Any, name: str) -> str:
    """Return a column's value as text, so that types, signs and time zones are compared too."""
    value = getattr(row, name)
    return repr(bytes(value) if isinstance(value, memoryview) else value)


def test_every_kind_of_field_is_stored_as_the_orm_stores_it() -> None:
    """Smallest, largest and awkward values; ``behind.get`` returns them before the drain."""
    Target.objects.create(code="t\\1")
    asked = [(name, value) for name, values in VALUES.items() for value in values]
    ours = Everything.objects.bulk_create([Everything() for _ in asked])
    theirs = Everything.objects.bulk_create([Everything() for _ in asked])
    with one_partition():
        for (name, value), our, their in zip(asked, ours, theirs, strict=True):
            Everything.behind.update(our.pk, **{name: value})
            Everything.objects.filter(pk=their.pk).update(**{name: value})
        before_drain = Everything.behind.in_bulk([row.pk for row in ours])
        [drained] = drain_all()
    assert (drained.rows, drained.parked) == (len(asked), 0)
    stored = Everything.objects.in_bulk()
    for (name, _), our, their in zip(asked, ours, theirs, strict=True):
        expected = text_of(stored[their.pk], name)
        assert text_of(stored[our.pk], name) == text_of(before_drain[our.pk], name) == expected


def test_create_returns_the_row_as_it_will_be_stored() -> None:
    """With the key that was queued, values as the columns store them, and plain database defaults."""
    created = Meter.behind.create(level="7", total="1.5", tag=Tag.objects.create(name="x"))
    assert (created.level, created.total) == (7, Decimal("1.50"))
    assert created == Meter.behind.get(created.pk)
    plain = Everything.behind.create(pk=1, small="3")
    assert (plain.made, plain.small) == (7, 3)
    Everything.behind.update(1, made=F("made") + 1)
    assert Everything.behind.get(1).made == 8
    drain_all()
    assert Meter.objects.get() == created
    assert Everything.objects.get().made == 8
    with pytest.raises(WriteBehindRefusedError, match="made by the database, which is asked only later"):
        Stamped.behind.create(pk=1)


def test_a_key_that_the_column_cannot_hold_is_refused_at_the_call() -> None:
    """For the row itself and for one it refers to; the worker never gets it."""
    with pytest.raises(WriteBehindRefusedError, match=f"Article has no primary key like {2**70}"):
        Article.behind.update(2**70, views=F("views") + 1)
    with pytest.raises(WriteBehindRefusedError, match="no primary key like inf"):
        Article.behind.delete(math.inf)
    with pytest.raises(WriteBehindRefusedError, match="less than or equal to 9223372036854775807"):
        Meter.behind.update(uuid7(), tag=2**63)
    assert writebehind.dirty_partitions() == []
    assert not ParkedWrite.objects.exists()


def test_long_decimals_are_read_and_stored_exactly() -> None:
    """To the last digit, although Python's own sums are rounded to 28."""
    meter = Meter.objects.create(total=Decimal("12345678901234567890123456789012345.67"))
    Meter.behind.update(meter.pk, total=F("total") + Decimal("0.01"))
    assert Meter.behind.get(meter.pk).total == Decimal("12345678901234567890123456789012345.68")
    drain_all()
    assert Meter.objects.get().total == Decimal("12345678901234567890123456789012345.68")


def test_the_system_check_reports_a_misspelt_field() -> None:
    """And a field that cannot be encoded; not only when it is first written."""
    assert checks.check_write_behind_fields() == []
    with isolate_apps("tests.shop"):

        class Wrong(models.Model):
            body = LowerCaseField()

            behind = WriteBehindManager["Wrong"](fields=["body", "nope", "id"])

            class Meta:
                app_label = "shop"

        found = checks.check_write_behind_fields()
    assert [(message.id, message.obj) for message in found] == [("ringcache.E005", Wrong)] * 3
    assert [message.msg.partition(": ")[2] for message in found] == [
        "a LowerCaseField stores its values in its own way; write it with save()",
        "'nope' is not a column that can be written behind",
        "'id' is not a column that can be written behind",
    ]


def test_a_column_that_cannot_be_encoded_does_not_affect_the_others() -> None:
    """It is not needed: not by a write, nor by a read, nor by a delete."""
    photo = Photo.objects.create(file="a.jpg")
    Photo.behind.update(photo.pk, views=F("views") + 2)
    assert Photo.behind.get(photo.pk).views == 2
    assert [batch.changes for batch in Photo.behind.pending(photo.pk)] == [{"views": {"add": 2}}]
    Photo.behind.delete(photo.pk)
    drain_all()
    assert not Photo.objects.exists()


class EvenField(models.IntegerField):  # type: ignore[type-arg]  # generic to mypy only
    """A field that validates more than its validators do."""

    def run_validators(self, value: Any) -> None:
        super().run_validators(value)
        if value % 2:
            raise ValidationError("odd")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (EvenField(), 3),
        (models.IntegerField(validators=[RegexValidator("^[0-3]$")]), 4),
        (models.PositiveIntegerField(), -1),
        (models.SmallIntegerField(), 40_000),
        (models.IntegerField(), 2**40),
    ],
)
def test_an_integer_is_validated_by_its_field(field: Any, value: int) -> None:
    """Also if the field validates more than a minimum and a maximum."""
    with isolate_apps("tests.shop"):

        class Strict(models.Model):
            number = field
            behind = WriteBehindManager["Strict"](fields=["number"])

            class Meta:
                app_label = "shop"

        with pytest.raises(WriteBehindRefusedError):
            Strict.behind.rows.change(1, {"number": value})
        assert Strict.behind.rows.change(1, {"number": 2})


def test_a_lazy_integer_is_refused() -> None:
    """It is refused at once, although its class claims to be int."""
    with pytest.raises(WriteBehindRefusedError, match="no primary key like"):
        Photo.behind.update(SimpleLazyObject(lambda: 5), views=1)
    with pytest.raises(WriteBehindRefusedError, match="must be an integer"):
        Photo.behind.update(1, views=SimpleLazyObject(lambda: 5))


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The connection has a time zone in which the clocks change."""

    def forget() -> None:
        connections["default"].close()
        if connections["default"].settings_dict["OPTIONS"].get("pool"):
            connections["default"].close_pool()
        for name in ("timezone", "timezone_name"):
            vars(connections["default"]).pop(name, None)

    monkeypatch.setitem(connections["default"].settings_dict, "TIME_ZONE", "Europe/Berlin")
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize("steps", [1, 2])
def test_a_duration_is_elapsed_time_where_the_clocks_change(steps: int) -> None:
    """Two additions of 12 hours are one of 24 hours, for a read and for the drain."""
    meter = Meter.objects.create(seen=datetime(2026, 3, 28, 12, tzinfo=UTC))
    for _ in range(steps):
        Meter.behind.update(meter.pk, seen=F("seen") + timedelta(hours=24 / steps))
    read = Meter.behind.get(meter.pk).seen
    drain_all()
    meter.refresh_from_db()
    assert read == meter.seen == datetime(2026, 3, 29, 12, tzinfo=UTC)
