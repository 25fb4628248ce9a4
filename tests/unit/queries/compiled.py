"""Queries that are compiled for SQLite, without a database; every column can be bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, models

from cachebackend.invalidation.catalogue import TableCatalogue, kind_of
from cachebackend.queries import tables
from cachebackend.queries.dependencies import Dependency, compiled_query
from cachebackend.queries.recording import Recorder, Select
from cachebackend.queries.tables import Rules, model_of_table

__all__ = ["EVERYTHING", "Catalogues", "catalogues", "depends", "selects_of"]

#: Changes what the catalogue says of a table.
Catalogues = Callable[..., None]
EVERYTHING = Rules(is_watched=lambda _: True)


@pytest.fixture
def catalogues(monkeypatch: pytest.MonkeyPatch) -> Catalogues:
    """Return a function that changes attributes of the catalogue of a table."""
    changed: dict[str, dict[str, Any]] = {}

    def catalogue_of(table: str, using: str) -> TableCatalogue:
        model = model_of_table(table)
        fields = model._meta.local_concrete_fields if model else []
        kinds = {str(field.column): kind for field in fields if (kind := kind_of(field))}
        generated = frozenset(str(field.column) for field in fields if field.generated)
        return TableCatalogue(
            **({"kinds": kinds, "generated": generated, "is_table": True} | changed.get(table, {}))
        )

    monkeypatch.setattr(tables, "catalogue_of", catalogue_of)
    return lambda table, **facts: changed.setdefault(table, {}).update(facts)


def depends(queryset: models.QuerySet[Any, Any], **options: Any) -> list[Dependency]:
    """Return what the result of a queryset depends on, if every table is watched."""
    return list(compiled_query(queryset.query, "lite", **({"rules": EVERYTHING} | options)).dependencies)


def selects_of(queryset: models.QuerySet[Any, Any], **options: Any) -> list[Select]:
    """Return what a recorder notes of a queryset."""
    recorder = Recorder(queryset.query, **options)
    with recorder.recording(connections["lite"]):
        queryset.query.get_compiler("lite").execute_sql()
    return recorder.selects
