"""Rows of two models that refer to each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps.registry import Apps
from django.db import connection, models

from cachebackend import WriteBehindManager, writebehind
from cachebackend.models import ParkedWrite
from cachebackend.writebehind import queue
from tests.integration.write_behind import command, drain_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def cities(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """A model of countries, with a capital, and one of cities, with a country."""
    registry = Apps(["tests.shop"])

    def model(name: str, field: str, other: str) -> Any:
        options = type("Meta", (), {"app_label": "shop", "apps": registry})
        reference = models.ForeignKey(other, models.CASCADE, null=True, related_name="+")
        behind = WriteBehindManager[Any](fields=[field])
        attributes = {"__module__": __name__, "Meta": options, "behind": behind, field: reference}
        return type(name, (models.Model,), attributes)

    country, city = model("Country", "capital", "shop.City"), model("City", "country", "shop.Country")
    monkeypatch.setattr(queue, "apps", registry)
    with connection.schema_editor() as editor:
        editor.create_model(country)
        editor.create_model(city)
    yield country, city
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE shop_country, shop_city CASCADE")


def queue_cycle(cities: tuple[Any, Any], pk: int) -> None:
    """Each write is possible when it is queued, but the queue folds the two writes of the country."""
    country, city = cities
    country.behind.create(pk=pk)
    city.behind.create(pk=pk, country_id=pk)
    country.behind.update(pk, capital=pk)


def test_new_rows_of_two_models_may_refer_to_each_other(cities: tuple[Any, Any]) -> None:
    """They wait, and are written together; a row that refers to a missing one does not hold them up."""
    country, city = cities
    city.behind.create(pk=9, country_id=404)
    city.behind.create(pk=8, country_id=1)
    queue_cycle(cities, 1)
    drain_all()
    assert writebehind.retry_waiting("default", due_only=False).applied == 3
    assert list(country.objects.values_list("pk", "capital_id")) == [(1, 1)]
    assert list(city.objects.order_by("pk").values_list("pk", "country_id")) == [(1, 1), (8, 1)]
    assert ParkedWrite.objects.get().key == "9"


def test_a_retry_writes_several_cycles(cities: tuple[Any, Any]) -> None:
    """Each by itself, and then the rows that refer to them."""
    country, city = cities
    country.behind.create(pk=3, capital_id=1)
    city.behind.create(pk=4, country_id=3)
    for pk in (1, 2):
        queue_cycle(cities, pk)
    drain_all()
    assert command("retry", "--all")["left"] == 0
    assert (country.objects.count(), city.objects.count()) == (3, 3)


def test_rows_that_refer_to_each_other_are_deleted(cities: tuple[Any, Any]) -> None:
    """Neither of them can be deleted before the other."""
    country, city = cities
    queue_cycle(cities, 1)
    drain_all()
    command("retry", "--all")
    country.behind.delete(1)
    city.behind.delete(1)
    drain_all()
    assert command("retry", "--all")["left"] == 0
    assert (country.objects.count(), city.objects.count()) == (0, 0)
