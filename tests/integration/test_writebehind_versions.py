"""Writes that one version of the code queues and another one drains."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import ormsgpack
import pytest
from django.apps.registry import Apps
from django.db import connection, models
from django.db.models import F
from django.db.models.functions import Greatest, Now

from cachebackend import WriteBehindManager, protocol, writebehind
from cachebackend.errors import WriteBehindError, WriteBehindVersionError
from cachebackend.models import ParkedWrite
from cachebackend.protocol.queue import QueueState
from cachebackend.writebehind import queue
from cachebackend.writebehind.queue import project_queue
from cachebackend.writebehind.stored_columns import StoredColumn, read_stored_columns
from cachebackend.writebehind.versions import version_fault
from tests.integration.write_behind import command, drain_all, one_partition
from tests.sessions import session

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


class Deploys:
    """The versions of one model; the last one that was used is the one that drains know."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.versions: list[Any] = []
        self.table: Any = None

    def version(self, **fields: models.Field[Any, Any]) -> Any:
        """Return a model with these fields beside its key."""
        options = type("Meta", (), {"app_label": "shop", "apps": Apps(["tests.shop"])})
        behind = WriteBehindManager[Any](fields=list(fields))
        copies = {name: field.clone() for name, field in fields.items()}
        attributes = {"__module__": __name__, "Meta": options, "behind": behind} | copies
        model = type("Gauge", (models.Model,), attributes)
        self.versions.append(model)
        return model

    def migrate(self, model: Any) -> None:
        """Give the table the columns of a version."""
        with connection.schema_editor() as editor:
            if self.table is None:
                editor.create_model(model)
            else:
                old = {field.name: field for field in self.table._meta.local_fields}
                new = {field.name: field for field in model._meta.local_fields}
                for name in new.keys() - old.keys():
                    editor.add_field(model, new[name])
                for name in old.keys() - new.keys():
                    editor.remove_field(self.table, old[name])
                for name in new.keys() & old.keys():
                    editor.alter_field(self.table, old[name], new[name])
        self.table = model

    def run(self, model: Any) -> None:
        """Let this process run a version."""
        self._patch.setattr(queue, "apps", model._meta.apps)

    def deploy(self, **fields: models.Field[Any, Any]) -> Any:
        """Migrate to a version and run it."""
        model = self.version(**fields)
        self.migrate(model)
        self.run(model)
        return model


@pytest.fixture
def deploys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deploys]:
    """Versions of a model, in one partition, so that each write meets the others."""
    deploys = Deploys(monkeypatch)
    with one_partition():
        yield deploys
    with connection.schema_editor() as editor:
        editor.delete_model(deploys.table)


def decimal(places: int) -> models.Field[Any, Any]:
    return models.DecimalField(max_digits=20, decimal_places=places, null=True)


INTEGER = models.IntegerField(null=True)
MIDNIGHT = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "after", "change", "expected"),
    [
        (decimal(2), decimal(4), Decimal("123.45"), Decimal("123.45")),
        (decimal(4), decimal(2), Decimal("1.2500"), Decimal("1.25")),
        (INTEGER, decimal(2), F("value") + 7, Decimal(107)),
        (decimal(2), INTEGER, F("value") - 7, 93),
        (INTEGER, decimal(3), Greatest(F("value"), 105), Decimal(105)),
        (INTEGER, models.FloatField(null=True), 5, 5.0),
        (INTEGER, models.CharField(max_length=9, null=True), 5, "5"),
        (decimal(2), INTEGER, None, None),
    ],
)
def test_a_write_queued_before_a_migration_keeps_its_value(
    before: Any, after: Any, change: Any, expected: Any, deploys: Deploys
) -> None:
    """Both in a read before the drain and in the database after it."""
    old = deploys.deploy(value=before)
    old.objects.create(pk=1, value=100)
    old.behind.update(1, value=change)
    new = deploys.deploy(value=after)
    assert new.behind.get(1).value == expected
    assert drain_all()[0].parked == 0
    assert new.objects.get().value == expected


