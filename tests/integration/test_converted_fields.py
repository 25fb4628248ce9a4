"""Fields that convert what they read by code of their own: each read of a cached row converts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from cachebackend import CachedManager
from tests.second_models import second_model
from tests.zoo.models import Author

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


class Translated(models.CharField):
    """A text that is read in the active language and time zone."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        zone = timezone.get_current_timezone_name()
        return None if value is None else f"{value} in {translation.get_language()} and {zone}"


class Called(models.CharField):
    """A field that reads what cannot be stored."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return None if value is None else (lambda: value)


class Exact(json.JSONDecoder):
    """Reads fractions as decimals."""

    def __init__(self, **options: Any) -> None:
        super().__init__(parse_float=Decimal, **options)


@pytest.fixture
def authors_with() -> Callable[[Any], Any]:
    """Return a function that makes a model of the table of authors, whose names have another field."""
    return lambda field: second_model(Author, name=field, rank=models.IntegerField(), cached=CachedManager())


@pytest.mark.parametrize(
    "read",
    [
        lambda of, pk: of.get(pk=pk).name,
        lambda of, pk: of.in_bulk([pk])[pk].name,
        lambda of, pk: of.filter(rank=1)[0].name,
        lambda of, pk: of.get(rank=1).name,
        lambda of, pk: of.filter(rank=1).values_list("name", flat=True)[0],
        lambda of, pk: of.filter(rank=1).only("name")[0].name,
    ],
    ids=["get", "in_bulk", "list", "get of a query", "values", "only"],
)
def test_a_value_is_read_in_the_language_and_zone_of_each_reader(
    authors_with: Callable[[Any], Any], read: Any
) -> None:
    """And from the cache."""
    author = Author.objects.create(name="tea", rank=1)
    model = authors_with(Translated(max_length=40))
    for language, zone in [("en", "UTC"), ("nl", "Asia/Tokyo"), ("nl", "UTC"), ("en", "UTC")]:
        with translation.override(language), timezone.override(zone):
            assert read(model.cached, author.pk) == f"tea in {language} and {zone}"
    with CaptureQueriesContext(connection) as queries:
        read(model.cached, author.pk)
    assert len(queries) == 0


def test_a_value_that_cannot_be_stored_is_read(authors_with: Callable[[Any], Any]) -> None:
    """What is stored is the value of the database."""
    author = Author.objects.create(name="tea", rank=1)
    model = authors_with(Called(max_length=40))
    for _ in range(2):
        assert model.cached.get(pk=author.pk).name() == "tea"
        assert [each.name() for each in model.cached.filter(rank=1)] == ["tea"]


def test_a_release_that_decodes_in_another_way_reads_rows_of_the_release_before(
    authors_with: Callable[[Any], Any],
) -> None:
    """And the other way round, while both run."""
    author = Author.objects.create(name="[1.5]", rank=1)
    before, after = authors_with(models.JSONField()), authors_with(models.JSONField(decoder=Exact))
    for _ in range(2):
        for model, kind in ((before, float), (after, Decimal)):
            assert [type(each) for each in model.cached.get(pk=author.pk).name] == [kind]
            assert [type(each) for row in model.cached.filter(rank=1) for each in row.name] == [kind]


@pytest.mark.postgres
def test_an_array_has_values_of_its_own_field(authors_with: Callable[[Any], Any]) -> None:
    """Which convert by their own code."""
    author = Author.objects.create(name="tea", rank=1)
    model = authors_with(ArrayField(Translated(max_length=40)))
    for language in ("en", "nl"):
        with translation.override(language):
            assert model.cached.get(pk=author.pk).name[0] == f"t in {language} and UTC"
