"""Two models of one table: a change of a row of one is a change of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, models, transaction
from django.test import override_settings

from cachebackend import CachedManager, invalidate
from cachebackend.testing import empty_ring
from tests.second_models import second_model
from tests.zoo.models import Singer

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def other() -> Iterator[Any]:
    """A second model of the table, which is cached in another alias."""
    second = settings.CACHES["default"] | {"KEY_PREFIX": "second"}
    with (
        override_settings(CACHES={**settings.CACHES, "second": second}),
        empty_ring(),
    ):
        yield second_model(
            Singer,
            name=models.CharField(max_length=40),
            rank=models.IntegerField(),
            cached=CachedManager(alias="second"),
        )


def by_hand(pk: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("UPDATE zoo_singer SET rank = 7 WHERE id = %s", [pk])
        cursor.execute("SET session_replication_role = origin")
    invalidate(Singer.objects.get(pk=pk))


def by_trigger(pk: int) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE zoo_singer SET rank = 7 WHERE id = %s", [pk])


def by_django(pk: int) -> None:
    Singer.objects.filter(pk=pk).update(rank=7)


@pytest.mark.parametrize("write", [by_hand, by_trigger, by_django])
def test_what_is_cached_of_another_model_of_the_table(other: Any, write: Callable[[int], None]) -> None:
    """Its rows, and its results in the other cache alias."""
    singer = Singer.objects.create(name="Sappho", rank=1)
    ranks = other.cached.filter(rank__gt=0).cached(depends_on=[Singer]).values_list("rank", flat=True)
    assert (other.cached.get(pk=singer.pk).rank, list(ranks.all())) == (1, [1])
    write(singer.pk)
    assert (other.cached.get(pk=singer.pk).rank, list(ranks.all())) == (7, [7])


def test_the_results_of_another_model_of_the_table(other: Any) -> None:
    """``invalidate`` of the model deletes them, too."""
    singer = Singer.objects.create(name="Sappho", rank=1)
    ranks = other.cached.filter(rank__gt=0).cached(depends_on=[Singer]).values_list("rank", flat=True)
    assert list(ranks.all()) == [1]
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("UPDATE zoo_singer SET rank = 7 WHERE id = %s", [singer.pk])
        cursor.execute("SET session_replication_role = origin")
    invalidate(Singer)
    assert list(ranks.all()) == [7]