def test_a_date_becomes_a_datetime_at_midnight(deploys: Deploys) -> None:
    """As the migration converts the rows that are stored already."""
    old = deploys.deploy(value=models.DateField(null=True))
    old.objects.create(pk=1)
    old.behind.update(1, value=date(2026, 5, 1))
    new = deploys.deploy(value=models.DateTimeField(null=True))
    drain_all()
    assert new.objects.get().value == MIDNIGHT


def test_a_value_that_has_no_exact_equal_is_parked_with_both_types(deploys: Deploys) -> None:
    """It keeps its value, and is applied by a retry once the column can hold it."""
    old = deploys.deploy(value=decimal(4))
    old.objects.create(pk=1)
    old.behind.update(1, value=Decimal("1.2345"))
    new = deploys.deploy(value=decimal(2))
    with pytest.raises(WriteBehindError, match="more than 2 decimal places"):
        new.behind.get(1)
    assert drain_all()[0].waiting == 1
    [write] = command("parked", code=1)["writes"]
    assert write["changes"] == "value put Decimal('1.2345')"
    assert "was a decimal with 4 decimal places, and now it is a decimal with 2" in write["error"]
    assert command("retry", "--all", code=1) == {"landed": 0, "missing": 0, "left": 1, "unanswered": {}}
    newest = deploys.deploy(value=decimal(6))
    assert command("retry", "--all") == {"landed": 1, "missing": 0, "left": 0, "unanswered": {}}
    assert newest.objects.get().value == Decimal("1.2345")


def test_a_parked_write_keeps_its_value_through_a_migration(deploys: Deploys) -> None:
    """It was refused for another reason, and is retried after the column's type has changed."""
    old = deploys.deploy(value=decimal(2))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_gauge ADD CONSTRAINT low CHECK (value < 100)")
    old.objects.create(pk=1)
    old.behind.update(1, value=Decimal("123.45"))
    assert drain_all()[0].parked == 1
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_gauge DROP CONSTRAINT low")
    new = deploys.deploy(value=decimal(4))
    assert command("retry", "--all") == {"landed": 1, "missing": 0, "left": 0, "unanswered": {}}
    assert new.objects.get().value == Decimal("123.45")


def test_two_versions_write_the_same_row_in_a_rolling_deploy(deploys: Deploys) -> None:
    """Each batch has the values of one version, so their order is kept."""
    old = deploys.deploy(value=INTEGER)
    old.objects.create(pk=1, value=0)
    new = deploys.deploy(value=decimal(2))
    old.behind.update(1, value=F("value") + 1)
    new.behind.update(1, value=F("value") + Decimal("0.5"))
    old.behind.update(1, value=F("value") + 1)
    assert new.behind.get(1).value == Decimal("2.5")
    [drained] = drain_all()
    assert (drained.batches, drained.parked) == (3, 0)
    assert new.objects.get().value == Decimal("2.5")


def test_versions_that_agree_on_a_columns_type_share_a_batch(deploys: Deploys) -> None:
    """Another column that only one of them has makes no difference."""
    old = deploys.deploy(value=INTEGER)
    old.objects.create(pk=1, value=0)
    new = deploys.deploy(value=INTEGER, other=INTEGER)
    old.behind.update(1, value=F("value") + 1)
    new.behind.update(1, value=F("value") + 1, other=3)
    old.behind.update(1, value=F("value") + 1)
    [drained] = drain_all()
    assert drained.batches == 1
    assert (new.objects.get().value, new.objects.get().other) == (3, 3)


