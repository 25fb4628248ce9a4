"""The key prefix of tests: the site, and another process of tests, never read what a test stores or queues.

The keys of rows hold the name of their database, which is another one during tests. All other keys get
it by their prefix. Django creates the test database after the cache objects may exist, and gives each
process of ``--parallel`` its own copy, so those steps of Django are wrapped and set the prefixes again.
A queue of write-behind that another run left for a database of this name is erased with these steps.

A process that tests start, such as a worker, is told the name of the test database by its settings. It
finds the same prefix if the name begins as Django's own names of test databases do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from django.core.cache import caches
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.creation import TEST_DATABASE_PREFIX, BaseDatabaseCreation

from cachebackend.backend.scope import database_text
from cachebackend.conf import write_behind_options
from cachebackend.options import WriteBehindOptions

__all__ = ["connect_test_prefix", "queue_options", "with_test_prefix"]

#: The methods of Django after which the databases of the tests have other names.
_STEPS = ("create_test_db", "setup_worker_connection", "destroy_test_db")
#: The aliases whose test database exists.
_test_databases: set[str] = set()


def with_test_prefix(prefix: str) -> str:
    """Return the prefix of an alias' keys: with the name of the test database, if tests run."""
    name = str(connections.settings[DEFAULT_DB_ALIAS]["NAME"])
    is_test = DEFAULT_DB_ALIAS in _test_databases or PurePath(name).name.startswith(TEST_DATABASE_PREFIX)
    return f"{prefix}+{database_text(DEFAULT_DB_ALIAS).partition('@')[2]}" if is_test else prefix


@functools.cache
def queue_options() -> WriteBehindOptions:
    """Return the options of the queue: those of the settings, with the prefix of tests if tests run.

    Raises:
        ConfigurationError: The setting has faults; the message names each of them.
    """
    options = write_behind_options()
    return replace(options, prefix=with_test_prefix(options.prefix))


def connect_test_prefix(erase_queue: Callable[[], None]) -> None:
    """Set the prefixes again whenever Django has changed the databases of the tests.

    Args:
        erase_queue: Deletes the keys of the queue whose options are ``queue_options()``.
    """
    for name in _STEPS:
        step = getattr(BaseDatabaseCreation, name)
        if not hasattr(step, "__wrapped__"):
            setattr(BaseDatabaseCreation, name, _and_set_prefixes(name, step, erase_queue))
    setting_changed.connect(_follow_settings, dispatch_uid="cachebackend.test_prefix")


def _and_set_prefixes(
    name: str, step: Callable[..., Any], erase_queue: Callable[[], None]
) -> Callable[..., Any]:
    @functools.wraps(step)
    def run(self: BaseDatabaseCreation, *args: Any, **kwargs: Any) -> Any:
        is_end, alias = name == "destroy_test_db", self.connection.alias
        if is_end and alias in _test_databases:
            _erase(alias, erase_queue)
        result = step(self, *args, **kwargs)
        if is_end:
            _test_databases.discard(alias)
        else:
            _test_databases.add(alias)
        queue_options.cache_clear()
        for cache in caches.all(initialized_only=True):
            if (set_prefix := getattr(cache, "set_prefix", None)) is not None:  # else it is not a ring cache
                set_prefix()
        if not is_end:
            _erase(alias, erase_queue)
        return result

    return run


def _erase(alias: str, erase_queue: Callable[[], None]) -> None:
    if alias == DEFAULT_DB_ALIAS and with_test_prefix("") != "":  # else the queue is the site's
        erase_queue()


def _follow_settings(*, setting: str, **_: Any) -> None:
    if setting == "WRITE_BEHIND":
        queue_options.cache_clear()
