"""Write-behind to several Postgres databases: which one a write is for, and what if one is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import MethodType
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import OperationalError, connection, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.test import override_settings
from django.test.testcases import _DatabaseFailure

from cachebackend import writebehind
from cachebackend.errors import WriteBehindDatabaseError
from cachebackend.models import OutboxRow, ParkedWrite, WriteBehindCheckpoint
from cachebackend.monitoring.queues import queue_figures
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.queue import project_queue
from tests.asking_threads import close_connections
from tests.integration.test_writebehind_removed import GONE, queue_as_gone
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter, Photo

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: Opens a connection to any database; each test allows only the databases of the project.
_ensure: list[Any] = []
TABLES = (Photo, OutboxRow, ParkedWrite, WriteBehindCheckpoint)


class Router:
    """Sends photos to a database of their own.

    Attributes:
        photos: Its alias in this process.
    """

    photos = "two"

    def db_for_write(self, model: type[models.Model], **_: Any) -> str | None:
        return Router.photos if model is Photo else None

    db_for_read = db_for_write


@pytest.fixture(scope="module")
def second(django_db_setup: None, django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    """The settings of a second Postgres database with the tables of photos and of write-behind."""
    name = f"{connection.settings_dict['NAME']}_two"
    with django_db_blocker.unblock():
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        connections.databases["two"] = connections.databases["default"] | {"NAME": name}
        own = connections["two"]
        _ensure.append(BaseDatabaseWrapper.ensure_connection)
        own.ensure_connection = MethodType(_ensure[-1], own)
        with own.schema_editor() as editor:
            for model in TABLES:
                editor.create_model(model)
    yield connections.databases["two"]
    with django_db_blocker.unblock():
        close_connections("two")
        own.close()
        del connections["two"]
        del connections.databases["two"]
        with connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def two(second: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The alias of that database, empty; in this process the routers send photos to it."""
    for name, method in list(vars(connections["two"]).items()):  # each test allows only the project's
        if isinstance(method, _DatabaseFailure):
            monkeypatch.setattr(connections["two"], name, method.wrapped)
    forbids = BaseDatabaseWrapper.ensure_connection

    def ensure_connection(own: BaseDatabaseWrapper) -> None:
        (_ensure[-1] if own.alias in {"two", "again"} else forbids)(own)

    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", ensure_connection)
    for model in TABLES:
        model._default_manager.using("two").all().delete()
    forget_database(monkeypatch)
    with one_partition(), override_settings(DATABASE_ROUTERS=[Router()]):
        yield "two"


def forget_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Continue as another process, which has written nothing yet."""
    monkeypatch.setattr(Photo.behind.rows, "_using", None)


def add_view(photo: Photo) -> None:
    Photo.behind.update(photo.pk, views=F("views") + 1)


@pytest.mark.parametrize("write", ["update", "delete"])
def test_a_batch_of_another_database_does_not_land(
    two: str, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Processes whose routers disagree; a worker whose routers agree drains it, and reads say so too."""
    photo = Photo.objects.using(two).create(pk=1)
    Photo.objects.using("default").create(pk=1)
    add_view(photo) if write == "update" else Photo.behind.delete(photo.pk)
    monkeypatch.setattr(Router, "photos", "default")
    forget_database(monkeypatch)
    with pytest.raises(WriteBehindDatabaseError, match="written for the database 'two'.*to 'default'"):
        drain_all()
    with pytest.raises(WriteBehindDatabaseError):
        Photo.behind.get(1)
    assert Photo.objects.using("default").filter(views=0).exists()
    monkeypatch.setattr(Router, "photos", "two")
    drain_all()
    views = list(Photo.objects.using(two).values_list("views", flat=True))
    assert views == ([1] if write == "update" else [])


