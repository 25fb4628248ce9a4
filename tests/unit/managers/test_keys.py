"""The keys that rows are cached by."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.apps.registry import Apps
from django.db import models

from cachebackend.managers.keys import NoKeys, RowKeys
from tests.shop.models import Author, Coin, Line, Tag

CODE = uuid.UUID(int=5)


def test_a_row_has_a_key_for_its_primary_key_and_for_each_lookup() -> None:
    """As far as its columns are known, in each scope."""
    keys = RowKeys(Author, ["name", "code"])
    assert keys.of_rows([{"pk": 1, "name": "x", "code": CODE}], ["s"]) == [
        "s:shop_author:id:1", "s:shop_author:name:x", f"s:shop_author:code:{CODE}",
    ]  # fmt: skip
    assert keys.of_rows([{"pk": 1}], ["s", "t"]) == ["s:shop_author:id:1", "t:shop_author:id:1"]
    assert set(keys.columns) == {"id", "name", "code"}


def test_a_manager_of_some_rows_asks_for_none_by_key() -> None:
    """The row with a key may be another one."""
    assert RowKeys(Author, ["name"]).asked({"pk": 1}) is not None
    assert NoKeys(Author, ["name"]).asked({"pk": 1}) is None


@pytest.mark.parametrize("given", [CODE, str(CODE), CODE.hex])
def test_equal_values_have_one_key(given: Any) -> None:
    """In every form in which a caller may write them."""
    keys = RowKeys(Author, ["code"])
    assert keys.of(keys.fields["code"], given, "s") == f"s:shop_author:code:{CODE}"


def test_a_value_without_a_text_has_no_key() -> None:
    """None is not the text "None"."""
    keys = RowKeys(Tag, ["name"])
    assert keys.of(keys.fields["name"], None, "s") is None
    assert keys.of(keys.fields["name"], "None", "s") == "s:shop_tag:name:None"
    assert keys.of_rows([{"pk": None, "name": None}], ["s"]) == []


@pytest.mark.parametrize(
    ("model", "name", "values"),
    [
        (Tag, "pk", [1, 2]),
        (Tag, "pk", [1, True, "2", None, 2**70, "x"]),
        (Tag, "name", ["a", "b c", "#", None, 7, "x" * 300]),
        (Author, "code", [CODE, CODE.hex, "no code"]),
        (Line, "pk", [("1", 2), [1, 2], 1]),
    ],
)
def test_the_keys_of_many_values_are_those_of_each(model: Any, name: str, values: list[Any]) -> None:
    """Also where the texts of integers are made together."""
    for kind in (RowKeys, NoKeys):
        keys = kind(model, [] if name == "pk" else [name])
        lookup = keys.pk if name == "pk" else keys.fields[name]
        assert keys.of_many(lookup, values, "s") == [keys.of(lookup, value, "s") for value in values]


def test_a_composite_primary_key_has_one_key() -> None:
    """Given as a tuple or as a list."""
    keys = RowKeys(Line, [])
    expected = ["s:shop_line:pk:1,2"]
    assert keys.of(keys.pk, ["1", 2], "s") == expected[0]
    assert keys.of_rows([{"pk": (1, 2)}], ["s"]) == expected
    assert keys.columns == ("order", "number")


def test_every_key_begins_with_the_prefixes() -> None:
    """The namespace is between them; what distinguishes two managers is part of the second one."""
    keys = RowKeys(Tag, ["name"])
    [(start, middle)] = keys.prefixes(["default@site"])
    for key in keys.of_rows([{"pk": 1, "name": "x"}], ["default@site", "default@site+tenant"]):
        namespace, found, _ = key.removeprefix(start).partition(middle)
        assert (namespace in {"", "+tenant"}, found) == (True, middle)
    other = RowKeys(Tag, ["name"], "other")
    assert keys.of(keys.pk, 1, "default@site") != other.of(other.pk, 1, "default@site")


def test_a_renamed_model_has_the_same_keys() -> None:
    """In a rolling deploy, processes of both releases read and write the rows of one table."""

    def keys_of(name: str, attribute: str) -> list[str]:
        meta = type("Meta", (), {"app_label": "shop", "db_table": "shop_thing", "apps": Apps()})
        field = models.CharField(max_length=9, unique=True, db_column="name")
        model = type(name, (models.Model,), {"__module__": __name__, "Meta": meta, attribute: field})
        return RowKeys(model, [attribute]).of_rows([{"pk": 1, attribute: "x"}], ["s"])

    assert keys_of("Before", "name") == keys_of("After", "title")


def test_values_are_equal_as_the_column_holds_them() -> None:
    """None equals nothing."""
    keys = RowKeys(Coin, ["worth"])
    worth = keys.fields["worth"]
    assert worth.are_equal("1.5", 1.50)
    assert not worth.are_equal("1.5", 1.6)
    assert not worth.are_equal(None, None)
    assert keys.pk.are_equal("a", "a")


def test_a_row_may_be_asked_for_under_each_name_of_a_field() -> None:
    """``pk`` is the primary key."""
    fields = RowKeys(Tag, ["name"]).fields
    assert fields["pk"] is fields["id"]
    assert set(fields) == {"pk", "id", "name"}


@pytest.mark.parametrize("lookup", ["no_such", "products"])
def test_a_lookup_must_be_a_unique_field(lookup: str) -> None:
    """Otherwise one key could belong to several rows."""
    keys = RowKeys(Tag, [lookup])
    assert keys.faults == {(lookup,): f"Tag: the lookup {lookup!r} is not a unique field"}
    assert set(keys.fields) == {"pk", "id"}


class Measured(models.Model):
    """A model with a unique FloatField."""

    length = models.FloatField(unique=True)

    class Meta:
        app_label = "shop"
        apps = Apps()


def test_a_lookup_must_be_comparable_in_python() -> None:
    """A FloatField is not."""
    [fault] = RowKeys(Measured, ["length"]).faults.values()
    assert "the lookup 'length' has a FloatField" in fault


class Cents(models.IntegerField):
    """A field that reads other values than those that its column holds."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return value / 100


class Priced(models.Model):
    """A model whose primary key Python cannot compare."""

    cents = Cents(primary_key=True)
    name = models.CharField(max_length=9, unique=True)

    class Meta:
        app_label = "shop"
        apps = Apps()


def test_rows_whose_primary_key_python_cannot_compare_have_no_keys() -> None:
    """Nor has a lookup: its entry would only name such a row."""
    keys = RowKeys(Priced, ["name"])
    assert not keys.exist
    assert keys.of(keys.pk, 1, "s") is None
    assert keys.of(keys.fields["name"], "a", "s") is None
    assert keys.of_rows([{"pk": 1, "name": "a"}], ["s"]) == []