def test_a_batch_of_a_release_that_queued_no_types_is_drained(deploys: Deploys) -> None:
    """Its values have the column's present type."""
    model = deploys.deploy(value=decimal(2))
    model.objects.create(pk=1, value=0)
    model.behind.update(1, value=F("value") + 1)
    [meta] = project_queue().nodes[0].call((b"KEYS", b"*:meta"))  # type: ignore[misc]  # a list of one
    assert project_queue().nodes[0].call((b"HDEL", meta, b"enc:1")) == 1
    model.behind.update(1, value=F("value") + 1)
    assert model.behind.get(1).value == 2
    drain_all()
    assert model.objects.get().value == 2


def test_a_write_that_an_earlier_release_parked_is_retried(deploys: Deploys) -> None:
    """It has no types; its values have the column's present one."""
    model = deploys.deploy(value=decimal(2))
    model.objects.create(pk=1)
    changes = ormsgpack.packb({"marker": b"", "changes": [["value", b"p", b"=150"]]})
    ParkedWrite.objects.create(
        label="shop.gauge", partition=0, batch=1, key="1", changes=changes, error="refused"
    )
    assert command("retry", "--all") == {"landed": 1, "missing": 0, "left": 0, "unanswered": {}}
    assert model.objects.get().value == Decimal("1.50")


def test_batches_that_repair_keeps_keep_their_types(deploys: Deploys) -> None:
    """They get other numbers, and the types with them."""
    model = deploys.deploy(value=decimal(2))
    model.objects.create(pk=1, value=0)
    node = project_queue().nodes[0]
    model.behind.update(1, value=F("value") + 1)
    drain_all()
    model.behind.update(1, value=F("value") + 1)
    dumps = {key: node.call((b"DUMP", key)) for key in node.call((b"KEYS", b"wb:*"))}  # type: ignore[union-attr]  # a list
    drain_all()
    for key, dump in dumps.items():
        node.call((b"RESTORE", key, b"0", dump, b"REPLACE"))
    command("repair", "--keep")
    new = deploys.deploy(value=decimal(4))
    drain_all()
    assert new.objects.get().value == 3


def next_fault(model: Any) -> str | None:
    [(partition, _)] = writebehind.dirty_partitions()
    states = project_queue().run(protocol.queue.queue_states(project_queue().context, [partition]))
    [state] = states[partition].values()
    assert isinstance(state, QueueState)
    return version_fault(model, "default", state)


def test_a_column_that_this_code_does_not_know_waits_for_newer_code(deploys: Deploys) -> None:
    """Nothing is parked, and the rest of the row waits too; the newer worker drains it."""
    old = deploys.deploy(value=INTEGER)
    old.objects.create(pk=1, value=0)
    new = deploys.deploy(value=INTEGER, other=INTEGER)
    old.behind.update(1, value=F("value") + 1)
    new.behind.update(1, other=5)
    old.behind.update(1, value=F("value") + 1)
    deploys.run(old)
    with pytest.raises(WriteBehindVersionError, match="'other', which the table of shop.Gauge has"):
        drain_all()
    assert "waits for a worker with newer code" in str(next_fault(old))
    assert old.behind.get(1).value == 2
    assert not ParkedWrite.objects.exists()
    deploys.run(new)
    assert next_fault(new) is None
    drain_all()
    assert (new.objects.get().value, new.objects.get().other) == (2, 5)


def test_a_column_that_the_table_no_longer_has_is_parked(deploys: Deploys) -> None:
    """No newer code knows it; while the table still has it, the write waits."""
    old = deploys.deploy(value=INTEGER, other=INTEGER)
    old.objects.create(pk=1)
    old.behind.update(1, other=5)
    new = deploys.version(value=INTEGER)
    deploys.run(new)
    with pytest.raises(WriteBehindVersionError, match="until the column is dropped"):
        drain_all()
    deploys.migrate(new)
    assert drain_all()[0].waiting == 1
    assert "has no column 'other' any more" in ParkedWrite.objects.get().error


