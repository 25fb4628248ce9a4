"""The scope of a row: its database and the namespace, as the keys of rows and of their tags begin.

A database is named by its alias and its name. The alias distinguishes two servers whose databases
have one name. The name is the current one: during tests it is that of the test database, so tests
and the site do not read each other's rows on the same nodes.

Several aliases may lead to one database: replicas, poolers. So a write makes wrong what is cached
under each alias with the same name. An alias with ``TEST["MIRROR"]``, by which Django's settings
declare a replica, has no scope of its own.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from hashlib import sha256
from uuid import uuid4

from django.db import connections, models, router

from cachebackend.conf import current_namespace, namespace_function

__all__ = [
    "database_of",
    "database_text",
    "databases_of_write",
    "digest",
    "is_asked_in_thread",
    "is_safe",
    "part_of_table",
    "scope_of",
    "scopes_of_write",
]

#: A text that a scope contains as it is. Any other text is hashed.
_PLAIN = re.compile(r"[\w./-]{0,80}", re.ASCII)
#: The names that SQLite gives to databases in memory, of which each process has its own.
_IN_MEMORY = re.compile(r":memory:|file:.*mode=memory")
#: Identifies this program among those that use the same nodes; its forks differ in their process ids.
_PROGRAM = uuid4().hex


def scope_of(using: str) -> str:
    """Return the scope of the rows of a database alias, in the current namespace."""
    namespace = current_namespace()
    return f"{database_text(using)}+{_part(namespace)}" if namespace else database_text(using)


def scopes_of_write(using: str) -> list[str]:
    """Return the scopes in which rows of a database alias may be cached, in the current namespace."""
    return list(dict.fromkeys(map(scope_of, _aliases_of(using))))


def databases_of_write(using: str) -> list[str]:
    """Return what the scopes begin with in which rows of a database alias may be cached, in any namespace."""
    return list(dict.fromkeys(map(database_text, _aliases_of(using))))


def is_asked_in_thread() -> bool:
    """Return whether the scope may depend on the thread: the namespace and routers may.

    Coroutines then ask in the thread in which their queries run.
    """
    return namespace_function() is not None or bool(router.routers)


def database_of(row: models.Model) -> str:
    """Return the alias of the database from which a row was read, or to which it will be written."""
    return row._state.db or router.db_for_write(type(row))


def digest(text: str) -> str:
    """Return the hash of a text, under a prefix that no text has which is not hashed."""
    return f"#{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def is_safe(text: str) -> bool:
    """Return whether a text has no character that Django warns about in a key."""
    return text.isprintable() and " " not in text


def part_of_table(name: str) -> str:
    """Return a table as a part of keys: its name, or the hash of one that Django would warn about."""
    return name if is_safe(name) else digest(name)


def _aliases_of(using: str) -> list[str]:
    """Return an alias, and those whose databases have the same name, which may be a path or a text."""
    databases = connections.settings
    name = str(databases[using]["NAME"])
    return [using, *(alias for alias, database in databases.items() if str(database["NAME"]) == name)]


def database_text(using: str) -> str:
    """Return what the scopes of a database alias begin with."""
    databases = connections.settings
    primary = databases[using]["TEST"]["MIRROR"] or using
    return _text(primary, databases[primary]["NAME"], os.getpid())


@lru_cache
def _text(alias: str, name: object, process: int) -> str:
    text = str(name)
    if _IN_MEMORY.match(text):
        text = f"{text}:{_PROGRAM}:{process}"
    return f"{_part(alias)}@{_part(text)}"


@lru_cache(maxsize=10_000)
def _part(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else digest(text)
