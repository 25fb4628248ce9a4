"""Values as parts of keys."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import models
from django.db.models.functions import Lower
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe

from cachebackend.backend.canonical import (
    canonical_text,
    django_class,
    is_comparable,
    is_text,
    key_part,
    key_parts,
)
from tests.shop.models import Author, Coin, Everything, Line, Meter, Tag

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
CODE = uuid.UUID(int=5)


class Size(models.TextChoices):
    """A choice."""

    SMALL = "s"


def field(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name)


EQUAL: dict[str, tuple[Any, list[Any]]] = {
    "integer": (field(Tag, "id"), [1, "1", 1.0, True, Decimal(1), " 1 "]),
    "text": (field(Tag, "name"), ["s", mark_safe("s"), lazystr("s"), Size.SMALL]),
    "uuid": (field(Author, "code"), [CODE, str(CODE), CODE.hex, 5, str(CODE).upper()]),
    "decimal": (field(Coin, "worth"), [Decimal("1.5"), Decimal("1.50"), "1.500", 1.5, Decimal("15E-1")]),
    "large decimal": (field(Coin, "worth"), [Decimal("1E+1"), 10, "10.00", Decimal(10)]),
    "no decimal": (field(Coin, "worth"), [0, Decimal("-0.00"), "0e5"]),
    "moment": (
        field(Coin, "minted"),
        [NOON, NOON.astimezone(ZoneInfo("Europe/Berlin")), "2024-05-01T14:00:00+02:00", "2024-05-01T12:00Z"],
    ),
    "day": (field(Everything, "day"), [date(2024, 5, 1), "2024-05-01", NOON]),
    "foreign key": (field(Coin, "tag"), [7, "7", Tag(pk=7)]),
    "boolean": (field(Everything, "flag"), [True, 1, "1", "True"]),
    "address": (field(Everything, "address"), ["2001:db8::1", "2001:DB8:0::1"]),
    "composite": (field(Line, "pk"), [(1, 2), [1, 2], ("1", "2"), (True, 2.0)]),
}


@pytest.mark.parametrize("name", ["ArrayField", "HStoreField", "DateTimeRangeField", "JSONField"])
def test_a_field_with_a_class_beside_its_base_is_no_error(name: str) -> None:
    """Django's class of such a field is a class of fields; its values have no text."""
    fields = import_module("django.contrib.postgres.fields" if name != "JSONField" else "django.db.models")
    kind = getattr(fields, name)
    column = kind(models.IntegerField()) if name == "ArrayField" else kind()
    assert issubclass(django_class(kind), models.Field)
    assert not is_comparable(column)
    assert canonical_text(column, None) is None


@pytest.mark.parametrize(("column", "values"), EQUAL.values(), ids=EQUAL)
def test_values_that_the_database_holds_equal_have_one_text(column: Any, values: list[Any]) -> None:
    """In every form in which a caller may write them."""
    texts = {canonical_text(column, value) for value in values}
    assert len(texts) == 1
    assert texts != {None}


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        (field(Tag, "name"), "a", "a "),
        (field(Tag, "name"), "a", "A"),
        (field(Tag, "name"), "\u00e9", "e\u0301"),
        (field(Coin, "worth"), "1.5", "15"),
        (field(Coin, "worth"), "1.5", "-1.5"),
        (field(Coin, "minted"), NOON, NOON + timedelta(microseconds=1)),
        (field(Line, "pk"), (1, 12), (11, 2)),
    ],
)
def test_values_that_differ_have_two_texts(column: Any, one: Any, other: Any) -> None:
    """Trailing spaces, case and composition included."""
    assert canonical_text(column, one) != canonical_text(column, other)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (field(Tag, "id"), None),
        (field(Tag, "name"), None),
        (field(Tag, "id"), "abc"),
        (field(Tag, "id"), models.F("id")),
        (field(Author, "code"), "abc"),
        (field(Coin, "worth"), "1.555"),
        (field(Coin, "worth"), float("nan")),
        (field(Coin, "minted"), "yesterday"),
        (field(Coin, "tag"), Tag()),
        (field(Coin, "tag"), Author(pk=1)),
        (field(Everything, "real"), 1.5),
        (field(Everything, "length"), timedelta(days=30)),
        (field(Tag, "name"), Lower(models.Value("BOB"))),
        (field(Tag, "name"), models.Value("bob")),
        (models.DecimalField(max_digits=30, decimal_places=20), "1.00000000000000000001"),
        (field(Everything, "document"), "text"),
        (field(Line, "pk"), (1, None)),
        (field(Line, "pk"), (1, 2, 3)),
        (field(Line, "pk"), "12"),
    ],
)
def test_a_value_that_python_cannot_compare_has_no_text(column: Any, value: Any) -> None:
    """None has none, nor a value that the column cannot hold."""
    assert canonical_text(column, value) is None