def test_a_value_of_a_newer_type_waits_for_newer_code(deploys: Deploys) -> None:
    """The old worker's model has fewer decimal places than the table; values that fit it are drained."""
    old = deploys.deploy(value=decimal(2))
    old.objects.create(pk=1)
    new = deploys.deploy(value=decimal(4))
    deploys.run(old)
    new.behind.update(1, value=Decimal("1.25"))
    drain_all()
    assert new.objects.get().value == Decimal("1.25")
    new.behind.update(1, value=Decimal("1.2345"))
    with pytest.raises(WriteBehindVersionError, match="2 decimal places, in the table a decimal with 4"):
        drain_all()
    assert "agrees with the table" in str(next_fault(old))
    deploys.run(new)
    drain_all()
    assert new.objects.get().value == Decimal("1.2345")


FLOAT = models.FloatField(null=True)
MOMENT = datetime(2026, 5, 1, 13, 45, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [
        (decimal(4), decimal(2), Decimal("1.2345")),
        (FLOAT, INTEGER, 1.5),
        (decimal(2), INTEGER, Decimal("1.50")),
        (models.DateTimeField(null=True), models.DateField(null=True), MOMENT),
        (FLOAT, decimal(18), 0.1 + 0.2),
    ],
)
def test_a_worker_whose_model_differs_from_the_table_rounds_nothing(
    before: Any, after: Any, value: Any, deploys: Deploys
) -> None:
    """It runs the code before a migration, or the code after it: its drains and retries wait."""
    model = deploys.deploy(value=before)
    model.objects.create(pk=1)
    model.behind.update(1, value=value)
    other = deploys.version(value=after)
    deploys.migrate(other)
    with pytest.raises(WriteBehindVersionError, match="agrees with the table"):
        drain_all()
    assert "agrees with the table" in str(next_fault(model))
    deploys.migrate(model)
    drain_all()
    assert model.objects.get().value == value


def test_a_worker_lands_values_that_the_table_holds_exactly(deploys: Deploys) -> None:
    """The table has more decimal places than the worker's model."""
    old = deploys.deploy(value=decimal(2))
    old.objects.create(pk=1)
    old.behind.update(1, value=Decimal("1.25"))
    new = deploys.version(value=decimal(4))
    deploys.migrate(new)
    drain_all()
    assert new.objects.get().value == Decimal("1.25")


@pytest.mark.parametrize(
    ("narrow", "wide", "value"),
    [
        (INTEGER, models.BigIntegerField(null=True), 3_000_000_000),
        (models.SmallIntegerField(null=True), INTEGER, 70_000),
        (models.GenericIPAddressField(null=True), models.CharField(max_length=50, null=True), "hello"),
    ],
)
def test_an_old_worker_lands_values_that_only_the_newer_table_holds(
    narrow: Any, wide: Any, value: Any, deploys: Deploys
) -> None:
    """The values have the type of the table, not that of the worker's model."""
    old = deploys.deploy(value=narrow)
    old.objects.create(pk=1)
    new = deploys.deploy(value=wide)
    new.behind.update(1, value=value)
    deploys.run(old)
    assert drain_all()[0].parked == 0
    assert new.objects.get().value == value


@pytest.mark.parametrize("new_fields", [{"value": decimal(4)}, {"value": decimal(2), "other": INTEGER}])
def test_a_write_that_an_old_worker_drains_before_the_migration_waits_for_it(
    new_fields: dict[str, models.Field[Any, Any]], deploys: Deploys
) -> None:
    """The old worker agrees with the table, so only the write shows that there is newer code."""
    old = deploys.deploy(value=decimal(2))
    old.objects.create(pk=1)
    new = deploys.version(**new_fields)
    changes = {"other": 5} if "other" in new_fields else {"value": Decimal("1.2345")}
    new.behind.update(1, **changes)
    [drained] = drain_all()
    assert (drained.parked, drained.waiting) == (0, 1)
    new.behind.update(1, value=Decimal("6.78"))
    assert drain_all()[0].waiting == 1
    assert writebehind.retry_waiting("default", due_only=False).applied == 0
    deploys.migrate(new)
    deploys.run(new)
    assert writebehind.retry_waiting("default", due_only=False).applied == 2
    assert new.objects.filter(pk=1, **changes | {"value": Decimal("6.78")}).exists()


