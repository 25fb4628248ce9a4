"""Whether the writes of a connection are seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from django.db import connections
from django.db.models.sql.compiler import SQLUpdateCompiler

from cachebackend.invalidation import compilers


def test_django_s_own_engines_are_seen() -> None:
    """Watching the first model wraps the compilers; a second call changes nothing."""
    method = SQLUpdateCompiler.execute_sql
    compilers.install()
    assert SQLUpdateCompiler.execute_sql is method
    assert all(compilers.is_installed(connections[alias]) for alias in connections)


def test_an_engine_that_executes_its_writes_itself_is_not_seen() -> None:
    """Its compilers replace the method that is wrapped."""

    class Compiler:
        def execute_sql(self) -> None:
            """Execute nothing."""

    connection: Any = SimpleNamespace(ops=SimpleNamespace(compiler=lambda _: Compiler))
    assert not compilers.is_installed(connection)
