"""The names of calls: which function is called, and with which arguments.

Two calls have one name only if the function and every argument are the same, by type and value. What
cannot be named exactly is refused, never approximated: ``repr`` may be cut off, or show an address.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from enum import Enum, Flag
from functools import partial
from hashlib import sha256
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from django.db import DEFAULT_DB_ALIAS, models, router

from cachebackend.backend.canonical import canonical_text, is_comparable
from cachebackend.backend.lazy_objects import loaded
from cachebackend.backend.scope import database_of, scope_of
from cachebackend.codec import EncodeError, pack_plain
from cachebackend.interrupts import raise_interrupt
from cachebackend.models import OutboxRow

#: The attributes by which decorators keep the function that they have wrapped.
_WRAPPED = ("__wrapped__", "__func__", "func", "fget")
#: The most objects of which each wraps the next; an object may invent any attribute that it is asked for.
_LONGEST_CHAIN = 50

__all__ = ["arguments_digest", "call_scope", "captures_digest", "function_name", "has_captures"]


def call_scope() -> str:
    """Return the scope of calls: that of the database to which the router sends writes of this app.

    So a router that chooses a tenant's database separates the results of tenants. Without a tenant it
    may raise an error; then the scope is that of the default database.
    """
    if not router.routers:
        return scope_of(DEFAULT_DB_ALIAS)
    try:
        return scope_of(router.db_for_write(OutboxRow))
    except Exception as error:  # noqa: BLE001  # a project's router may raise anything
        raise_interrupt(error)
        return scope_of(DEFAULT_DB_ALIAS)


def function_name(function: Callable[..., Any]) -> str:
    """Return the name of a function: its module and its name in the source, as far as that names it alone.

    A function that cannot be found by its name, because it is local or another one has the name, is named
    by its place in the source file too. A wrapper is named by what it wraps and by its own code:
    ``functools.wraps`` gives it the name of another function, and many wrappers have one code.
    """
    chain = _chain(function)
    if not chain:
        named = function if isinstance(function, BuiltinFunctionType) else type(function)
        return f"{named.__module__ or 'builtins'}.{named.__qualname__}"
    *wrappers, innermost = chain
    name = _own_name(innermost)
    return f"{name}@{_hash(list(map(_own_name, wrappers)))}" if wrappers else name


def has_captures(function: Callable[..., Any]) -> bool:
    """Return whether a function's results depend on values that are bound to it, beside its arguments."""
    return not isinstance(function, FunctionType) or bool(function.__closure__)


def captures_digest(function: Callable[..., Any]) -> str:
    """Return a hash of the values that are bound to a function, as far as they can be named.

    Raises:
        EncodeError: The function is an object, and nothing distinguishes it from others of its class.
    """
    if isinstance(function, BuiltinFunctionType) and isinstance(function.__self__, ModuleType):
        return ""
    functions = _chain(function)
    if not functions or isinstance(function, MethodType | partial):
        return arguments_digest({}, getattr(function, "__self__", function))[:32]
    names: list[bytes] = []
    for cell in (cell for each in functions for cell in each.__closure__ or ()):
        try:
            names.append(pack_plain(_Namer().plain(_contents(cell))))
        except EncodeError as error:  # the caller's own text distinguishes the calls
            raise_interrupt(error)
    return _hash(names) if names else ""


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


def _chain(function: Any) -> list[FunctionType]:
    """Return a function and those that it wraps, from the outside to the inside."""
    chain: list[FunctionType] = []
    seen: set[int] = set()
    while function is not None and id(function) not in seen and len(seen) < _LONGEST_CHAIN:
        seen.add(id(function))
        if isinstance(function, FunctionType):
            chain.append(function)
        function = next(
            (each for name in _WRAPPED if (each := getattr(function, name, None)) is not None), None
        )
    return chain


def _own_name(function: FunctionType) -> str:
    module, path = function.__globals__.get("__name__", ""), function.__code__.co_qualname
    name = f"{module}.{path}"
    if module == "__main__":  # of any script or shell
        return f"{name}@{_hash(_content(function.__code__))}"
    return name if _is_found(function, module, path) else f"{name}@{_place(function)}"


def _is_found(function: FunctionType, module: str, path: str) -> bool:
    """Return whether a function, or what decorators have made of it, has this name in its module."""
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name, None)
    return any(each is function for each in _chain(found))


def _place(function: FunctionType) -> str:
    """Return a text that differs for two functions at different places of one source file.

    Python 3.12 does not say in which columns ``lambda: 1`` returns its constant, so the place alone may be
    that of another function on the line.
    """
    return _hash([*function.__code__.co_positions(), *_content(function.__code__)])


def _content(code: CodeType) -> list[Any]:
    """Return what a function does by its own code, the same in every process."""
    return [code.co_code, code.co_names, *map(_constant, code.co_consts)]


def _constant(value: object) -> Any:
    if isinstance(value, CodeType):  # of a function within; its ``repr`` shows an address
        return _content(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _hash(parts: list[Any]) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:16]


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
            return self._row(loaded(value))
        if isinstance(value, Enum):
            return ["enum", self._named(kind), self._member(value)]
        if isinstance(value, FunctionType | MethodType | partial):
            return self._function(value)
        if isinstance(value, type):
            return ["class", self._named(value)]
        return value

    def _row(self, row: models.Model) -> list[Any]:
        pk = canonical_text(row._meta.pk, row.pk) if is_comparable(row._meta.pk) else self.plain(row.pk)
        if pk is None:
            message = f"{row!r} has the primary key {row.pk!r}; save it first"
            raise EncodeError(message)
        return ["row", scope_of(database_of(row)), row._meta.label_lower, pk]

    def _member(self, member: Enum) -> Any:
        if isinstance(member, Flag):  # a combination of flags may have no name
            return member.value
        if type(member).__members__.get(member.name) is not member:
            message = f"{member!r} is not a member of its enumeration"
            raise EncodeError(message)
        return member.name

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
        raise_interrupt(error)
        message = "a variable that the function uses has no value yet"
        raise EncodeError(message) from error
