"""Which tables can be cached."""

from __future__ import annotations

import pytest
from django.db import models
from django.test.utils import isolate_apps

from cachebackend.queries import tables
from cachebackend.queries.not_cached import NotCached
from cachebackend.queries.tables import (
    Rules,
    has_cacheable_rows,
    has_triggers,
    ignored_columns,
    is_plain_table,
    is_watched,
    model_of_table,
    watched_catalogue,
)
from tests.shop.models import Target
from tests.unit.queries.compiled import Catalogues, catalogues
from tests.zoo.models import Author, Bar, EarlyPlace, Place, Post, Singer

__all__ = ["catalogues"]

WATCHED = Rules(is_watched=lambda _: True)


def test_a_table_is_watched_if_something_is_cached_of_its_rows() -> None:
    """Writes to others are not seen."""
    assert is_watched(Author._meta.db_table)
    assert is_watched(Post.labels.through._meta.db_table)
    assert not is_watched(Target._meta.db_table)


def test_triggers_belong_to_the_table_of_their_model() -> None:
    """Those of a child do not see the table of its parent."""
    assert has_triggers(Singer._meta.db_table)
    assert not has_triggers(Author._meta.db_table)


def test_ignored_fields_are_columns_of_the_table_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child may ignore a field of its parent; a name of no field ignores nothing."""
    monkeypatch.setattr(Bar.cached, "ignore", ("rank", "taps", "none"))
    assert ignored_columns(Place._meta.db_table) == {"rank"}
    assert ignored_columns(Bar._meta.db_table) == {"taps"}
    assert ignored_columns(Author._meta.db_table) == set()


def test_the_model_of_a_table_is_no_proxy() -> None:
    """Also those of many-to-many tables are found."""
    assert model_of_table(Place._meta.db_table) is Place
    assert model_of_table(EarlyPlace._meta.db_table) is Place
    assert model_of_table(Post.labels.through._meta.db_table) is Post.labels.through
    assert model_of_table("none") is None


def test_a_managed_model_is_preferred() -> None:
    """Another one may show the same table under ``managed = False``."""
    with isolate_apps("tests.zoo") as apps:

        class Shown(models.Model):
            class Meta:
                app_label = "zoo"
                db_table = Author._meta.db_table
                managed = False

        class Made(models.Model):
            class Meta:
                app_label = "zoo"
                db_table = Author._meta.db_table

        found = list(apps.get_models())
        assert {Shown, Made} == set(found)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "apps", apps)
            tables._forget_models()
            assert model_of_table(Author._meta.db_table) is Made
        tables._forget_models()


def test_a_table_that_nothing_watches_is_refused(catalogues: Catalogues) -> None:
    """The reason says what to do."""
    with pytest.raises(NotCached, match="shop_target; give its model"):
        watched_catalogue("shop_target", "lite", Rules())


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        ("is_partition_or_inherits", "partitioned"),
        ("has_row_security", "row-level security"),
        ("is_changed_by_cascade", "triggers=True"),
    ],
)
def test_a_table_that_changes_unseen_is_refused(catalogues: Catalogues, fact: str, reason: str) -> None:
    """The database changes its rows, or shows different ones."""
    catalogues("zoo_author", **{fact: True})
    with pytest.raises(NotCached, match=reason):
        watched_catalogue("zoo_author", "lite", WATCHED)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("is_partition_or_inherits", True),
        ("has_row_security", True),
        ("is_changed_by_cascade", True),
        ("is_table", False),
    ],
)
def test_rows_are_cacheable_if_all_of_their_tables_are(
    catalogues: Catalogues, fact: str, value: bool
) -> None:
    """The rows of a child model have the columns of its parents."""
    assert has_cacheable_rows(Bar, "lite")
    assert has_cacheable_rows(EarlyPlace, "lite")
    catalogues(Place._meta.db_table, **{fact: value})
    assert [has_cacheable_rows(each, "lite") for each in (Bar, EarlyPlace, Author)] == [False, False, True]


def test_triggers_see_cascades_and_a_namespace_names_the_role(
    catalogues: Catalogues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then such tables are cached."""
    catalogues("zoo_author", is_changed_by_cascade=True, has_row_security=True)
    monkeypatch.setattr(tables, "current_namespace", lambda: "tenant")
    rules = Rules(is_watched=lambda _: True, has_triggers=lambda _: True)
    assert watched_catalogue("zoo_author", "lite", rules).is_table


def test_views_and_unmanaged_tables_are_not_plain(catalogues: Catalogues) -> None:
    """Django does not write their rows."""
    assert is_plain_table(Author, "zoo_author", "lite")
    assert not is_plain_table(None, "zoo_author", "lite")
    catalogues("zoo_author", is_table=False)
    assert not is_plain_table(Author, "zoo_author", "lite")
