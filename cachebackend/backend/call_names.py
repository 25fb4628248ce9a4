"""The names of calls: which function is called, and with which arguments.

Two calls have one name only if the function and every argument are the same, by type and value. What
cannot be named exactly is refused, never approximated: ``repr`` may be cut off, or show an address.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from hashlib import sha256
from types import FunctionType, MethodType
from typing import Any

from django.db import DEFAULT_DB_ALIAS, models

from cachebackend.backend.canonical import canonical_text
from cachebackend.backend.scope import database_of, scope_of
from cachebackend.codec import EncodeError, pack_plain

__all__ = ["arguments_digest", "call_scope", "function_name", "has_captures"]


def call_scope() -> str:
    """Return the scope of calls: that of the default database's rows, in the current namespace."""
    return scope_of(DEFAULT_DB_ALIAS)


def function_name(function: Callable[..., Any]) -> str:
    """Return the name of a function: its module and name; for one without a global name, its place too."""
    while isinstance(function, partial | MethodType):
        function = function.func if isinstance(function, partial) else function.__func__
    if not isinstance(function, FunctionType):
        return f"{type(function).__module__}.{type(function).__qualname__}"
    name = f"{function.__module__}.{function.__qualname__}"
    return f"{name}@{_place(function)}" if "<" in name else name


def has_captures(function: Callable[..., Any]) -> bool:
    """Return whether a function's results depend on values that are bound to it, beside its arguments."""
    return not isinstance(function, FunctionType) or bool(function.__closure__)


def arguments_digest(arguments: Mapping[str, Any], captures: Callable[..., Any] | None = None) -> str:
    """Return the hash of the arguments of a call, the same in every process.

    Args:
        arguments: The arguments by the names of the function's parameters.
        captures: The function, if its bound values must be part of the hash.

    Raises:
        EncodeError: An argument or a bound value cannot be named exactly.
    """
    namer = _Namer()
    items = [namer.plain(captures) if captures else None]
    items += [[name, namer.plain(value)] for name, value in arguments.items()]
    return sha256(pack_plain(items)).hexdigest()


def _place(function: FunctionType) -> str:
    """Return a text that differs for two functions at different places of one source file."""
    return sha256(repr(list(function.__code__.co_positions())).encode()).hexdigest()[:16]


class _Namer:
    """Returns plain data that represents values exactly, for one call."""

    def __init__(self) -> None:
        self._functions: list[int] = []

    def plain(self, value: Any) -> Any:
        """Return lists, texts, numbers and bytes that no other value has.

        Raises:
            EncodeError: The value cannot be named exactly.
        """
        kind = type(value)
        if kind in {list, tuple}:
            return [kind.__name__, *map(self.plain, value)]
        if kind in {set, frozenset}:
            return [kind.__name__, *sorted(pack_plain(self.plain(item)) for item in value)]
        if kind is dict:
            items = ([pack_plain(self.plain(name)), self.plain(item)] for name, item in value.items())
            return ["dict", *sorted(items, key=lambda item: item[0])]
        if kind in {bytearray, memoryview}:
            return [kind.__name__, getattr(value, "format", ""), bytes(value)]
        if isinstance(value, models.Model):
            return self._row(value)
        if isinstance(value, Enum):
            return ["enum", self._named(kind), value.name]
        if isinstance(value, FunctionType | MethodType | partial):
            return self._function(value)
        if isinstance(value, type):
            return ["class", self._named(value)]
        return value

    def _row(self, row: models.Model) -> list[Any]:
        text = canonical_text(row._meta.pk, row.pk)
        if text is None:
            message = f"{row!r} has the primary key {row.pk!r}; save it first"
            raise EncodeError(message)
        return ["row", scope_of(database_of(row)), row._meta.label_lower, text]

    def _function(self, function: Any) -> list[Any]:
        if id(function) in self._functions:  # it refers to itself
            return ["again", self._functions.index(id(function))]
        self._functions.append(id(function))
        if isinstance(function, partial):
            bound = [function.func, function.args, function.keywords]
        elif isinstance(function, MethodType):
            bound = [function.__self__, function.__func__]
        else:
            cells = [_contents(cell) for cell in function.__closure__ or ()]
            bound = [function.__defaults__, function.__kwdefaults__, *cells]
        return ["function", function_name(function), *map(self.plain, bound)]

    def _named(self, named: type) -> str:
        """Return the path by which every process can import a class."""
        found: Any = sys.modules.get(named.__module__)
        for name in named.__qualname__.split("."):
            found = getattr(found, name, None)
        if found is not named:
            message = f"{named!r} cannot be imported by its name"
            raise EncodeError(message)
        return f"{named.__module__}.{named.__qualname__}"


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError as error:
        message = "a variable that the function uses has no value yet"
        raise EncodeError(message) from error
