"""How the rows of a statement are found: by the name of a column, not by the statement's text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.sql import SQL

from cachebackend.invalidation.returning import returning


class Cursor:
    """A cursor over several results, each with the name of its first column."""

    def __init__(self, *results: tuple[str, list[Any]]) -> None:
        self._results = list(results)

    @property
    def description(self) -> list[tuple[str]]:
        return [(self._results[0][0],)]

    def nextset(self) -> bool:
        if len(self._results) > 1:
            del self._results[0]
            return True
        return False

    def fetchall(self) -> list[Any]:
        return self._results[0][1]


class Connection:
    """A connection that has wrappers and executes nothing."""

    ops = SimpleNamespace(quote_name=lambda name: f'"{name}"')

    def __init__(self) -> None:
        self.execute_wrappers: list[Any] = []

    @contextmanager
    def execute_wrapper(self, wrapper: Any) -> Iterator[None]:
        self.execute_wrappers.append(wrapper)
        yield
        self.execute_wrappers.pop()

    def execute(self, cursor: Cursor, text: Any) -> None:
        run: Callable[..., Any] = lambda *_: None  # noqa: E731  # what the wrappers wrap
        for wrapper in reversed(self.execute_wrappers):
            run = lambda *given, own=wrapper, inner=run: own(inner, *given)  # noqa: E731
        run(text, None, False, {"cursor": cursor})


def compiler_of(connection: Connection, compiled: Any) -> Any:
    class Compiler:
        def as_sql(self) -> Any:
            return compiled

    compiler: Any = Compiler()
    compiler.connection = connection
    return compiler


def test_the_clause_is_part_of_the_compiled_statement() -> None:
    """So it precedes what a wrapper appends. Afterwards the compiler compiles as before."""
    compiler = compiler_of(Connection(), ("DELETE", ()))
    with returning(compiler, ["id", "name"]):
        assert compiler.as_sql() == ('DELETE RETURNING id AS "ringcache_0", name', ())
    assert compiler.as_sql() == ("DELETE", ())


@pytest.mark.parametrize("text", ["SELECT 1; -- ringcache_0 2", b"... ringcache_0", SQL("... ringcache_0")])
def test_rows_are_found_in_any_result_and_whatever_the_text_is(text: Any) -> None:
    """Code of another package may have put a statement before it."""
    connection = Connection()
    compiler = compiler_of(connection, ("DELETE", ()))
    with returning(compiler, ["id"]) as returned:
        compiler.as_sql()
        connection.execute(Cursor(("set_config", [("x",)]), ("ringcache_0", [(1,), (2,)])), text)
    assert (returned.rows, returned.missing) == ([(1,), (2,)], 0)


def test_results_of_other_statements_are_left_alone() -> None:
    """A query keeps its result: before the statement is compiled, and of a wrapper on its way."""
    connection = Connection()
    compiler = compiler_of(connection, ("DELETE", ()))
    before, after = (Cursor(("id", [(1,)]), ("other", [])) for _ in range(2))
    with returning(compiler, ["id"]) as returned:
        connection.execute(before, "SELECT 1; SELECT 2")
        compiler.as_sql()
        connection.execute(after, "SELECT 1; SELECT 2")
    assert before.description == after.description == [("id",)]
    assert (returned.rows, returned.missing) == ([], 1)


def test_each_statement_of_an_insert_returns_rows() -> None:
    """Databases without an INSERT of several rows execute one for each."""
    connection = Connection()
    compiler = compiler_of(connection, [("INSERT", ()), ("INSERT", ())])
    with returning(compiler, ["id"]) as returned:
        compiled = compiler.as_sql()
        assert len(compiled) == 2
        connection.execute(Cursor(("ringcache_0", [(1,)])), compiled[0][0])
        assert returned.missing == 1
        connection.execute(Cursor(("ringcache_0", [(2,)])), compiled[1][0])
    assert (returned.rows, returned.missing) == ([(1,), (2,)], 0)


def test_an_inner_write_takes_its_own_rows() -> None:
    """It runs inside the outer one, which finds only its own name."""
    connection = Connection()
    outer, inner = (compiler_of(connection, ("UPDATE", ())) for _ in range(2))
    with returning(outer, ["id"]) as first, returning(inner, ["id"]) as second:
        outer.as_sql()
        connection.execute(Cursor(("ringcache_1", [(5,)])), inner.as_sql()[0])
    assert (first.rows, first.missing, second.rows) == ([], 1, [(5,)])


def test_an_update_of_no_column_returns_nothing() -> None:
    """Django compiles it to an empty text, and does not execute it."""
    compiler = compiler_of(Connection(), ("", ()))
    with returning(compiler, ["id"]) as returned:
        assert compiler.as_sql() == ("", ())
    assert returned.missing == 0