def test_a_write_that_no_version_takes_needs_a_person_in_the_end(deploys: Deploys) -> None:
    """A column has become narrower: what nobody has migrated after an hour waits for a decision."""
    old = deploys.deploy(value=decimal(4))
    old.objects.create(pk=1)
    old.behind.update(1, value=Decimal("1.2345"))
    deploys.deploy(value=decimal(2))
    assert drain_all()[0].waiting == 1
    for minutes, is_waiting in ((59, True), (61, False)):
        ParkedWrite.objects.update(created=Now() - timedelta(minutes=minutes))
        writebehind.retry_waiting("default", due_only=False)
        assert ParkedWrite.objects.filter(retry_at__isnull=False).exists() is is_waiting


def test_an_old_process_reads_a_waiting_write_of_a_column_that_it_does_not_know(deploys: Deploys) -> None:
    """It reads the other columns of the write, as from the queue."""
    old = deploys.deploy(value=INTEGER)
    old.objects.create(pk=1, value=0)
    new = deploys.deploy(value=INTEGER, other=INTEGER)
    new.behind.update(1, value=5, other=7)
    with session("SELECT * FROM shop_gauge FOR UPDATE"):
        assert drain_all()[0].waiting == 1
    assert (new.behind.get(1).value, new.behind.get(1).other) == (5, 7)
    assert old.behind.get(1).value == 5


def test_a_creation_with_a_value_of_another_type_cannot_be_compared_with_the_row(deploys: Deploys) -> None:
    """Only a process of the newer version sees whether it was sent twice."""
    old = deploys.deploy(value=decimal(2))
    new = deploys.deploy(value=decimal(4))
    new.objects.create(pk=1, value=Decimal("1.2345"))
    new.behind.create(pk=1, value=Decimal("1.2345"))
    assert new.behind.get(1).value == Decimal("1.2345")
    with pytest.raises(WriteBehindError, match="more than 2 decimal places"):
        old.behind.get(1)


@pytest.mark.parametrize(
    ("narrow", "wide", "value"),
    [
        (INTEGER, models.BigIntegerField(null=True), 3_000_000_000),
        (models.CharField(max_length=3, null=True), models.CharField(max_length=9, null=True), "hello"),
    ],
)
def test_a_value_that_is_too_large_before_the_migration_waits_for_it(
    narrow: Any, wide: Any, value: Any, deploys: Deploys
) -> None:
    """Newer code runs before its migration: no person has to retry the write."""
    old = deploys.deploy(value=narrow)
    old.objects.create(pk=1)
    new = deploys.version(value=wide)
    deploys.run(new)
    new.behind.update(1, value=value)
    [drained] = drain_all()
    assert (drained.parked, drained.waiting) == (0, 1)
    deploys.migrate(new)
    writebehind.retry_waiting("default", due_only=False)
    assert new.objects.get().value == value


def test_a_value_that_is_too_large_for_its_own_column_is_parked_for_a_person(deploys: Deploys) -> None:
    """The table is of the worker's own version, so no migration makes it fit."""
    model = deploys.deploy(value=INTEGER, name=models.CharField(max_length=3, null=True), price=decimal(2))
    model.objects.create(pk=1, value=2**31 - 1)
    model.behind.update(1, value=F("value") + 1, name="abc", price=Decimal(1))
    [drained] = drain_all()
    assert (drained.parked, drained.waiting) == (1, 0)