def test_commas_in_a_composite_key_do_not_mix_its_parts() -> None:
    """Each part is escaped."""
    key: Any = models.CompositePrimaryKey("a", "b")
    key.fields = (field(Tag, "name"), field(Tag, "name"))
    assert canonical_text(key, ("x,y", "z")) != canonical_text(key, ("x", "y,z"))
    assert canonical_text(key, ("x%2C", "z")) != canonical_text(key, ("x,", "z"))


@pytest.mark.parametrize("text", ["a b", "x" * 101, "žluť", "a\n", "#a", "\ud800"])
def test_a_text_that_is_long_or_unusual_is_hashed(text: str) -> None:
    """A text that looks like a hash is hashed too, so it is not the key of another text."""
    part = key_part(text)
    assert part.startswith("#")
    assert part.isascii()
    assert len(part) == 65
    assert key_part(part) not in {part, text}
    assert key_part(text + "!") != part


def test_a_short_text_is_a_part_as_it_is() -> None:
    """So a key can be read."""
    assert key_part("2024-05-01T12:00:00+00:00") == "2024-05-01T12:00:00+00:00"


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (Tag._meta.pk, [1, -2, 2**62]),
        (Tag._meta.pk, [1, "2", True, 3.0, None, "x"]),
        (Meter._meta.get_field("tag"), [1, 2]),
        (Meter._meta.get_field("label"), ["a", "b c", None]),
        (Line._meta.pk, [(1, 2), (1, "x")]),
        (Coin._meta.pk, [1]),
    ],
)
def test_the_parts_of_many_values_are_those_of_each(column: Any, values: list[Any]) -> None:
    """Also where the texts of integers are made together."""
    texts = [canonical_text(column, value) for value in values]
    assert key_parts(column, values) == [None if text is None else key_part(text) for text in texts]


def test_columns_are_known_by_what_they_are_compared_with() -> None:
    """A foreign key by the column that it refers to."""
    assert not is_comparable(field(Everything, "real"))
    assert is_comparable(field(Meter, "total"))
    assert is_text(field(Everything, "target"))
    assert not is_text(field(Coin, "tag"))
    assert not is_comparable(field(Everything, "length"))


class Labelled(models.SlugField):
    """A field that changes nothing in how values are compared."""

    def formfield(self, **kwargs: Any) -> Any:
        return None


class Prepared(models.CharField):
    """A field that compares other values than those that it is given."""

    def get_prep_value(self, value: Any) -> Any:
        return value.lower()


class Sent(models.CharField):
    """A field that sends other values than those that it is given."""

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return value.lower()


class Typed(models.CharField):
    """A field with a column of a type that Django's class does not have."""

    def db_type(self, connection: Any) -> str:
        return "macaddr"


class Read(models.IntegerField):
    """A field that reads other values than those that its column holds."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return value / 100


class Compared(models.CharField):
    """A field whose lookup is not Django's."""


Compared.register_lookup(
    type("Same", (models.lookups.IExact,), {"lookup_name": "exact", "__module__": "shop"})
)


class Reference(models.ForeignKey):
    """A foreign key that compares other values than those that it is given."""

    def get_prep_value(self, value: Any) -> Any:
        return value


@pytest.mark.parametrize(
    "column",
    [
        Prepared(max_length=9), Sent(max_length=9), Typed(max_length=9), Read(), Compared(max_length=9),
        models.Field(), Reference(Tag, models.CASCADE),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_a_field_that_decides_itself_has_no_texts(column: Any) -> None:
    """Python cannot know which of its values the database holds equal."""
    assert not is_comparable(column)
    assert not is_text(column)
    assert canonical_text(column, "1") is None
    assert canonical_text(column, 1) is None


def test_a_field_that_decides_as_django_does_has_texts() -> None:
    """Only the methods by which values are compared and read matter."""
    column = Labelled(max_length=9)
    assert is_comparable(column)
    assert is_text(column)
    assert canonical_text(column, "a") == "a"


class Moment(datetime):
    """A moment as a library that sets the clock of tests makes it."""


class Precise(datetime):
    """A moment with nanoseconds, which the driver sends too."""

    def isoformat(self, *args: Any, **kwargs: Any) -> str:
        return super().isoformat(*args, **kwargs).replace("00:00:00", "00:00:00.000001")


def test_a_moment_of_a_derived_type_has_the_text_of_the_equal_moment() -> None:
    """One that the type itself cannot hold has no text."""
    plain = datetime(2024, 5, 1, tzinfo=UTC)
    assert canonical_text(field(Coin, "minted"), Moment(2024, 5, 1, tzinfo=UTC)) == canonical_text(
        field(Coin, "minted"), plain
    )
    assert canonical_text(field(Coin, "minted"), Precise(2024, 5, 1, tzinfo=UTC)) is None


class Slug(models.SlugField):
    """A field that names its type by itself."""

    def get_internal_type(self) -> str:
        return "SlugField"


class Other(models.SlugField):
    """A field whose column has another type."""

    def get_internal_type(self) -> str:
        return "TextField"


def test_a_field_may_return_the_type_of_django_s_own() -> None:
    """Many packages do; another type may be compared in another way."""
    assert is_comparable(Slug())
    assert not is_comparable(Other())
