"""The tables whose rows are part of what is cached, and the cached rows that a changed row belongs to.

A row of a model is stored in the table of the model and in those of its parents. So a changed row
of one table may belong to rows of several models: a changed row of a parent is a part of a row of
each child that has one. A row of a many-to-many table belongs to the rows at both of its ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.core.signals import setting_changed
from django.db import DatabaseError, models, transaction
from django.db.models.signals import class_prepared

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.watched import (
    Dependent,
    Row,
    dependents_by_model,
    dependents_of,
    queried_models,
    shares_rows,
    watched_models,
)
from cachebackend.properties import cached_property

__all__ = [
    "WatchedTable",
    "all_tables",
    "changed_rows",
    "forget_tables",
    "has_rows_of",
    "many_to_many_models",
    "models_of_tables",
    "row_of",
    "table_name",
    "tables_of",
    "watched_tables",
]

#: SQLite limits the parameters of a statement; by default to 999 before version 3.32.
_VALUES_PER_QUERY = 900


class WatchedTable:
    """A table that holds columns of rows which something caches.

    Args:
        model: The concrete model that the table belongs to.

    Attributes:
        dependents: What caches rows that have a part in this table, with the model of those rows.
        ends: For a many-to-many table, the foreign keys to watched rows.
        result_aliases: The cache aliases that hold results of queries over this table.
    """

    def __init__(self, model: type[models.Model]) -> None:
        self.model = model
        self.dependents: list[tuple[type[models.Model], Dependent]] = []
        self.ends: list[models.ForeignKey[Any, Any]] = []
        self.result_aliases: set[str] = set()

    @cached_property
    def fields(self) -> list[models.Field[Any, Any]]:
        """The columns of this table that keys are made of: the primary key first."""
        names = {name for _, dependent in self.dependents for name in dependent.fields}
        names.update(end.attname for end in self.ends)
        key = self.model._meta.pk_fields
        return [
            *key,
            *(f for f in self.model._meta.local_concrete_fields if f not in key and f.attname in names),
        ]

    def all_dependents(self) -> list[Dependent]:
        """Return what caches rows that have a part in this table or are at an end of its relations."""
        at_ends = [pair for end in self.ends for pair in dependents_of(end.related_model)]
        return [dependent for _, dependent in [*self.dependents, *at_ends]]

    def changed(
        self, rows: Sequence[Row], using: str, *, is_new: bool, in_migration: bool = False
    ) -> Iterator[tuple[Dependent, list[Row]]]:
        """Yield each dependent with the rows that are wrong because rows of this table changed.

        Args:
            rows: The changed rows, before and after the change: their columns ``fields``, as far
                as they are known.
            using: The alias of the database.
            is_new: Whether the rows may be new: then a cached absence may be wrong.
            in_migration: Whether tables may lack columns that the project's models have.
        """
        for model, dependent in self.dependents:
            same, keys, found = self._parts(model, dependent, rows, using, is_new=is_new)
            name = self.model._meta.pk.name
            yield dependent, [*same, *_rows_with(found, name, keys, in_migration=in_migration)]
        for end in self.ends:
            yield from _changed_ends(end, rows, using, in_migration=in_migration)

    def _parts(
        self,
        model: type[models.Model],
        dependent: Dependent,
        rows: Sequence[Row],
        using: str,
        *,
        is_new: bool,
    ) -> tuple[list[Row], list[Any], models.QuerySet[Any, Any] | None]:
        """Return the rows of a model that rows of this table are a part of.

        Returns:
            Those whose keys this table has. And primary keys of rows of this table, with a query for
            what only other tables have of them: the primary key of a child with its own, or
            inherited lookup values.
        """
        has_same_key = all(path.join_field.primary_key for path in model._meta.get_path_to_parent(self.model))
        local = {field.attname for field in self.model._meta.local_concrete_fields}
        inherits_keys = model._meta.concrete_model is self.model and not local.issuperset(dependent.fields)
        if has_same_key and not (is_new and inherits_keys and dependent.caches_absence):
            return list(rows), [], None
        every_row: models.QuerySet[Any, Any] = models.QuerySet(model, using=using)  # a manager may filter
        found = every_row.values("pk", *set(dependent.fields) - {"pk"})
        return list(rows) if has_same_key else [], [row["pk"] for row in rows], found


def tables_of(model: type[models.Model]) -> Iterator[WatchedTable]:
    """Yield the watched tables that hold the rows of a model, its own and those of its parents.

    If other models have the same table, it comes as each of them has it.
    """
    concrete = model._meta.concrete_model or model
    for part in (concrete, *concrete._meta.get_parent_list()):
        yield from watched_tables(part._meta.db_table)


def has_rows_of(table: WatchedTable, model: type[models.Model]) -> bool:
    """Return whether a table, as its model has it, holds rows of another model or parts of them."""
    return issubclass(model._meta.concrete_model or model, table.model)


def changed_rows(
    model: type[models.Model], rows: Sequence[Row], using: str, *, in_migration: bool = False
) -> Iterator[tuple[Dependent, list[Row]]]:
    """Yield each dependent with the rows that are wrong because rows of a model changed in all their tables.

    Args:
        model: The model.
        rows: Their columns by attribute name, as far as they are known; the primary key also
            under ``pk``.
        using: The alias of the database.
        in_migration: Whether tables may lack columns that the project's models have.
    """
    concrete = model._meta.concrete_model or model
    for table in tables_of(concrete):
        if not has_rows_of(table, concrete):
            continue
        if table.model is concrete:
            parts = [row for row in rows if row["pk"] is not None]
        else:
            parts = _rows_of_parent(concrete, table.model, rows)
        yield from table.changed(parts, using, is_new=True, in_migration=in_migration)


def _rows_of_parent(model: type[models.Model], parent: type[models.Model], rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a parent that rows of a model have a part in, as far as they are known."""
    has_same_key = all(path.join_field.primary_key for path in model._meta.get_path_to_parent(parent))
    name = parent._meta.pk.attname
    keys = [row.get(name, row["pk"] if has_same_key else None) for row in rows]
    return [dict(row) | {"pk": key} for row, key in zip(rows, keys, strict=True) if key is not None]


