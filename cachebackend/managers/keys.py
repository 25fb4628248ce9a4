"""The keys that a model's rows are cached under: one for the primary key, one for each lookup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import models

from cachebackend.backend.canonical import is_comparable, key_part
from cachebackend.backend.tag_names import table_of
from cachebackend.managers.lookups import Lookup, fault_of
from cachebackend.properties import cached_property

__all__ = ["LookupNames", "NoKeys", "RowKeys"]

#: The name of a unique field, or the names of the fields of a unique constraint.
LookupNames = str | Sequence[str]


class RowKeys:
    """Makes the keys of one model's rows; the cache adds its prefix and version to them.

    Args:
        model: The rows' model; all of its fields must be known.
        lookups: The unique fields, or groups of fields, beside the primary key, by which rows are looked up.
        name: What distinguishes the keys from those of another manager of the model; usually "".

    Keys are named by table and column, not by what a new release of the project may rename while
    processes of the old one still read and write the same rows. Only a second model of one table, a proxy
    or one whose table Django does not manage, is named too: it may have other columns.
    """

    def __init__(self, model: type[models.Model], lookups: Sequence[LookupNames], name: str = "") -> None:
        self._model = model
        self._name = name
        self._lookups = [(names,) if isinstance(names, str) else tuple(names) for names in lookups]

    @cached_property
    def pk(self) -> Lookup:
        """The primary key.

        Raises:
            ImproperlyConfigured: The model has none.
        """
        pk = self._model._meta.pk
        if pk is None:
            message = f"{self._model.__name__} has no primary key"
            raise ImproperlyConfigured(message)
        return Lookup([pk], is_pk=True)

    @cached_property
    def exist(self) -> bool:
        """Whether rows have keys: Python must know which primary keys the database holds equal."""
        return all(map(is_comparable, self.pk.fields))

    @cached_property
    def lookups(self) -> list[Lookup]:
        """The lookups that can be used; the primary key is not among them."""
        get_field: Any = self._model._meta.get_field
        return [
            Lookup([get_field(name) for name in names]) for names in self._lookups if names not in self.faults
        ]

    @cached_property
    def fields(self) -> dict[str, Lookup]:
        """The lookups by one field, under each name that a caller may use."""
        [pk] = self.pk.fields
        named = {"pk": self.pk, pk.name: self.pk, pk.attname: self.pk}
        for lookup in self.lookups:
            if lookup.single is not None:
                named[lookup.single.name] = named[lookup.single.attname] = lookup
        return named

    @cached_property
    def faults(self) -> dict[tuple[str, ...], str]:
        """The lookups that cannot be used, each with a sentence that says why."""
        faults = {names: fault_of(self._model, names) for names in self._lookups}
        return {names: fault for names, fault in faults.items() if fault is not None}

    def asked(self, given: Mapping[str, Any]) -> tuple[Lookup, Any] | None:
        """Return the lookup, and the value, that the arguments of ``get`` name; None: there is none.

        Raises:
            ImproperlyConfigured: They are one of ``lookups`` that cannot be used.
        """
        if len(given) == 1:
            [(name, value)] = given.items()
            lookup = self.fields.get(name)
            if lookup is not None:
                return lookup, value
        values = {self._attnames.get(name, name): value for name, value in given.items()}
        group = self._groups.get(frozenset(values)) if len(values) == len(given) > 1 else None
        if group is not None:
            return group, tuple(values[name] for name in group.columns)
        if self.faults and (fault := self.faults.get(tuple(given))) is not None:
            raise ImproperlyConfigured(fault)
        return None

    @cached_property
    def _groups(self) -> dict[frozenset[str], Lookup]:
        """The lookups by several columns, a composite primary key included, by their attribute names."""
        return {frozenset(lookup.columns): lookup for lookup in self._all if len(lookup.columns) > 1}

    @cached_property
    def _attnames(self) -> dict[str, str]:
        """The attribute name of each field of a lookup, by the field's name."""
        return {field.name: field.attname for lookup in self.lookups for field in lookup.fields}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that keys are made of, by attribute name."""
        return tuple(dict.fromkeys(name for lookup in self._all for name in lookup.columns))

    def of(self, lookup: Lookup, value: Any, scope: str) -> str | None:
        """Return the key of the row that has this value; None if the value has no text."""
        part = self._part(lookup, value)
        return None if part is None else f"{scope}:{part}"

    def of_many(self, lookup: Lookup, values: Sequence[Any], scope: str) -> list[str | None]:
        """Return the key of the row that has each value; None for a value that has no text."""
        if not self.exist:
            return [None] * len(values)
        start = f"{scope}:{self._middles[lookup.name]}"
        return [None if part is None else start + part for part in lookup.parts(values)]

    def of_rows(self, rows: Sequence[Mapping[str, Any]], scopes: Sequence[str]) -> list[str]:
        """Return the keys of rows: of their primary keys, and of those lookup values that are known."""
        parts: list[str] = []
        for lookup in self._all if self.exist else ():
            middle, known = self._middles[lookup.name], [lookup.value_of(row) for row in rows]
            of_known = lookup.parts([value for value in known if value is not None])
            parts += [middle + part for part in of_known if part is not None]
        return [f"{scope}:{part}" for scope in scopes for part in parts]

    def prefixes(self, databases: Sequence[str]) -> list[tuple[str, str]]:
        """Return what all keys in these databases begin with: two texts, and any namespace between them."""
        return [(database, f":{self._label}:") for database in databases]

    def _part(self, lookup: Lookup, value: Any) -> str | None:
        """Return the part of a key behind its scope; None if the value has no text."""
        if not self.exist:
            return None
        text = lookup.text(value)
        return None if text is None else self._middles[lookup.name] + key_part(text)

    @cached_property
    def _all(self) -> list[Lookup]:
        return [self.pk, *self.lookups]

    @cached_property
    def _middles(self) -> dict[str, str]:
        """What the keys of a lookup have between the scope and the value, by its name."""
        return {lookup.name: f"{self._label}:{lookup.name}:" for lookup in self._all}

    @property
    def _label(self) -> str:
        meta = self._model._meta
        model = f".{meta.model_name}" if meta.proxy or not meta.managed else ""
        return f"{table_of(self._model)}{model}" + (f":{self._name}" if self._name else "")


class NoKeys(RowKeys):
    """The keys of a manager that reads some rows of its model: each row must be asked for by a query."""

    def asked(self, given: Mapping[str, Any]) -> None:
        """Return None: a row with a key may be none of those that the manager reads."""
