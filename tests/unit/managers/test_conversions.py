"""Which fields convert what they read by code of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.test.utils import isolate_apps

from cachebackend.managers.conversions import Conversions


class Own(models.CharField):
    def from_db_value(self, value: Any, *_: Any) -> Any:
        return None if value is None else f"own {value}"


class Listed(models.CharField):
    def get_db_converters(self, _: Any) -> list[Any]:
        return [lambda value, *_: value]


@isolate_apps("tests.zoo")
def converted(field: Any) -> bool:
    class Row(models.Model):
        column = field

        class Meta:
            app_label = "zoo"

    return bool(Conversions(Row).positions)


@pytest.mark.parametrize(
    "field",
    [
        Own(max_length=40),
        Listed(max_length=40),
        models.JSONField(decoder=json.JSONDecoder),
        ArrayField(Own(max_length=40)),
        ArrayField(ArrayField(Own(max_length=40))),
        models.GeneratedField(expression=models.F("id"), output_field=Own(max_length=40), db_persist=True),
    ],
    ids=["from_db_value", "converters", "decoder", "array", "array of arrays", "generated"],
)
def test_code_that_is_not_of_django_converts(field: Any) -> None:
    """Of the field itself, or of one inside it."""
    assert converted(field)


@pytest.mark.parametrize(
    "field",
    [
        models.CharField(max_length=40),
        models.JSONField(),
        models.DurationField(),
        ArrayField(models.JSONField()),
        models.ForeignKey("self", models.CASCADE),
        Own(max_length=40, primary_key=True),
    ],
    ids=["text", "JSON", "duration", "array", "foreign key", "primary key"],
)
def test_fields_of_django_are_cached_converted(field: Any) -> None:
    """And so is a primary key, which is compared."""
    assert not converted(field)


def test_a_row_is_converted_as_a_copy() -> None:
    """The cached columns stay as they are."""
    with isolate_apps("tests.zoo"):

        class Row(models.Model):
            column = Own(max_length=40)

            class Meta:
                app_label = "zoo"

    row = [1, "a"]
    assert (Conversions(Row).of(row, "lite"), row) == ([1, "own a"], [1, "a"])
