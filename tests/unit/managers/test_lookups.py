"""The columns by which rows are found."""

from __future__ import annotations

import pytest
from django.apps.registry import Apps
from django.db import models

from cachebackend.managers.keys import RowKeys
from cachebackend.managers.lookups import Lookup, fault_of
from tests.shop.models import Author, Line, Tag
from tests.zoo.models import Boat, Seat

HALL, RANK = Seat._meta.get_field("hall"), Seat._meta.get_field("rank")


class Shelf(models.Model):
    """A model with groups of columns that are unique, or are not."""

    row = models.IntegerField()
    place = models.IntegerField()
    depth = models.FloatField()
    code = models.IntegerField()
    note = models.CharField(max_length=9)

    class Meta:
        app_label = "shop"
        apps = Apps()
        unique_together = (("row", "place"),)
        constraints = (
            models.UniqueConstraint(fields=["code"], name="shelf_code"),
            models.UniqueConstraint(fields=["row", "depth"], name="shelf_depth"),
            models.UniqueConstraint(fields=["row", "note"], name="shelf_note", condition=models.Q(place=1)),
            models.UniqueConstraint(models.F("note"), "place", name="shelf_expression"),
        )


@pytest.mark.parametrize("names", [["code"], ["row", "place"], ["place", "row"]])
def test_a_lookup_is_the_fields_of_a_unique_constraint(names: list[str]) -> None:
    """In any order, and of one field too."""
    assert fault_of(Shelf, names) is None


@pytest.mark.parametrize(
    "names", [["row"], ["note", "place"], ["row", "note"], ["row", "place", "code"], ["row", "x"]]
)
def test_other_fields_are_not_a_lookup(names: list[str]) -> None:
    """Several rows could have one value; a constraint with a condition allows it too."""
    assert "is not" in str(fault_of(Shelf, names))


def test_a_field_that_python_cannot_compare_is_not_a_part_of_a_lookup() -> None:
    """Alone it is not a lookup either."""
    assert "('row', 'depth') has a FloatField" in str(fault_of(Shelf, ["row", "depth"]))


def test_the_constraints_of_parents_count() -> None:
    """Their columns are a part of the row."""
    assert fault_of(Boat, ["title"]) is None


def test_a_value_has_one_text_in_each_form() -> None:
    """The values of several fields are joined, so that no two have one text."""
    lookup = Lookup([HALL, RANK])
    assert lookup.text((1, "2")) == lookup.text([1, 2]) == "1,2"
    assert lookup.text((1, None)) is None
    texts = Lookup([Tag._meta.get_field("name")] * 2)
    assert len({texts.text(("a,b", "c")), texts.text(("a", "b,c")), texts.text(("a%2Cb", "c"))}) == 3


def test_the_value_of_a_row_is_known_if_all_its_columns_are() -> None:
    """A part of it has no key."""
    lookup = Lookup([HALL, RANK])
    assert lookup.value_of({"hall": 1, "rank": 2}) == (1, 2)
    assert lookup.value_of({"hall": 1}) is lookup.value_of({"hall": 1, "rank": None}) is None
    assert Lookup([HALL]).value_of({"hall": 1}) == 1


def test_a_queryset_is_filtered_by_each_field() -> None:
    """By its name, under which Django accepts an instance too."""
    assert Lookup([HALL, RANK]).filters((1, 2)) == {"hall": 1, "rank": 2}
    assert Lookup([HALL]).filters(1) == {"hall": 1}
    assert Lookup([Line._meta.pk], is_pk=True).filters((1, 2)) == {"pk": (1, 2)}


def test_the_columns_of_a_composite_primary_key_are_its_parts() -> None:
    """It may be asked for by these, too."""
    pk = Lookup([Line._meta.pk], is_pk=True)
    assert (pk.name, pk.columns) == ("pk", ("order", "number"))
    keys = RowKeys(Line, [])
    assert keys.asked({"number": 2, "order": 1}) == keys.asked({"pk": (1, 2)}) == (keys.pk, (1, 2))


def test_values_of_the_plain_type_are_their_own_texts() -> None:
    """Of other types they are converted as Django does it."""
    assert Lookup([HALL]).plain_type is int
    assert Lookup([Tag._meta.get_field("name")]).plain_type is str
    assert Lookup([Author._meta.get_field("code")]).plain_type is None
    assert Lookup([HALL, RANK]).plain_type is None
    assert Lookup([HALL]).text(True) == "1"
