"""``UnbuiltQuerySet`` has every attribute that Django's querysets have."""

from __future__ import annotations

from typing import Any

from django.db import models

from cachebackend.queries.options import QueryOptions
from cachebackend.queries.queryset import CachedQuerySet, cached_queryset
from tests.zoo.models import Poem


def test_an_unbuilt_queryset_is_built_with_every_attribute_of_django() -> None:
    """Any of them builds the query when something reads it; a later Django has more."""
    root: CachedQuerySet[Poem] = CachedQuerySet(Poem)
    for name in vars(models.QuerySet(Poem)):
        queryset: Any = root.begin(QueryOptions())
        assert not queryset._is_built
        getattr(queryset, name)
        assert str(queryset.query)
        assert vars(queryset).keys() >= vars(models.QuerySet(Poem)).keys()


def test_a_queryset_that_becomes_a_cached_one_keeps_how_it_reads() -> None:
    """So does one that becomes a plain one. Whether its clones are copies is of one queryset alone."""
    plain: Any = models.QuerySet(Poem)
    names = vars(plain).keys() & {"_fetch_mode", "_fields", "_iterable_class"}
    for name in names:
        setattr(plain, name, f"as {name}")
    plain._cloning_enabled = False
    cached: Any = cached_queryset(plain, QueryOptions())
    assert {name: getattr(cached, name) for name in names} == {name: f"as {name}" for name in names}
    assert getattr(cached, "_cloning_enabled", True)
    assert {name: getattr(cached.uncached(), name) for name in names} == {
        name: f"as {name}" for name in names
    }
