"""The rows that a statement returns through a clause that is added where Django compiles it.

Wrappers of other packages may change the text of a statement before it is executed: they add
comments, settings of the session, or further statements. So the whole text of a statement says
nothing. The first column of the clause has a name of its own: a text that contains this name may
return the rows, and a result that has a column of this name holds them. The results of other
statements, which such a wrapper may run itself, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cachebackend.invalidation.fetched_rows import FetchError, fetch_rows
from cachebackend.invalidation.statement_outbox import StatementOutbox

__all__ = ["Compile", "Returned", "returning"]

#: Makes a statement, given the compiler's own method that does: the text and its parameters.
Compile: TypeAlias = Callable[[Callable[[], Any]], Any]


@dataclass
class Returned:
    """The rows that the statements of one compiler have returned.

    Attributes:
        rows: The rows, with the values that the driver returns.
        missing: How many statements were compiled whose rows have not arrived. If there are any
            after the execution, the changed rows are unknown.
        is_executed: Whether a statement was executed.
        error: The driver's error if a row has an ``UNREADABLE`` value.
    """

    rows: list[Sequence[Any]] = field(default_factory=list)
    missing: int = 0
    is_executed: bool = False
    error: FetchError = None


@contextmanager
def returning(
    compiler: Any,
    columns: Sequence[str],
    *,
    states: int = 1,
    options: str = "",
    compile_statement: Compile | None = None,
    outbox: StatementOutbox | None = None,
) -> Iterator[Returned]:
    """Let the statements that a compiler executes inside a block return rows.

    Args:
        compiler: Django's compiler of an INSERT, UPDATE or DELETE.
        columns: What is returned: names of columns as SQL.
        states: 2 if the columns are those of a row before the change, and then those of it after the change.
        options: What the clause has before the columns.
        compile_statement: Makes the statement in place of the compiler's own method.
        outbox: Lets the statement write its outbox row.
    """
    connection, own = compiler.connection, compiler.as_sql
    # Another write may run inside this one, on its way to the database: it has a wrapper more
    marker = f"ringcache_{len(connection.execute_wrappers)}"
    first, *more = columns
    clause = f" RETURNING {options}" + ", ".join([f"{first} AS {connection.ops.quote_name(marker)}", *more])
    returned = Returned()

    def add_clause(sql: str, params: Any) -> tuple[str, Any]:
        if not sql:  # an UPDATE that sets no column of this table
            return sql, params
        returned.missing += 1
        sql += clause
        return sql if outbox is None else outbox.around(sql, marker, len(columns), states), params

    def as_sql(*args: Any, **kwargs: Any) -> Any:
        def own_sql() -> Any:
            return own(*args, **kwargs)

        compiled = own_sql() if compile_statement is None else compile_statement(own_sql)
        if isinstance(compiled, list):  # an INSERT may be several statements
            return [add_clause(*each) for each in compiled]
        return add_clause(*compiled)

    def capture(run: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        result = run(sql, params, many, context)
        if returned.missing and marker in str(sql):
            returned.is_executed = True
            if not _find_result(context["cursor"], marker):
                return result
            rows, error = fetch_rows(context["cursor"])
            returned.error = returned.error or error
            returned.rows += rows if outbox is None else outbox.take(rows)
            returned.missing -= 1
        return result

    compiler.as_sql = as_sql
    try:
        with connection.execute_wrapper(capture):
            yield returned
    finally:
        del compiler.as_sql


def _find_result(cursor: Any, marker: str) -> bool:
    """Move to the result whose first column is the marker; return whether there is one."""
    while True:
        if _first_name(cursor) == marker:
            return True
        # A driver without this method executes one statement at a time
        if not getattr(cursor, "nextset", bool)():
            return False


def _first_name(cursor: Any) -> str | None:
    """Return the name of a result's first column; ``description`` would describe all of them."""
    result = getattr(cursor, "pgresult", None)  # of psycopg 3
    if result is not None:
        name = result.fname(0)
        return None if name is None else str(name, "utf-8", "replace")
    return str(cursor.description[0][0]) if cursor.description else None
