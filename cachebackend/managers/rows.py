"""Rows as cached values: the columns as the database returned them, and a fingerprint of the model.

Instances are not pickled. If the model of another process has one field more or less, that
process finds another fingerprint and treats the value as a miss. It never builds an instance
that lacks an attribute or has a wrong one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Generic, TypeAlias, TypeVar, cast

from django.conf import settings
from django.db import models
from django.db.models.base import ModelState
from django.db.models.fields.files import FileDescriptor, ImageFileDescriptor
from django.db.models.fields.related_descriptors import ForeignKeyDeferredAttribute
from django.db.models.signals import post_init, pre_init
from xxhash import xxh3_64_hexdigest

from cachebackend.managers.conversions import Conversions, Unconverted
from cachebackend.managers.lookups import Lookup
from cachebackend.properties import cached_property

__all__ = ["Row", "RowShape"]

M = TypeVar("M", bound=models.Model)
#: The columns of a row, in the order of its model's fields.
Row: TypeAlias = Sequence[Any]
_FROM_DB = cast("Any", models.Model.from_db).__func__
#: The descriptors of Django that only store the value that a new instance is given.
_STORING = (FileDescriptor, ForeignKeyDeferredAttribute, ImageFileDescriptor)


class RowShape(Generic[M]):
    """How rows of one model are stored.

    Args:
        model: The rows' model; all of its fields must be known.
        base_manager: The name of the model's manager through which rows are loaded; None: the
            model's ``_base_manager``. A row that exists for one manager may not exist for another.
    """

    def __init__(self, model: type[M], base_manager: str | None = None) -> None:
        self.model = model
        fields = model._meta.concrete_fields
        self.names = [field.attname for field in fields]
        self.positions = {name: position for position, name in enumerate(self.names)}
        self.pk_fields = model._meta.pk_fields
        #: Returns the primary key of a row, given its columns; a tuple if it is composite.
        self.pk: Callable[[Row], Any] = itemgetter(
            *(self.positions[field.attname] for field in self.pk_fields)
        )
        #: What returns a row's value of a lookup, by the columns of the lookup.
        self._getters: dict[tuple[str, ...], Callable[[Row], Any]] = {}
        conversions = Conversions(model)
        self._convert = conversions.of if conversions.positions else None
        #: What is selected of a row, in the order of ``names``.
        self.selected: list[str | Unconverted] = [
            Unconverted(name) if position in conversions.positions else name
            for position, name in enumerate(self.names)
        ]
        shape = [
            (field.attname, field.column, type(field).__qualname__, *["unconverted"] * (each is not name))
            for field, each, name in zip(fields, self.selected, self.names, strict=True)
        ]
        # With USE_TZ times are aware, without it they are naive
        self._fingerprint = xxh3_64_hexdigest(repr((base_manager, settings.USE_TZ, shape)).encode())

    def value(self, row: Row) -> list[Any]:
        """Return the value to cache for a row, given its columns in the order of ``names``."""
        return [self._fingerprint, *row]

    def row(self, value: Any) -> Row | None:
        """Return the columns of a cached value; None if a model of another shape made the value."""
        if not isinstance(value, list) or len(value) != len(self.names) + 1 or value[0] != self._fingerprint:
            return None
        return value[1:]

    def values_of(self, lookup: Lookup) -> Callable[[Row], Any]:
        """Return a function of the value that a row has of a lookup; a tuple if it has several fields."""
        get = self._getters.get(lookup.columns)
        if get is None:
            positions = [self.positions[name] for name in lookup.columns]
            get = self._getters[lookup.columns] = itemgetter(*positions)
        return get

    def instance(self, row: Row, using: str) -> M:
        """Return the model instance of a row, as if it had just been read from the database."""
        [instance] = self.instances([row], using)
        return instance

    def instances(self, rows: Iterable[Row], using: str) -> list[M]:
        """Return the model instances of rows, as if they had just been read from the database.

        ``from_db`` and the constructor of a model do more than to store the values only if the model
        replaces them, or a receiver of a signal waits for new instances. Otherwise they are not called:
        they take longer than the rest of what a cached row needs in this process.
        """
        model, names, convert = self.model, self.names, self._convert
        if convert is not None:
            rows = (convert(row, using) for row in rows)
        if not self._stores_only:
            return [model.from_db(using, names, row) for row in rows]
        instances: list[M] = []
        for row in rows:
            instance = object.__new__(model)
            attributes = instance.__dict__
            attributes["_state"] = state = ModelState()
            state.adding, state.db = False, using
            attributes.update(zip(names, row, strict=True))
            instances.append(instance)
        return instances

    @property
    def _stores_only(self) -> bool:
        """Whether the construction of an instance only stores the values; this may change at any time."""
        model: Any = self.model
        if model.__init__ is not models.Model.__init__ or not self._has_plain_class:
            return False
        if getattr(model.from_db, "__func__", None) is not _FROM_DB:
            return False
        if not pre_init.receivers and not post_init.receivers:
            return True
        return not (pre_init.has_listeners(model) or post_init.has_listeners(model))

    @cached_property
    def _has_plain_class(self) -> bool:
        """Whether the class of the instances has Django's own ways to make them and to set attributes."""
        model: Any = self.model
        attributes = [inspect.getattr_static(model, name, None) for name in self.names]
        return (
            model.__new__ is object.__new__
            and model.__setattr__ is object.__setattr__
            and type(model).__call__ is type.__call__
            and all(not hasattr(each, "__set__") or type(each) in _STORING for each in attributes)
        )
