"""Rows as cached values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from django.apps import apps
from django.apps.registry import Apps
from django.conf import settings
from django.db import models
from django.db.models.signals import ModelSignal, post_init, pre_init
from django.test import override_settings

from cachebackend.managers.conversions import Conversions
from cachebackend.managers.lookups import Lookup
from cachebackend.managers.rows import RowShape
from tests.shop.models import Author, Line, Tag
from tests.zoo.models import Seat


def test_a_row_comes_back_as_its_columns() -> None:
    """And as an instance that was read from the database."""
    shape = RowShape(Tag)
    row = shape.row(shape.value([7, "x"]))
    assert row == [7, "x"]
    tag = shape.instance(row, "default")
    assert (tag.pk, tag.name, tag._state.adding, tag._state.db) == (7, "x", False, "default")


@pytest.mark.parametrize("value", [None, 5, [], ["?", 7, "x"], "text"])
def test_a_value_of_another_shape_is_a_miss(value: object) -> None:
    """Another program wrote it, or the model had other fields."""
    assert RowShape(Tag).row(value) is None


def test_a_model_with_another_field_has_another_mark() -> None:
    """So a deploy that adds a field reads no row without it."""
    assert RowShape(Tag).row(RowShape(Author).value([1, "x", None])) is None
    shorter = RowShape(Tag).value([7])
    assert RowShape(Tag).row(shorter) is None


def test_rows_with_aware_times_have_another_mark() -> None:
    """After a deploy that changes USE_TZ, rows with naive times are misses."""
    stored = RowShape(Tag).value([7, "x"])
    with override_settings(USE_TZ=not settings.USE_TZ):
        assert RowShape(Tag).row(stored) is None


def test_rows_of_another_manager_have_another_mark() -> None:
    """So a release that changes ``base_manager`` reads no row that its manager leaves out."""
    assert RowShape(Tag, "objects").row(RowShape(Tag).value([7, "x"])) is None


def test_the_primary_key_of_a_row_is_found_among_its_columns() -> None:
    """A tuple if it is composite."""
    assert RowShape(Tag).pk([7, "x"]) == 7
    assert RowShape(Line).pk([1, 2, "text"]) == (1, 2)


def test_the_value_of_a_lookup_is_found_among_the_columns() -> None:
    """Of one field itself, of several a tuple."""
    fields = [Seat._meta.get_field("rank"), Seat._meta.get_field("hall")]
    row = [1, "hall", "rank", "name"]
    assert RowShape(Seat).values_of(Lookup(fields))(row) == ("rank", "hall")
    assert RowShape(Seat).values_of(Lookup(fields[:1]))(row) == "rank"


# Instances


@pytest.mark.parametrize("model", [*apps.get_models()], ids=lambda model: model.__name__)
def test_an_instance_is_as_django_makes_it(model: type[models.Model]) -> None:
    """The same attributes in the same order, and the same state, also where no constructor is called."""
    shape = RowShape(model)
    row = [number for number, _ in enumerate(shape.names)]
    converted = Conversions(model).of(row, "lite")
    made, expected = shape.instance(row, "lite"), model.from_db("lite", shape.names, converted)
    states = [each.__dict__.pop("_state") for each in (made, expected)]
    assert states[0].fields_cache == states[1].fields_cache == {}  # Django makes it when it is used
    assert states[0].__dict__ == states[1].__dict__
    assert [*made.__dict__.items()] == [*expected.__dict__.items()]


def test_a_row_with_too_few_columns_makes_no_instance() -> None:
    """An attribute would be missing."""
    with pytest.raises(ValueError, match="shorter"):
        RowShape(Tag).instance([7], "default")


@contextmanager
def connected(signal: ModelSignal, sender: Any) -> Iterator[list[Any]]:
    """Connect a receiver; yield a list of the instances or models that it is sent."""
    sent: list[Any] = []

    def receive(**kwargs: Any) -> None:
        sent.append(kwargs.get("instance", kwargs["sender"]))

    signal.connect(receive, sender=sender)
    try:
        yield sent
    finally:
        signal.disconnect(receive, sender=sender)


@pytest.mark.parametrize("signal", [pre_init, post_init])
def test_receivers_of_new_instances_are_called(signal: ModelSignal) -> None:
    """Whether they wait for one model or for all; those of another model are not."""
    shape = RowShape(Tag)
    for sender in (Tag, None):
        with connected(signal, sender) as sent:
            made = shape.instance([7, "x"], "default")
        assert sent == [made if signal is post_init else Tag]
    with connected(signal, Author) as sent:
        shape.instance([7, "x"], "default")
    assert sent == []


def made_by(**attributes: Any) -> models.Model:
    """Return an instance of a model whose class has these attributes, beside a key and a name."""
    meta = type("Meta", (), {"app_label": "shop", "apps": Apps()})
    fields = {"id": models.AutoField(primary_key=True), "name": models.CharField(max_length=9)}
    model: Any = type("Own", (models.Model,), {"__module__": __name__, "Meta": meta, **fields, **attributes})
    instance: models.Model = RowShape(model).instance([7, "x"], "default")
    return instance


def test_an_own_constructor_is_called() -> None:
    """A model that has one expects it."""

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        models.Model.__init__(self, *args, **kwargs)
        self.shown = f"<{self.name}>"

    made: Any = made_by(__init__=construct)
    assert (made.shown, made._state.adding) == ("<x>", False)


def test_an_own_from_db_is_called() -> None:
    """As Django calls it when it reads a row."""

    def from_db(cls: Any, using: str, names: Any, values: Any) -> Any:
        made = cls(*values)
        made.read = (using, [*names])
        return made

    made: Any = made_by(from_db=classmethod(from_db))
    assert made.read == ("default", ["id", "name"])


def test_an_own_way_to_set_attributes_is_used() -> None:
    """``__setattr__``, ``__new__``, and the descriptor of a field."""

    def set_attribute(self: Any, name: str, value: Any) -> None:
        object.__setattr__(self, name, value.upper() if name == "name" else value)

    def new(cls: Any, *_: Any) -> Any:
        made = object.__new__(cls)
        made.is_new = True
        return made

    class Described(models.CharField):
        class Descriptor:
            def __init__(self, field: Any) -> None:
                self.field = field

            def __get__(self, instance: Any, owner: Any) -> Any:
                return self if instance is None else instance.__dict__["described"]

            def __set__(self, instance: Any, value: Any) -> None:
                instance.__dict__["described"] = f"<{value}>"

        descriptor_class: Any = Descriptor

    assert made_by(__setattr__=set_attribute).name == "X"  # type: ignore[attr-defined]
    assert made_by(__new__=new).is_new  # type: ignore[attr-defined]
    assert made_by(title=Described(max_length=9), name=None).title == "<7>"  # type: ignore[attr-defined]


def test_a_constructor_that_is_replaced_later_is_called() -> None:
    """Packages that track changes do so."""
    shape, own = RowShape(Tag), Tag.__init__
    shape.instance([7, "x"], "default")

    def construct(self: Any, *args: Any) -> None:
        own(self, *args)
        self.tracked = True

    with patch.object(Tag, "__init__", construct):
        assert shape.instance([7, "x"], "default").tracked  # type: ignore[attr-defined]
