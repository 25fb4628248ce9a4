"""What the database says of a table: which columns can be bound, and what changes rows beside Django.

A query result has tags with the values of the columns that the query binds (``shapes``). A column can be
bound only if Python and the database agree which of its values are equal: if the field has canonical texts
(``backend.canonical``), and the column has a type and a collation for which different texts are different.

A process reads the catalogue of each table once, and forgets it after a migration that it has run itself.
What it reads in a transaction that has settings of its own, such as a ``search_path``, is remembered for that
transaction only.
The others have to be restarted after a migration, as by a deploy, and also if an administrator adds a
trigger or changes a collation by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from django.conf import settings
from django.core.signals import setting_changed
from django.db import connections, models
from django.db.models.signals import post_migrate

from cachebackend.backend.canonical import is_comparable, referred_field
from cachebackend.backend.open_transactions import found_by
from cachebackend.invalidation.catalogue_queries import read_table

__all__ = [
    "LONGEST_TEXT",
    "TableCatalogue",
    "bindable_fields",
    "catalogue_of",
    "forget_catalogues",
    "kind_of",
]

#: Characters. A column of longer texts is not bound: writers would read long values only for their digests.
LONGEST_TEXT = 200
AnyField: TypeAlias = "models.Field[Any, Any]"


@dataclass(frozen=True, slots=True)
class TableCatalogue:
    """What the database says of one table.

    Attributes:
        kinds: The kind of values, by column, of each column in which values that differ in Python are not
            equal in the database: integer, boolean, date, moment, uuid, decimal or text.
        generated: The columns that the database computes from others.
        has_before_row_triggers: Whether triggers may change other columns of a row than a statement names.
        is_partition_or_inherits: Whether rows of this table are rows of another table, too.
        has_row_security: Whether the database shows different rows to different roles.
        is_changed_by_cascade: Whether foreign keys of the table let the database itself delete or update
            its rows when a row of another table changes.
        may_change_other_rows: Whether a change of its rows may run triggers, or cascades of the database.
        is_table: Whether it is a permanent table without rewrite rules: no view, foreign, temporary or
            unlogged table.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    generated: frozenset[str] = frozenset()
    has_before_row_triggers: bool = False
    is_partition_or_inherits: bool = False
    has_row_security: bool = False
    is_changed_by_cascade: bool = False
    may_change_other_rows: bool = True
    is_table: bool = False

    @property
    def text(self) -> str:
        """A text that two processes share only if they know the same of the table."""
        others = replace(self, kinds={}, generated=frozenset())
        return repr((sorted(self.kinds.items()), sorted(self.generated), others))

    @property
    def bindable(self) -> frozenset[str]:
        """The columns that can be bound, if the fields of the model compare their values in the usual way."""
        return frozenset(self.kinds)

    def can_bind(self, column: AnyField) -> bool:
        """Return whether a query may bind a column, given the field of a model."""
        kind = self.kinds.get(str(column.column))
        return kind is not None and kind == kind_of(column)


_Place: TypeAlias = tuple[str, str, str]
_catalogues: dict[_Place, TableCatalogue] = {}
_fields: dict[tuple[_Place, type[models.Model]], tuple[AnyField, ...]] = {}


def catalogue_of(table: str, using: str) -> TableCatalogue:
    """Return what the database says of a table.

    Args:
        table: The ``db_table`` of a model.
        using: The alias of the database.
    """
    place = _place(table, using)
    found = _catalogues.get(place)
    if found is not None:
        return found
    known = found_by(connections[using], _catalogues)  # the name may be that of a table of another schema
    if place not in known:
        facts = read_table(connections[using], table)
        if facts is None:
            return TableCatalogue()  # not remembered: the table may be created
        known[place] = TableCatalogue(**facts)
    catalogue: TableCatalogue = known[place]
    return catalogue


def bindable_fields(model: type[models.Model], using: str) -> tuple[AnyField, ...]:
    """Return the fields of a model's own table that queries may bind.

    Writers need the old and the new values of these columns.
    """
    table = model._meta.db_table
    key = _place(table, using), model
    found = _fields.get(key)
    if found is None:
        catalogue = catalogue_of(table, using)
        found = tuple(each for each in model._meta.local_concrete_fields if catalogue.can_bind(each))
        if catalogue.is_table and key[0] in _catalogues:
            _fields[key] = found
    return found


def forget_catalogues(**_: Any) -> None:
    """Forget what the database said: a migration has run, or settings have changed."""
    _catalogues.clear()
    _fields.clear()


post_migrate.connect(forget_catalogues, dispatch_uid="ringcache:catalogue")
setting_changed.connect(forget_catalogues, dispatch_uid="ringcache:catalogue")


def _place(table: str, using: str) -> _Place:
    return using, str(connections[using].settings_dict["NAME"]), table


#: The kind of values of a field, by Django's class. Canonical texts of one kind have one form. Those of
#: ``TextField`` are not bound: no database enforces its ``max_length``, so they may be of any length.
_KINDS: dict[type[AnyField], str] = {
    models.BooleanField: "boolean",
    models.CharField: "text",
    models.DateField: "date",
    models.DateTimeField: "moment",
    models.DecimalField: "decimal",
    models.FileField: "text",
    models.FilePathField: "text",
    models.IntegerField: "integer",
    models.UUIDField: "uuid",
}


def kind_of(column: AnyField) -> str | None:
    """Return the kind of values that a field compares; None if its columns cannot be bound."""
    if not is_comparable(column):
        return None
    compared = column
    while (referred := referred_field(compared)) is not None:
        compared = referred
    kind = next((_KINDS[each] for each in type(compared).__mro__ if each in _KINDS), None)
    if kind == "text" and not 0 < (compared.max_length or 0) <= LONGEST_TEXT:
        return None
    if kind == "moment" and not settings.USE_TZ:
        return None  # a time that a change of the clock skips is equal to another one in the database
    return kind
