"""Random writes of the models that queries read, and the rows that each has changed.

The changes are found by comparison of the tables before and after the write, so they do not depend on
what the invalidation sees.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from django.contrib.contenttypes.models import ContentType
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, models, transaction

from cachebackend.backend.canonical import canonical_text
from cachebackend.invalidation.catalogue import bindable_fields
from cachebackend.queries.dependencies import Dependency
from cachebackend.shapes import value_digest
from tests.differential.query_kinds import Constants
from tests.zoo import models as zoo

__all__ = ["MODELS", "Change", "RandomWrites", "changes_between", "is_hit", "rows_of_tables"]

#: The models that are written, parents before children.
MODELS: tuple[type[models.Model], ...] = (
    zoo.Author, zoo.Poem, zoo.Letter, zoo.Desk, zoo.Branch, zoo.Label, zoo.Post, zoo.Mark, zoo.Credit,
    zoo.Place, zoo.Inn, zoo.Bar, zoo.Pub, zoo.Kiosk, zoo.Boat, zoo.Token, zoo.Stock, zoo.Price, zoo.Sum,
    zoo.Nickname, zoo.Seat, zoo.Genre, zoo.Shelf, zoo.Novel, zoo.Visit, zoo.Post.labels.through,
    zoo.Post.friends.through, zoo.Novel.labels.through,
)  # fmt: skip
#: The tables that are compared; those of parents are written with their children.
_TABLES: tuple[type[models.Model], ...] = (*MODELS, zoo.Motor, zoo.Hull)
#: Rows of a table after which no more are inserted.
_MOST_ROWS = 5
_TRIES = 50

Row: TypeAlias = dict[str, Any]
Tables: TypeAlias = dict[type[models.Model], dict[Any, Row]]


@dataclass(frozen=True)
class Change:
    """A row before and after a write.

    Attributes:
        model: The model of its table.
        old: Its columns before; None: it was inserted.
        new: Its columns after; None: it was deleted.
    """

    model: type[models.Model]
    old: Row | None
    new: Row | None

    @property
    def columns(self) -> set[str] | None:
        """The columns whose values differ; None: all, because the row was inserted or deleted."""
        if self.old is None or self.new is None:
            return None
        return {column for column, value in self.new.items() if self.old[column] != value}

    @cached_property
    def digests(self) -> list[dict[str, bytes]]:
        """The digests of the bindable columns, before and after."""
        fields = bindable_fields(self.model, "default")
        return [
            {str(field.column): _digest(field, row[str(field.column)]) for field in fields}
            for row in (self.old, self.new)
            if row is not None
        ]


def _digest(field: Any, value: Any) -> bytes:
    return value_digest(None if value is None else canonical_text(field, value))


def is_hit(dependency: Dependency, change: Change, columns: set[str] | None) -> bool:
    """Return whether a writer deletes a tag of a dependency, given the columns that it reports as changed."""
    if dependency.table != change.model._meta.db_table or not dependency.shape.depends_on(columns):
        return False
    tags = dependency.tags()
    return any(dependency.shape.tag(digests) in tags for digests in change.digests)


def rows_of_tables() -> Tables:
    """Return the rows of all tables, by model and primary key."""
    found: Tables = {}
    for model in _TABLES:
        fields = model._meta.local_concrete_fields
        rows = model._base_manager.values_list(*(field.attname for field in fields)).order_by()
        keys = [position for position, field in enumerate(fields) if field in model._meta.pk_fields]
        names = [str(field.column) for field in fields]
        found[model] = {tuple(row[key] for key in keys): dict(zip(names, row, strict=True)) for row in rows}
    return found


def changes_between(before: Tables, after: Tables) -> list[Change]:
    """Return the rows that differ."""
    return [
        Change(model, before[model].get(key), after[model].get(key))
        for model in before
        for key in {**before[model], **after[model]}
        if before[model].get(key) != after[model].get(key)
    ]


class RandomWrites:
    """Writes rows at random, from the few values of ``Constants``.

    Args:
        source: The source of chance.
        written: The models that are written, parents before children.
        using: The alias of the database, to which a router sends the models.
    """

    def __init__(
        self,
        source: random.Random,
        written: Sequence[type[models.Model]] = MODELS,
        using: str = DEFAULT_DB_ALIAS,
    ) -> None:
        self._source = source
        self._using = using
        self._models = written
        self._constants = Constants(source)

    def fill(self) -> None:
        """Insert some rows of every model."""
        for _ in range(3):
            for model in self._models:
                self._try(self._insert, model)

    def write(self) -> str:
        """Insert, update or delete a row; return what was done. Try again if the database refuses it."""
        for _ in range(_TRIES):
            model = self._source.choice(self._models)
            step = self._source.choices((self._insert, self._update, self._delete), (3, 6, 2))[0]
            if done := self._try(step, model):
                return done
        return "nothing"

    def empty(self) -> str:
        """Delete all rows of a model; return what was done."""
        return self._try(self._delete_all, self._source.choice(self._models)) or "nothing"

    def _try(self, step: Any, model: type[models.Model]) -> str:
        try:
            with transaction.atomic(self._using):
                done: str = step(model)
                connections[self._using].check_constraints()
                return done
        except DatabaseError:
            return ""

    def _insert(self, model: type[models.Model]) -> str:
        if model._base_manager.count() >= _MOST_ROWS:
            return ""
        values = {
            field.attname: self._value(field)
            for field in model._meta.concrete_fields
            if not field.generated and field.column and not _is_parent_link(field)
        }
        model(**values).save(force_insert=not model._meta.parents)
        return f"insert {model.__name__} {values}"

    def _update(self, model: type[models.Model]) -> str:
        row = self._row(model)
        fields = [
            field
            for field in model._meta.concrete_fields
            if not (field.generated or field.primary_key or _is_parent_link(field))
            and field not in model._meta.pk_fields
            and not isinstance(field, models.AutoField)
            and field.column
        ]
        if row is None or not fields:
            return ""
        chosen = self._source.sample(fields, min(len(fields), self._source.choice((1, 1, 1, 2))))
        values = {field.attname: self._value(field) for field in chosen}
        model._base_manager.filter(pk=row.pk).update(**values)
        return f"update {model.__name__} {row.pk} {values}"

    def _delete(self, model: type[models.Model]) -> str:
        row = self._row(model)
        if row is None or model._base_manager.count() < 2:
            return ""
        row.delete()
        return f"delete {model.__name__} {row.pk}"

    def _delete_all(self, model: type[models.Model]) -> str:
        model._base_manager.all().delete()
        return f"delete all of {model.__name__}"

    def _row(self, model: type[models.Model]) -> models.Model | None:
        rows: Sequence[models.Model] = list(model._base_manager.order_by("pk"))
        return self._source.choice(rows) if rows else None

    def _value(self, field: Any) -> Any:
        constants, chance = self._constants, self._source
        if field.null and chance.random() < 0.3:
            return None
        if field.remote_field and field.related_model is ContentType:
            return ContentType.objects.get_for_model(chance.choice((zoo.Post, zoo.Label))).pk
        if isinstance(field, models.ForeignKey):
            name = field.target_field.attname
            found = list(field.related_model._base_manager.order_by("pk").values_list(name, flat=True))
            return chance.choice(found) if found else None
        if isinstance(field, models.AutoField):
            used = set(field.model._base_manager.values_list(field.attname, flat=True))
            free = [number for number in range(1, 12) if number not in used]
            return free[0]
        if isinstance(field, models.JSONField):
            return chance.choice(({}, {"a": constants.number()}, {"b": 1}))
        if isinstance(field, models.FloatField):
            return float(constants.number())
        values = {
            models.BooleanField: constants.flag,
            models.CharField: constants.text,
            models.DateTimeField: constants.moment,
            models.DateField: constants.day,
            models.DecimalField: constants.decimal,
            models.UUIDField: constants.code,
        }
        draw = next((values[each] for each in type(field).__mro__ if each in values), constants.number)
        value = draw()
        if field.primary_key and isinstance(value, uuid.UUID):
            return chance.choice(Constants.CODES)
        return constants.key() if field.attname == "object_id" else value


def _is_parent_link(field: Any) -> bool:
    return bool(field.remote_field and getattr(field.remote_field, "parent_link", False))
