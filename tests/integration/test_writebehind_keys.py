"""Primary keys that the database holds equal although they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps.registry import Apps
from django.db import OperationalError, connection, models
from django.db.models import F

from cachebackend import WriteBehindManager, checks
from cachebackend.backend import collations
from cachebackend.errors import WriteBehindRefusedError
from cachebackend.writebehind import exact_keys, queue
from cachebackend.writebehind.backoff import Backoff
from tests.integration.write_behind import drain_all, one_partition
from tests.interleavings.clocks import StepClock

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


class OwnText(models.CharField):  # type: ignore[type-arg]  # not generic at run time
    """A class of fields of a project, which names the column's type itself."""

    def db_type(self, _: Any) -> str:
        return "char(20)"


@pytest.fixture(params=[models.CharField, OwnText])
def nick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A model whose keys are of the type char(n), which ignores blanks at the end."""
    monkeypatch.setattr(exact_keys, "_backoff", Backoff(StepClock("writer")))
    options = type("Meta", (), {"app_label": "shop", "apps": Apps(["tests.shop"]), "db_table": "shop_nick"})
    attributes = {
        "__module__": __name__,
        "Meta": options,
        "name": request.param(max_length=20, primary_key=True),
        "count": models.IntegerField(default=0),
        "behind": WriteBehindManager[Any](fields=["count"]),
    }
    model: Any = type("Nick", (models.Model,), attributes)
    monkeypatch.setattr(queue, "apps", model._meta.apps)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE shop_nick (name char(20) PRIMARY KEY, count integer NOT NULL)")
    model.objects.create(name="bob", count=0)
    yield model
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE shop_nick")
    collations._exact.clear()


def test_a_model_whose_keys_can_be_equal_is_refused(nick: Any) -> None:
    """At each call, and by the system check; the message names the reason and the ways out."""
    for call in (
        lambda: nick.behind.update("bob", count=1),
        lambda: nick.behind.update_many({"bob": {"count": 1}}),
        lambda: nick.behind.create(name="eve"),
        lambda: nick.behind.delete("bob"),
        lambda: nick.behind.get("bob"),
    ):
        with pytest.raises(WriteBehindRefusedError, match=r"equal by the type char\(n\).*deterministic"):
            call()
    [found] = checks.check_write_behind_keys(databases=["default"])
    assert (found.id, found.obj) == ("ringcache.E013", nick)
    assert checks.check_write_behind_keys() == []


@pytest.mark.parametrize("nick", [models.CharField], indirect=True)
def test_a_key_that_is_exact_is_asked_about_once(nick: Any, django_assert_num_queries: Any) -> None:
    """The database's answer is remembered for the process."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_nick ALTER name TYPE varchar(20)")
    with django_assert_num_queries(1):
        nick.behind.update("bob", count=F("count") + 1)
        nick.behind.update("bob ", count=F("count") + 1)
    drain_all()
    assert nick.objects.get().count == 1


def test_writes_do_not_need_the_database(nick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is away, and in an event loop, they are taken; the drain loses none of equal keys."""

    def away(*_: Any) -> Any:
        raise OperationalError

    with one_partition():
        asyncio.run(nick.behind.aupdate("bob", count=F("count") + 1))
        with monkeypatch.context() as patch:
            patch.setattr(exact_keys, "inexact_column", away)
            nick.behind.update("bob ", count=F("count") + 10)
        nick.behind.update("bob  ", count=F("count") + 100)  # the database is asked again only later
        drain_all()
    assert nick.objects.get().count == 111
