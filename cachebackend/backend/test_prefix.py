"""The key prefix of tests: the site, and another process of tests, never read what a test stores.

The keys of rows hold the name of their database, which is another one during tests. All other keys get
it by their prefix. Django creates the test database after the cache objects may exist, and gives each
process of ``--parallel`` its own copy, so those steps of Django are wrapped and set the prefixes again.

A process that tests start, such as a worker, is told the name of the test database by its settings. It
finds the same prefix if the name begins as Django's own names of test databases do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from django.core.cache import caches
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.creation import TEST_DATABASE_PREFIX, BaseDatabaseCreation

from cachebackend.backend.scope import database_text

__all__ = ["connect_test_prefix", "with_test_prefix"]

#: The methods of Django after which the databases of the tests have other names.
_STEPS = ("create_test_db", "setup_worker_connection", "destroy_test_db")
#: The aliases whose test database exists.
_test_databases: set[str] = set()


def with_test_prefix(prefix: str) -> str:
    """Return the prefix of an alias' keys: with the name of the test database, if tests run."""
    name = str(connections.settings[DEFAULT_DB_ALIAS]["NAME"])
    is_test = DEFAULT_DB_ALIAS in _test_databases or PurePath(name).name.startswith(TEST_DATABASE_PREFIX)
    return f"{prefix}+{database_text(DEFAULT_DB_ALIAS).partition('@')[2]}" if is_test else prefix


def connect_test_prefix() -> None:
    """Set the prefixes again whenever Django has changed the databases of the tests."""
    for name in _STEPS:
        step = getattr(BaseDatabaseCreation, name)
        if not hasattr(step, "__wrapped__"):
            setattr(BaseDatabaseCreation, name, _and_set_prefixes(name, step))


def _and_set_prefixes(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def run(self: BaseDatabaseCreation, *args: Any, **kwargs: Any) -> Any:
        result = step(self, *args, **kwargs)
        if name == "destroy_test_db":
            _test_databases.discard(self.connection.alias)
        else:
            _test_databases.add(self.connection.alias)
        for cache in caches.all(initialized_only=True):
            if (set_prefix := getattr(cache, "set_prefix", None)) is not None:  # else it is not a ring cache
                set_prefix()
        return result

    return run
