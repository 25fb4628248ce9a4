"""Queries whose SQL is made once."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.db import models
from django.db.models import F

from cachebackend.writebehind.remembered_queries import Parameter, RememberedQuery, RememberedUpdate
from tests.shop.models import Meter, Tag

pytestmark = pytest.mark.django_db


def test_the_queryset_is_built_once_and_executed_with_other_values() -> None:
    """The values are prepared, and the columns are converted, as Django does."""
    built: list[str] = []

    def build(using: str) -> models.QuerySet[Meter, Any]:
        built.append(using)
        found = Meter.objects.using(using).filter(pk=Parameter("pk", Meter, "pk"))
        return found.values_list("total", "data")

    one, other = Meter.objects.create(total="1.50", data={"a": [1]}), Meter.objects.create(total=2)
    query = RememberedQuery(build)
    assert query.rows("default", pk=str(one.pk)) == [(Decimal("1.50"), {"a": [1]})]
    assert query.rows("default", pk=other.pk) == [(Decimal("2.00"), other.data)]
    assert query.rows("default", pk=uuid.uuid4()) == []
    assert built == ["default"]


def test_constants_and_several_parameters_keep_their_places() -> None:
    """Also in a list of values and in a limited query."""
    Tag.objects.bulk_create([Tag(pk=pk, name=name) for pk, name in enumerate("abcde", 1)])
    names = [Parameter("first", Tag, "name"), Parameter("second", Tag, "name")]
    query = RememberedQuery(
        lambda using: (
            Tag.objects.using(using).filter(pk__gt=1, name__in=names).order_by("pk").values_list("pk")[:2]
        )
    )
    assert list(query.rows("default", first="a", second="c")) == [(3,)]
    assert list(query.rows("default", first="e", second="b")) == [(2,), (5,)]


def test_an_update_sets_constants_values_and_expressions() -> None:
    """And returns the number of rows that it changed."""
    meter, other = Meter.objects.create(count=5), Meter.objects.create(count=5)
    update = RememberedUpdate(
        lambda using: Meter.objects.using(using).filter(pk=Parameter("pk", Meter, "pk")),
        label="set",
        level=Parameter("level", Meter, "level"),
        count=F("count") + Parameter("more", Meter, "count"),
    )
    assert update.update("default", pk=meter.pk, level=None, more=2) == 1
    assert update.update("default", pk=meter.pk, level=3, more=10) == 1
    assert update.update("default", pk=uuid.uuid4(), level=3, more=10) == 0
    meter.refresh_from_db()
    assert (meter.label, meter.level, meter.count) == ("set", 3, 17)
    assert Meter.objects.get(pk=other.pk).count == 5
