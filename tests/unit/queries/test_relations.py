"""The foreign keys that ``select_related`` follows: which rows are read from their own entries."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models
from django.test.utils import isolate_apps

from cachebackend.queries.relations import hides_rows, manager_of_rows, relations_of
from tests.zoo.models import Author, Branch, Desk, Draft, Inn, Kiosk, Mark, Novel, Poem, Profile, Visit


def paths(model: type[models.Model], *names: str, **options: Any) -> Any:
    """Return the paths that are followed, in the order of Django's dict; None: the rows are joined."""
    followed = model._base_manager.select_related(*names).query.select_related
    found = relations_of(model, followed, **({"alias": "default", "using": "default"} | options))
    return None if found is None else [(each.path, [inner.path for inner in each.inner]) for each in found]


def test_foreign_keys_are_followed() -> None:
    """To several models, and from these to others."""
    assert paths(Poem, "author") == [(("author",), [])]
    assert paths(Novel, "author", "sequel__genre") == [
        (("author",), []),
        (("sequel",), [("sequel", "genre")]),
    ]
    assert paths(Branch, "parent__parent") == [(("parent",), [("parent", "parent")])]
    assert paths(Desk, "author") == [(("author",), [])]


def test_a_query_that_follows_nothing_has_no_relations() -> None:
    """As ``select_related(None)``."""
    assert relations_of(Poem, False, "default", "default") == ()


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Novel, ["shelf"]),  # refers to another column than the primary key
        (Novel, ["author", "shelf"]),
        (Novel, ["prequel"]),  # the other side of a one-to-one
        (Draft, ["author"]),  # without a constraint
        (Mark, ["content_type"]),  # its model has no CachedManager
        (Visit, ["shelf"]),  # two columns
        (Kiosk, ["place"]),  # the parent's row is a part of the child's
        (Poem, ["author_id"]),  # Django raises
        (Poem, ["nothing"]),
    ],
)
def test_other_relations_are_joined(model: type[models.Model], names: list[str]) -> None:
    """One that must be joined lets all of them be joined."""
    assert paths(model, *names) is None


def test_rows_that_the_base_manager_may_hide_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django joins such a row, and by its own entry it does not exist."""
    assert not hides_rows(Author)

    class Named(models.Manager[Author]):
        def get_queryset(self) -> models.QuerySet[Author]:
            return super().get_queryset().exclude(name="")

    named = Named()
    named.model = Author
    monkeypatch.setattr(Author._meta, "base_manager", named)
    assert hides_rows(Author)
    assert paths(Poem, "author") is None


def test_rows_of_another_alias_or_database_are_joined() -> None:
    """Their own entries are not where the result is."""
    assert paths(Poem, "author", alias="second") is None
    assert paths(Poem, "author", using="lite") is None
    assert relations_of(Poem, True, "default", "default") is None


def test_a_manager_that_reads_all_rows_is_found() -> None:
    """Not a strict one, and none that leaves rows out."""
    assert manager_of_rows(Author, "default") == "cached"
    assert manager_of_rows(Profile, "default") == "cached"
    assert manager_of_rows(Author, "second") == ""
    assert manager_of_rows(Inn, "default") == "cached"


@isolate_apps("tests.zoo")
def test_a_key_with_a_condition_of_its_own_is_joined() -> None:
    """A class may add to the condition of its join."""

    class Half(models.ForeignKey):  # type: ignore[type-arg]
        def get_extra_restriction(self, alias: Any, related_alias: Any) -> Any:
            return None

    class Verse(models.Model):
        author = Half(Author, models.CASCADE)

        class Meta:
            app_label = "zoo"

    assert relations_of(Verse, {"author": {}}, "default", "default") is None