def test_a_batch_of_the_default_database_lands_in_no_other(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the other direction."""
    monkeypatch.setattr(Router, "photos", "default")
    photo = Photo.objects.using("default").create(pk=1)
    add_view(photo)
    monkeypatch.setattr(Router, "photos", "two")
    forget_database(monkeypatch)
    with pytest.raises(WriteBehindDatabaseError, match="written for the database 'default'.*to 'two'"):
        drain_all()


def test_two_databases_are_drained(two: str) -> None:
    """Each model to its own."""
    photo, meter = Photo.objects.using(two).create(pk=1), Meter.objects.create()
    add_view(photo)
    Meter.behind.update(meter.pk, count=F("count") + 1)
    assert Photo.behind.get(1).views == 1
    assert sum(each.rows for each in drain_all()) == 2
    assert (Photo.objects.using(two).get().views, Meter.objects.get().count) == (1, 1)
    assert command("status")["well"]
    assert writebehind.databases() == ["default", "two"]


@pytest.fixture
def away(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second database does not answer; each database has a drained partition and a queued write."""
    photo, meter = Photo.objects.using(two).create(pk=1), Meter.objects.create()
    for _ in range(2):
        add_view(photo)
        Meter.behind.update(meter.pk, count=F("count") + 1)
        if not WriteBehindCheckpoint.objects.exists():
            drain_all()
    ParkedWrite.objects.create(label="shop.meter", partition=0, batch=1, key="1", changes=b"", error="no")
    disconnect(two, monkeypatch)


def disconnect(using: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a database refuse connections, in all threads."""
    real = BaseDatabaseWrapper.cursor

    def cursor(own: BaseDatabaseWrapper) -> Any:
        if own.alias == using:
            message = "connection refused"
            raise OperationalError(message)
        return real(own)

    monkeypatch.setattr(BaseDatabaseWrapper, "cursor", cursor)
    monkeypatch.setattr(connections[using], "cursor", MethodType(cursor, connections[using]))


def test_a_database_that_is_away_hides_no_other(away: None) -> None:
    """Status, reasons and commands cover the partitions of the one that answers, and name the other."""
    by_label = {each.partition.label: each for each in writebehind.partition_statuses()}
    near, far = by_label["shop.meter"], by_label["shop.photo"]
    assert (near.error, near.is_database_seen, near.landed, near.parked) == (None, True, 1, 1)
    assert not far.is_database_seen
    assert "'two'" in str(far.error)
    reasons = {(each["partition"], each["kind"]) for each in command("status", code=1)["reasons"]}
    assert reasons == {("shop.photo:0", "missing"), ("shop.meter:0", "parked")}
    for action in ("repair", "nodes", "removed"):
        assert list(command(action, code=1)["unanswered"]) == ["database 'two'"]
    report = command("parked", code=1)
    assert (report["parked"], list(report["unanswered"])) == (1, ["database 'two'"])
    report = command("drain", "--timeout", "1", code=1)
    assert (report["rows"], list(report["partitions"])) == (1, ["shop.photo:0"])
    report = command("retry", "--model", "shop.meter", code=1)
    assert (report["left"], list(report["unanswered"])) == (None, ["database 'two'"])
    report = command("discard", "--all", "--yes", code=1)
    assert (report["discarded"], list(report["unanswered"])) == (1, ["database 'two'"])


def test_writes_of_a_model_that_is_gone_are_found_in_any_database(
    two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if no model of the project is drained to it any more; they can be discarded."""
    monkeypatch.setattr(Router, "photos", "default")
    for using in ("two", "default"):
        ParkedWrite.objects.using(using).create(
            label="shop.gone", partition=0, batch=1, key="1", changes=b"", error="no"
        )
    assert writebehind.databases() == ["default"]
    assert writebehind.all_databases() == ["default", "two"]
    assert command("status", code=1)["parked"] == 2
    assert command("removed", code=1)["models"] == [{"model": "shop.gone", "partitions": [], "parked": 2}]
    monkeypatch.setattr("cachebackend.writebehind.status.behind_models", list)
    assert command("parked", code=1)["parked"] == 2
    assert command("discard", "--all", "--yes") == {"discarded": 2, "unanswered": {}}


def test_two_aliases_of_one_database_show_its_writes_once(two: str) -> None:
    """Such as one past a pooler; a replica and a database without the tables show none."""
    connections.databases["again"] = connections.databases["default"] | {}
    try:
        assert "again" not in writebehind.all_databases()
    finally:
        close_connections("again")
        del connections.databases["again"]


def test_status_counts_the_queued_writes_of_models_that_are_gone(two: str) -> None:
    """It names them, with the way out."""
    client = project_queue()
    client.fold_one(
        Partition("shop.gone", 0), Meter.behind.rows.change(Meter().pk, {"count": F("count") + 1})
    )
    report = command("status", code=1)
    assert report["waiting"] == 1
    assert [(each["partition"], each["kind"]) for each in report["reasons"]] == [("shop.gone:0", "removed")]


@pytest.mark.parametrize("words", [("--drain", GONE, "--into", "shop.Meter"), ("--drop", GONE, "--yes")])
def test_writes_of_a_removed_model_are_kept_while_a_database_is_away(
    two: str, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """They may belong to it, also if no model of the project is drained to it any more."""
    monkeypatch.setattr(Router, "photos", "default")
    meter = Meter.objects.create()
    queue_as_gone(meter, 5)
    ParkedWrite.objects.using(two).create(label=GONE, partition=0, batch=1, key="1", changes=b"", error="no")
    disconnect(two, monkeypatch)
    with pytest.raises(CommandError, match="database 'two' does not answer"):
        command("removed", *words)
    assert not WriteBehindCheckpoint.objects.exists()
    assert Meter.objects.get().count == 0
    report = command("removed", code=1)
    assert list(report["unanswered"]) == ["database 'two'"]
    assert report["models"] == [{"model": GONE, "partitions": [f"{GONE}:0"], "parked": 0}]


def test_a_database_that_is_away_has_an_unknown_number_of_parked_writes(
    two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands name it and exit with 1, and a number without a database may be one of its writes."""
    monkeypatch.setattr(Router, "photos", "default")
    for using in ("two", "default"):
        write = ParkedWrite.objects.using(using).create(
            label="shop.meter", partition=0, batch=1, key="1", changes=b"", error="no"
        )
    disconnect(two, monkeypatch)
    report = command("parked", code=1)
    assert (report["parked"], list(report["unanswered"])) == (1, ["database 'two'"])
    for number in (f"two:{write.pk}", str(write.pk)):
        with pytest.raises(CommandError, match="database 'two' does not answer"):
            command("discard", number, "--yes")
    assert command("discard", f"default:{write.pk}", "--yes", code=1)["discarded"] == 1
    figures = queue_figures()
    assert figures.parked is None
    [fault] = [fault.message for fault in figures.faults if "parked" in fault.message]
    assert "database 'two' does not answer" in fault


@pytest.mark.parametrize("photos", ["two", "default"])
def test_a_database_that_hangs_delays_nothing_but_its_own_answer(
    two: str, monkeypatch: pytest.MonkeyPatch, photos: str
) -> None:
    """The page and the metrics wait for a limited time; a thread of its own waits for the database."""
    photo = Photo.objects.using(two).create(pk=1)
    add_view(photo)
    monkeypatch.setattr(Router, "photos", photos)
    forget_database(monkeypatch)
    released = threading.Event()
    real = BaseDatabaseWrapper.cursor

    def cursor(own: BaseDatabaseWrapper) -> Any:
        if own.alias == two:
            released.wait(60)
        return real(own)

    monkeypatch.setattr(BaseDatabaseWrapper, "cursor", cursor)
    monkeypatch.setattr(connections[two], "cursor", MethodType(cursor, connections[two]))
    for module in (
        *("writebehind.status", "writebehind.checkpoints", "monitoring.parked", "monitoring.blocking"),
    ):
        monkeypatch.setattr(f"cachebackend.{module}.READ_TIMEOUT", 0.2)
    try:
        faults = [fault.message for fault in queue_figures().faults if "'two'" in fault.message]
        assert not released.is_set()
    finally:
        released.set()
    assert faults
    assert all("does not answer" in fault for fault in faults)
