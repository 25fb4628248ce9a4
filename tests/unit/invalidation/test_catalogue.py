"""Which columns a query may bind, given what the database says of a table."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from django.db.models.signals import post_migrate
from django.test import override_settings

from cachebackend.invalidation import catalogue
from cachebackend.invalidation.catalogue import TableCatalogue, bindable_fields, catalogue_of
from tests.zoo.models import Bill, Handle, Moment, Poem, Price, Sample, Sum, Token, Word

#: As a database might answer.
FACTS: dict[str, dict[str, Any]] = {
    "zoo_moment": {
        "kinds": {"id": "integer", "name": "text", "rank": "integer", "at": "moment", "day": "date"},
        "is_table": True,
    },
    "zoo_sum": {"kinds": {"id": "integer", "twice": "integer"}, "generated": frozenset({"twice"})},
}
#: The attributes that are true or false.
FLAGS = [each.name for each in fields(TableCatalogue) if isinstance(each.default, bool)]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that the database was asked for."""
    asked: list[str] = []

    def read(connection: Any, table: str) -> dict[str, Any] | None:
        asked.append(table)
        return FACTS.get(table)

    catalogue.forget_catalogues()
    monkeypatch.setattr(catalogue, "read_table", read)
    return asked


def can_bind(model: Any, name: str, kind: str) -> bool:
    return TableCatalogue({name: kind}).can_bind(model._meta.get_field(name))


def test_a_table_is_asked_for_once(asked: list[str]) -> None:
    """Readers and writers ask for each statement."""
    for _ in range(2):
        assert [field.name for field in bindable_fields(Moment, "default")] == [
            "id", "name", "rank", "at", "day",
        ]  # fmt: skip
        assert catalogue_of("zoo_moment", "default").bindable == set(FACTS["zoo_moment"]["kinds"])
    assert asked == ["zoo_moment"]


def test_a_table_that_is_absent_is_asked_for_again(asked: list[str]) -> None:
    """A migration may create it."""
    for _ in range(2):
        assert catalogue_of("none", "default") == TableCatalogue()
    assert asked == ["none", "none"]


@pytest.mark.parametrize("change", ["migration", "setting"])
def test_it_is_forgotten_after_changes(asked: list[str], change: str) -> None:
    """A migration may change types and triggers, a setting the database."""
    catalogue_of("zoo_moment", "default")
    if change == "migration":
        post_migrate.send(sender=None, app_config=_App, using="default", plan=[])
    else:
        with override_settings(DEBUG=True):
            pass
    catalogue_of("zoo_moment", "default")
    assert asked == ["zoo_moment"] * 2


class _App:
    label = "none"
    name = "none"
    models_module = None


def test_catalogues_have_the_same_text_only_if_they_are_equal() -> None:
    """In whichever order the database names the columns."""
    known = TableCatalogue({"a": "text", "b": "date"}, frozenset({"c", "d"}), is_table=True)
    same = TableCatalogue({"b": "date", "a": "text"}, frozenset({"d", "c"}), is_table=True)
    assert known.text == same.text
    others = [
        replace(known, kinds={"a": "text"}),
        replace(known, generated=frozenset({"c"})),
        *(replace(known, **{name: not getattr(known, name)}) for name in FLAGS),
    ]
    assert len({known.text, *(each.text for each in others)}) == len(others) + 1


def test_each_database_has_its_own(asked: list[str]) -> None:
    """The types of two databases differ."""
    catalogue_of("zoo_moment", "default")
    catalogue_of("zoo_moment", "lite")
    assert asked == ["zoo_moment"] * 2


def test_the_field_and_the_column_must_hold_the_same_kind() -> None:
    """Text that is sent to a column of integers has several forms there."""
    assert can_bind(Moment, "rank", "integer")
    assert not can_bind(Moment, "rank", "text")
    assert not can_bind(Moment, "name", "integer")
    assert can_bind(Price, "amount", "decimal")
    assert can_bind(Token, "code", "uuid")
    assert can_bind(Moment, "day", "date")
    assert not can_bind(Moment, "at", "date")


def test_a_column_that_the_database_does_not_compare_exactly_is_not_bound() -> None:
    """The catalogue leaves it out."""
    assert not TableCatalogue({}).can_bind(Moment._meta.get_field("name"))


def test_a_field_with_its_own_values_is_not_bound() -> None:
    """Python does not know which of its values are equal."""
    assert not can_bind(Bill, "number", "integer")
    assert not can_bind(Handle, "code", "text")


def test_long_texts_are_not_bound() -> None:
    """A writer would read them only for their digests. No database enforces the length of a ``TextField``."""
    assert not can_bind(Word, "text", "text")
    assert not can_bind(Sample, "note", "text")


def test_a_foreign_key_is_compared_as_the_field_that_it_refers_to() -> None:
    """The same holds for a generated column and its output field."""
    assert can_bind(Poem, "author", "integer") is False  # the column is author_id
    assert TableCatalogue({"author_id": "integer"}).can_bind(Poem._meta.get_field("author"))
    assert can_bind(Sum, "twice", "integer")


def test_a_naive_date_and_time_is_not_bound() -> None:
    """A time that a change of the clock skips is equal to another one in the database."""
    assert can_bind(Moment, "at", "moment")
    with override_settings(USE_TZ=False):
        assert not can_bind(Moment, "at", "moment")
