"""The attributes that a class inherits."""

from __future__ import annotations

from cachebackend.inherited import inherited_attributes

KEPT, OLD, NEW, OWN = (frozenset({name}) for name in ("kept", "old", "new", "own"))


class Base:
    """A class with attributes of two kinds."""

    kept = KEPT
    replaced = OLD
    removed: frozenset[str] | None = OLD
    number = 1


class Middle(Base):
    """A class that replaces one."""

    replaced = NEW


class Child(Middle):
    """A class that has one of its own, and removes one."""

    own = OWN
    removed = None


def test_an_inherited_attribute_is_that_of_the_nearest_base() -> None:
    """Those that the class defines itself, and those of another kind, are left out."""
    assert inherited_attributes(Child, frozenset) == {"kept": KEPT, "replaced": NEW}
    assert inherited_attributes(Child, int) == {"number": 1}
    assert inherited_attributes(Base, frozenset) == {}
