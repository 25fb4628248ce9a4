"""Write-behind to several Postgres databases: which one a write is for, and what if one is away."""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import pytest
from django.db import connection, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.test import TransactionTestCase, override_settings
from django.test.testcases import _DatabaseFailure

from cachebackend import writebehind
from cachebackend.errors import WriteBehindDatabaseError
from cachebackend.models import OutboxRow, ParkedWrite, WriteBehindCheckpoint
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter, Photo

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
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
        # Each test allows only the databases of the project
        own.ensure_connection = MethodType(BaseDatabaseWrapper.ensure_connection, own)
        with own.schema_editor() as editor:
            for model in TABLES:
                editor.create_model(model)
    yield connections.databases["two"]
    with django_db_blocker.unblock():
        own.close()
        del connections["two"]
        del connections.databases["two"]
        with connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def two(second: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The alias of that database, empty; in this process the routers send photos to it."""
    for name, _ in TransactionTestCase._disallowed_connection_methods:  # each test allows only the project's
        if isinstance(refused := getattr(connections["two"], name), _DatabaseFailure):
            monkeypatch.setattr(connections["two"], name, refused.wrapped)
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