def test_a_waiting_write_is_not_frozen_by_the_retry_of_an_old_worker(deploys: Deploys) -> None:
    """A column that the old worker does not know; the newer worker retries the write by itself."""
    old = deploys.deploy(value=INTEGER)
    old.objects.create(pk=1, value=0)
    old.objects.create(pk=2, value=0)
    new = deploys.deploy(value=INTEGER, other=INTEGER)
    new.behind.update(1, other=5)
    new.behind.update(2, value=5)
    with session("SELECT * FROM shop_gauge FOR UPDATE"):
        assert drain_all()[0].waiting == 2
    deploys.run(old)
    assert writebehind.retry_waiting("default", due_only=False).applied == 1
    assert "newer code" in ParkedWrite.objects.get().error
    deploys.run(new)
    new.behind.update(1, value=7)
    drain_all()
    assert writebehind.retry_waiting("default", due_only=False).applied == 2
    assert list(new.objects.order_by("pk").values_list("value", "other")) == [(7, 5), (5, None)]


def test_a_parked_write_is_not_rounded_by_a_retry(deploys: Deploys) -> None:
    """The worker's model has more decimal places than the table."""
    old = deploys.deploy(value=decimal(2))
    old.objects.create(pk=1)
    new = deploys.version(value=decimal(4))
    deploys.run(new)
    changes = ormsgpack.packb({"marker": b"", "changes": [["value", b"p", b"=12345"]], "codes": ["n4"]})
    ParkedWrite.objects.create(label="shop.gauge", batch=1, partition=0, key="1", changes=changes)
    assert command("retry", "--all", code=1)["left"] == 1
    deploys.migrate(new)
    assert command("retry", "--all")["landed"] == 1
    assert new.objects.get().value == Decimal("1.2345")


@pytest.mark.parametrize(
    ("native", "value"),
    [("mood", "sad"), ("uuid", "6f0c4a2c-7d7e-4a43-8f2f-1c2f0c0c0c0c"), ("jsonb", "{}"), ("integer", "5")],
)
def test_a_text_field_over_a_column_of_another_type_is_written(
    native: str, value: str, deploys: Deploys
) -> None:
    """The ORM writes it; a value that the type refuses parks its row, and the other rows land."""
    model = deploys.deploy(value=models.CharField(max_length=50, null=True))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        cursor.execute("ALTER TABLE shop_gauge DROP COLUMN value")
        cursor.execute(f"ALTER TABLE shop_gauge ADD COLUMN value {native}")
    try:
        model.objects.create(pk=1)
        model.objects.create(pk=2)
        model.behind.update_many({1: {"value": value}, 2: {"value": "no such value"}})
        [drained] = drain_all()
        assert (drained.rows, drained.parked) == (1, 1)
        assert str(model.objects.get(pk=1).value) == value
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TYPE mood CASCADE")


def test_a_column_of_a_domain_has_the_type_of_its_values(deploys: Deploys) -> None:
    """The domain has constraints of its own, and its values have the encoding of its base type."""
    model = deploys.deploy(value=INTEGER)
    with connection.cursor() as cursor:
        cursor.execute("CREATE DOMAIN level AS integer CHECK (VALUE < 10)")
        cursor.execute("ALTER TABLE shop_gauge ALTER COLUMN value TYPE level")
    try:
        columns = read_stored_columns(model, "default")
        assert columns["value"] == StoredColumn("integer", "level", "i")
        assert columns["id"] == StoredColumn("bigint", "bigint", "i")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP DOMAIN level CASCADE")


DATETIME = models.DateTimeField(null=True)
DECIMAL = models.DecimalField(max_digits=40, decimal_places=3, null=True)
MOMENT = datetime(2020, 1, 1, 2, 3, 4, 654321, tzinfo=UTC)


class SecondsField(models.DateTimeField):  # type: ignore[type-arg]  # generic in the stubs only
    """A datetime whose column has no microseconds."""

    def db_type(self, connection: Any) -> str:
        return "timestamp(0) with time zone"


