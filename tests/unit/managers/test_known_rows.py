"""Which row had a value: noted by lookup, scope and value, for values that are their own texts."""

from __future__ import annotations

import pytest

from cachebackend.managers import known_rows
from cachebackend.managers.known_rows import KnownRows
from cachebackend.managers.lookups import Lookup
from tests.zoo.models import Seat

NAME = Lookup([Seat._meta.get_field("name")])
PLACE = Lookup([Seat._meta.get_field("hall"), Seat._meta.get_field("rank")])


class Text(str):
    """A text of another type."""

    __slots__ = ()


def test_a_row_is_known_in_its_scope() -> None:
    """Until it is forgotten."""
    known = KnownRows()
    known.note(NAME, "a", "default", 1)
    assert (known.pk_of(NAME, "a", "default"), known.pk_of(NAME, "a", "other")) == (1, None)
    known.forget(NAME, "a", "other")
    known.forget(NAME, "a", "default")
    assert known.pk_of(NAME, "a", "default") is None


@pytest.mark.parametrize(
    ("lookup", "value"), [(NAME, 1), (NAME, Text("a")), (PLACE, (1, 2)), (NAME, "a" * 201)]
)
def test_other_values_are_not_noted(lookup: Lookup, value: object) -> None:
    """Those of other types, of several fields, and long ones."""
    known = KnownRows()
    known.note(lookup, value, "default", 1)
    assert known.pk_of(lookup, value, "default") is None


def test_the_number_of_values_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it all are forgotten."""
    monkeypatch.setattr(known_rows, "MAX_VALUES", 2)
    known = KnownRows()
    for pk, name in enumerate("abc"):
        known.note(NAME, name, "default", pk)
    assert [known.pk_of(NAME, name, "default") for name in "abc"] == [None, None, 2]
