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

from cachebackend.conf import current_namespace

__all__ = ["database_of", "digest", "scope_of", "scopes_of_write"]

#: A text that a scope contains as it is. Any other text is hashed.
_PLAIN = re.compile(r"[\w./-]{0,80}", re.ASCII)
#: The names that SQLite gives to databases in memory, of which each process has its own.
_IN_MEMORY = re.compile(r":memory:|file:.*mode=memory")
#: Identifies this program among those that use the same nodes; its forks differ in their process ids.
_PROGRAM = uuid4().hex


def scope_of(using: str) -> str:
    """Return the scope of the rows of a database alias, in the current namespace."""
    databases = connections.databases
    primary = databases[using]["TEST"].get("MIRROR") or using
    name = str(databases[primary]["NAME"])
    if _IN_MEMORY.match(name):
        name = f"{name}:{_PROGRAM}:{os.getpid()}"
    return _scope(primary, name, current_namespace())


def scopes_of_write(using: str) -> list[str]:
    """Return the scopes in which rows of a database alias may be cached, in the current namespace."""
    databases = connections.databases
    name = databases[using]["NAME"]
    same = [alias for alias, database in databases.items() if database["NAME"] == name]
    return list(dict.fromkeys(map(scope_of, [using, *same])))


def database_of(row: models.Model) -> str:
    """Return the alias of the database from which a row was read, or to which it will be written."""
    return row._state.db or router.db_for_write(type(row))


def digest(text: str) -> str:
    """Return the hash of a text, under a prefix that no text has which is not hashed."""
    return f"#{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


@lru_cache(maxsize=10_000)
def _scope(alias: str, name: str, namespace: str) -> str:
    database = f"{_part(alias)}@{_part(name)}"
    return f"{database}+{_part(namespace)}" if namespace else database


def _part(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else digest(text)