@pytest.mark.parametrize(
    ("field", "value", "types"),
    [
        (DATETIME, MOMENT, ["timestamptz(0)"]),
        (DATETIME, MOMENT, ["timestamptz(3)", "base"]),
        (DATETIME, MOMENT, ["date", "base", "base_1"]),
        (DECIMAL, Decimal("1234567.89"), ["numeric(40, 0)", "base"]),
        (DECIMAL, Decimal("1234567.89"), ["real", "base", "base_1"]),
        (DECIMAL, Decimal("1.005"), ["money"]),
    ],
)
def test_a_value_that_the_column_would_round_waits(
    field: models.Field[Any, Any], value: Any, types: list[str], deploys: Deploys
) -> None:
    """Also if the column is of a domain, or of a domain over another one."""
    model = deploys.deploy(value=field)
    model.objects.create(pk=1)
    names = ["base", "base_1"][: len(types) - 1]
    with connection.cursor() as cursor:
        for name, base in zip(names, [types[0], *names], strict=False):
            cursor.execute(f"CREATE DOMAIN {name} AS {base}")
        cursor.execute("ALTER TABLE shop_gauge DROP COLUMN value")
        cursor.execute(f"ALTER TABLE shop_gauge ADD COLUMN value {[types[0], *names][-1]}")
    try:
        model.behind.update(1, value=value)
        with pytest.raises(WriteBehindVersionError):
            drain_all()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP DOMAIN IF EXISTS base_1, base CASCADE")


def test_a_field_that_declares_a_rounding_type_is_written(deploys: Deploys) -> None:
    """As the ORM writes it."""
    model = deploys.deploy(value=SecondsField(null=True))
    model.objects.create(pk=1)
    model.behind.update(1, value=MOMENT)
    drain_all()
    assert model.objects.get().value == MOMENT.replace(second=5, microsecond=0)


@pytest.mark.parametrize("other", [5, Greatest(F("other"), 5)])
def test_a_deletion_deletes_queued_changes_of_columns_that_its_code_does_not_know(
    other: Any, deploys: Deploys
) -> None:
    """The row that is created after it has none of them."""
    old = deploys.deploy(value=INTEGER)
    old.objects.create(pk=1, value=0)
    new = deploys.deploy(value=INTEGER, other=INTEGER)
    new.behind.update(1, other=other)
    old.behind.delete(1)
    old.behind.create(pk=1, value=1)
    assert new.behind.get(1).other is None
    assert drain_all()[0].parked == 0
    assert (new.objects.get().value, new.objects.get().other) == (1, None)


def test_a_creation_is_drained_after_changes_of_columns_that_its_code_does_not_know(deploys: Deploys) -> None:
    """They change no row, and not the new one."""
    old = deploys.deploy(value=INTEGER)
    new = deploys.deploy(value=INTEGER, other=INTEGER)
    new.behind.update(1, other=5)
    old.behind.create(pk=1, value=1)
    assert drain_all()[0].missing == 1
    assert (new.objects.get().value, new.objects.get().other) == (1, None)


def test_a_deletion_needs_no_column_that_is_gone(deploys: Deploys) -> None:
    """Neither one that is queued before it, nor one that an earlier release left beside it."""
    old = deploys.deploy(value=INTEGER, other=INTEGER)
    old.objects.bulk_create([old(pk=pk) for pk in (1, 2, 3)])
    new = deploys.version(value=INTEGER)
    old.behind.update_many({1: {"other": 5}, 2: {"value": 5}})
    new.behind.delete(1)
    new.behind.delete(2)
    [batch] = project_queue().nodes[0].call((b"KEYS", b"*:1"))  # type: ignore[misc]  # a list of one
    project_queue().nodes[0].call((b"HSET", batch, b"2\0other\0p", b"=5"))
    stored = ormsgpack.packb({"marker": b"x", "changes": [["other", b"p", b"=5"]], "codes": ["i"]})
    ParkedWrite.objects.create(label="shop.gauge", batch=1, partition=0, key="3", changes=stored)
    deploys.migrate(new)
    deploys.run(new)
    [drained] = drain_all()
    assert (drained.rows, drained.parked) == (2, 0)
    assert command("retry", "--all")["landed"] == 1
    assert not new.objects.exists()
