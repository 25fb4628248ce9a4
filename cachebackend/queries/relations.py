"""The foreign keys that ``select_related`` follows, if the related rows are read from their own entries.

Django joins the related rows. A result of the joined rows would depend on all of their columns. Where the
related model has a ``CachedManager``, the result holds the primary keys of the rows alone. Then a change
of a related row leaves the result, and this row alone is loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models.fields.related import ForeignObject

from cachebackend.invalidation.watched import dependents_by_model

__all__ = ["Path", "Relation", "hides_rows", "manager_of_rows", "relations_of"]

#: The names of foreign keys, from the model of a query to a related one; empty: the model itself.
Path = tuple[str, ...]


class Relation(NamedTuple):
    """A foreign key whose rows are read from their own entries.

    Attributes:
        field: The foreign key.
        path: The names of the foreign keys that lead to the related rows, with its own.
        manager: The ``CachedManager`` that reads the related rows.
        inner: The foreign keys of the related rows.
    """

    field: models.ForeignKey[Any, Any]
    path: Path
    manager: Any
    inner: Sequence[Relation]

    def set(self, row: models.Model, related: models.Model | None) -> None:
        """Set the related row of a row, as ``select_related`` does."""
        self.field.set_cached_value(row, related)
        if related is not None and self.field.unique:
            self.field.remote_field.set_cached_value(related, row)


def relations_of(
    model: type[models.Model], followed: Any, alias: str, using: str, path: Path = ()
) -> Sequence[Relation] | None:
    """Return the foreign keys that a query follows; None: their rows must be joined.

    Args:
        model: The model that has the foreign keys.
        followed: Django's ``select_related``: True, or a dict by name; False: it follows none.
        alias: The cache alias of the query.
        using: The alias of the database.
        path: The foreign keys that lead to the model.
    """
    if not isinstance(followed, Mapping):
        return None if followed else ()
    found: list[Relation] = []
    for name, deeper in followed.items():
        field, own = _foreign_key(model, name), (*path, name)
        manager = None if field is None else _manager(field.remote_field.model, alias, using)
        inner = None if manager is None else relations_of(manager.model, deeper, alias, using, own)
        if inner is None:
            return None
        found.append(Relation(field, own, manager, inner))
    return found


def _manager(model: type[models.Model], alias: str, using: str) -> Any:
    """Return the manager that reads every row of a model from its own entry; None: there is none."""
    manager = getattr(model, manager_of_rows(model, alias) or "_", None)
    return manager if manager is not None and manager.has_keys and manager.database == using else None


def _foreign_key(model: type[models.Model], name: str) -> Any:
    """Return a foreign key to a primary key, which always has its row: the database enforces it."""
    try:
        field: Any = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    is_plain = (
        issubclass(type(field), models.ForeignKey)
        and field.name == name
        and field.db_constraint
        and not field.remote_field.parent_link
        and field.target_field is field.remote_field.model._meta.pk
        and type(field).get_extra_restriction is ForeignObject.get_extra_restriction
    )
    return field if is_plain else None


def manager_of_rows(model: type[models.Model], alias: str) -> str:
    """Return the name of a ``CachedManager`` that reads every row of a model; empty: there is none."""
    for dependent in dependents_by_model().get(model, ()):
        reads_rows = (
            hasattr(dependent, "reading") and dependent.cache_alias == alias and not dependent.is_strict
        )
        if reads_rows and getattr(dependent, "base_manager", None) is None and not hides_rows(model):
            return str(getattr(dependent, "name", ""))
    return ""


def hides_rows(model: type[models.Model]) -> bool:
    """Return whether the manager of ``Meta.base_manager_name`` leaves out rows of a model.

    By its own entry such a row does not exist, but queries over all rows return it, and Django joins it.
    """
    manager = model._base_manager
    if type(manager) is models.Manager:
        return False
    query: Any = manager.get_queryset().query
    return bool(query.where or query.is_sliced or query.distinct or query.combinator or query.extra)