def _rows_with(
    found: models.QuerySet[Any, Any] | None, name: str, values: Sequence[Any], *, in_migration: bool
) -> Iterator[Row]:
    """Yield the rows of a query that have one of these values in a column.

    In a migration there are none if a column of the project's model does not exist yet: then
    ``post_migrate`` deletes what is cached of the migrated tables.
    """
    for start in range(0, len(values) if found is not None else 0, _VALUES_PER_QUERY):
        chunk: Any = found.filter(**{f"{name}__in": values[start : start + _VALUES_PER_QUERY]})  # type: ignore[union-attr]
        if not in_migration:
            yield from chunk
            continue
        try:
            with transaction.atomic(using=chunk.db):
                rows = list(chunk)
        except DatabaseError as error:
            raise_interrupt(error)
            return
        yield from rows


def _changed_ends(
    end: models.ForeignKey[Any, Any], rows: Sequence[Row], using: str, *, in_migration: bool
) -> Iterator[tuple[Dependent, list[Row]]]:
    """Yield what is wrong because rows of a many-to-many table changed, at one of its ends."""
    values = {row.get(end.attname) for row in rows} - {None}
    target, model = end.target_field, end.related_model
    if target.primary_key:
        changed: list[Row] = [{"pk": value, target.attname: value} for value in values]
    else:
        every_row: models.QuerySet[Any, Any] = models.QuerySet(model, using=using)
        found = every_row.values("pk", target.attname)
        changed = list(_rows_with(found, target.attname, list(values), in_migration=in_migration))
    yield from changed_rows(model, changed, using, in_migration=in_migration)


def row_of(instance: models.Model) -> dict[str, Any]:
    """Return the columns of an instance that keys are made of; deferred columns are left out."""
    names = {"pk"}
    for watched, dependent in dependents_of(type(instance)):
        names.update((watched._meta.pk.attname, *dependent.fields))
    row = {name: instance.__dict__[name] for name in names if name in instance.__dict__}
    return row | {"pk": instance.pk}


# The tables, by name

_tables: dict[str, list[WatchedTable]] | None = None


def watched_tables(name: str) -> Sequence[WatchedTable]:
    """Return the watched table of this name, as each concrete model has it of whose rows something is cached.

    Args:
        name: The ``db_table`` of a model. It may name a schema, as in ``"public"."shop_product"``.
    """
    return _all_tables().get(table_name(name), ())


def models_of_tables() -> list[type[models.Model]]:
    """Return the concrete models of all watched tables."""
    return [table.model for tables in _all_tables().values() for table in tables]


def _all_tables() -> dict[str, list[WatchedTable]]:
    global _tables  # noqa: PLW0603  # made when all models are known, and again when one is added
    if _tables is None:
        _tables = _watched_tables()
    return _tables


def all_tables() -> list[WatchedTable]:
    """Return every watched table, as each concrete model has it."""
    return [table for tables in _all_tables().values() for table in tables]


def table_name(name: str) -> str:
    """Return the name of a table without quotes, and without the schema ``public``.

    It is the schema in which Postgres looks for a name that has none.
    """
    return name.strip('"').replace('"."', ".").removeprefix("public.")


def forget_tables(**_: Any) -> None:
    """Forget which tables are watched: a model or a dependent has been added, or ``CACHES`` changed."""
    global _tables  # noqa: PLW0603  # see ``watched_table``
    _tables = None


class_prepared.connect(forget_tables, dispatch_uid="ringcache:tables")
setting_changed.connect(forget_tables, dispatch_uid="ringcache:tables")


def _watched_tables() -> dict[str, list[WatchedTable]]:
    tables: dict[type[models.Model], WatchedTable] = {}

    def table(model: type[models.Model]) -> WatchedTable:
        return tables.setdefault(model, WatchedTable(model))

    for model, dependents in dependents_by_model().items():
        concrete = model._meta.concrete_model or model
        for part in (concrete, *concrete._meta.get_parent_list()):
            table(part).dependents += [(model, dependent) for dependent in dependents]
    queried = queried_models()
    for model, aliases in queried.items():
        concrete = model._meta.concrete_model or model
        for part in (concrete, *concrete._meta.get_parent_list(), *many_to_many_models([model])):
            table(part).result_aliases |= aliases
    for through in many_to_many_models(watched_models()):
        for field in through._meta.local_concrete_fields:
            if isinstance(field, models.ForeignKey) and _is_watched(field.related_model):
                table(through).ends.append(field)
    by_name: dict[str, list[WatchedTable]] = {}
    for each in tables.values():
        by_name.setdefault(table_name(each.model._meta.db_table), []).append(each)
    return by_name


def many_to_many_models(ends: Iterable[type[models.Model]]) -> set[type[models.Model]]:
    """Return the models of the many-to-many tables of some models."""
    throughs: set[Any] = {
        relation.through if isinstance(relation, models.ManyToManyRel) else relation.remote_field.through
        for model in ends
        for relation in model._meta.get_fields(include_hidden=True)
        if relation.many_to_many and isinstance(relation, models.ManyToManyRel | models.ManyToManyField)
    }
    return throughs


def _is_watched(model: type[models.Model]) -> bool:
    return any(shares_rows(watched, model) for watched in watched_models())
