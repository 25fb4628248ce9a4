"""Notes every table and column that enters the SQL of a query, while Django compiles it.

Django compiles each part of a query by ``SQLCompiler.compile``: columns, lookups, functions, joins with
their conditions, orderings, groups, subqueries. The joins of orderings and of ``select_related`` exist
only then. A recorder replaces this method in the compilers of one statement. So it sees what is in the
SQL, whichever part of the query has put it there, in every version of Django.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Col, ColPairs, RawSQL, Ref
from django.db.models.sql import AggregateQuery, Query
from django.db.models.sql.datastructures import BaseTable, Join

from cachebackend.queries.known import check_known, check_stable
from cachebackend.queries.not_cached import NotCached

__all__ = ["PREFETCHED", "Recorder", "Select", "columns_in"]

#: What the names begin with under which Django selects columns of a many-to-many table in a prefetch.
PREFETCHED = "_prefetch_related_val_"


class Select:
    """One SELECT of a statement: the query itself, a part of a union, or a subquery.

    Args:
        compiler: Its compiler.

    Attributes:
        compiler: Its compiler.
        tables: The tables of its FROM clause, by alias.
        columns: The columns that the SQL names, by alias.
    """

    def __init__(self, compiler: Any) -> None:
        self.compiler = compiler
        self.tables: dict[str, BaseTable | Join] = {}
        self.columns: dict[str, set[str]] = {}

    @property
    def query(self) -> Query:
        """The query; Django may replace that of a part of a union before it compiles it."""
        query: Query = self.compiler.query
        return query

    def note(self, alias: str, column: str) -> None:
        """Note that the SQL names a column."""
        self.columns.setdefault(alias, set()).add(column)

    def has(self, alias: str) -> bool:
        """Return whether an alias is one of this SELECT, and not of one around it."""
        return bool(self.query.alias_refcount.get(alias))


class Recorder:
    """Notes what enters the SQL of one statement.

    Args:
        query: The query. The statement is this query, or one that aggregates it.
        leaves_out_rows: Whether the columns of whole rows are left out, because the rows are read by their
            primary keys from their own entries.

    Attributes:
        query: The query.
        statement: The SQL and its parameters; None: the result is known to be empty.
        selects: Each SELECT of the statement.
        unknown: Why it is not known what a part of the statement reads; None: everything is known.
    """

    def __init__(self, query: Query, *, leaves_out_rows: bool = False) -> None:
        self.query = query
        self._runs_another = False
        self.statement: tuple[str, Sequence[Any]] | None = None
        self.selects: list[Select] = []
        self.unknown: NotCached | None = None
        self._leaves_out_rows = leaves_out_rows
        self._open: list[Select] = []
        self._selected: Select | None = None
        self._quote: Callable[[str], str] = str

    @contextmanager
    def recording(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """Record the statement that this thread or task compiles for a connection in the block.

        A block may be inside another one: code of a field that runs while Django compiles the outer statement
        may evaluate a cached queryset.
        """
        operations: Any = connection.ops
        self._quote, class_of = operations.quote_name, operations.compiler
        if getattr(class_of, "func", None) is not _compiler_class:
            # It stays there: another thread may use the connection, which Django allows
            operations.compiler = partial(_compiler_class, class_of)
        token = _recorder.set(self)
        try:
            yield
        finally:
            _recorder.reset(token)

    def compiler_class(self, found: Any) -> Any:
        """Return a class of compilers, or what makes compilers of it that are recorded."""
        return found if self._runs_another else partial(self._new_compiler, found)

    def _new_compiler(self, compiler_class: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        compiler = compiler_class(query, *args, **kwargs)
        select = Select(compiler)
        self.selects.append(select)
        compiler.compile = partial(self._compile, select, compiler.compile)
        compiler.execute_sql = partial(self._execute, select, compiler.execute_sql)
        if self._leaves_out_rows and not self._open:
            compiler.get_select = partial(self._get_select, select, compiler.get_select)
        return compiler

    def _execute(self, select: Select, execute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Compile the statement instead of running it. Django takes None for the result of an empty query.

        Another query may run while the statement is compiled: Django looks up a content type.
        """
        if select.query is self.query or (type(select.query) is AggregateQuery and not self._open):
            with suppress(EmptyResultSet):
                self.statement = select.compiler.as_sql()
            return None
        self.selects.remove(select)
        self._runs_another = True
        try:
            return execute(*args, **kwargs)
        finally:
            self._runs_another = False

    def _compile(self, select: Select, compile_node: Callable[[Any], Any], node: Any) -> Any:
        if self._runs_another:
            return compile_node(node)
        self._open.append(select)
        try:
            self._note(select, node)
            return compile_node(node)
        finally:
            self._open.pop()

    def _get_select(self, select: Select, get_select: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the selected columns, and note those that are not columns of whole rows."""
        if self._runs_another or not select.query.default_cols or self.query.combinator:
            return get_select(*args, **kwargs)
        self._selected = select
        try:
            found = get_select(*args, **kwargs)
        finally:
            self._selected = None
        selected, class_info, _ = found
        own = _left_out(class_info)
        self._open.append(select)
        for position, (expression, *_) in enumerate(selected):
            if position not in own and type(expression) is Col:
                self._note_column(expression)
        self._open.pop()
        return found

    def _note(self, select: Select, node: Any) -> None:
        kind = type(node)
        if kind is Col:
            if self._selected is not select or len(self._open) > 1:
                self._note_column(node)
        elif kind is BaseTable or kind is Join:
            select.tables[node.table_alias] = node
        elif kind is RawSQL and (found := _prefetched_column(select, node, self._quote)) is not None:
            select.note(*found)
        else:
            self._note_expression(node)

    def _note_expression(self, node: Any) -> None:
        if isinstance(node, Ref):
            self._note_reference(node)
        elif isinstance(node, ColPairs):
            for column in node.get_cols():
                self._note_column(column)
        # Django compiles some parts of expressions without ``compile``, such as filters of aggregates
        self._check(node)
        if not isinstance(node, Ref) and hasattr(node, "get_source_expressions"):
            for part in node.get_source_expressions():
                self._check(part)

    def _check(self, node: Any) -> None:
        if node is not None and type(node) is not Col:
            check_stable(node)
            try:
                check_known(node)
            except NotCached as unknown:
                self.unknown = self.unknown or unknown

    def _note_column(self, column: Col) -> None:
        for select in reversed(self._open):
            if select.has(column.alias):
                break
        select.note(column.alias, str(column.target.column))

    def _note_reference(self, reference: Ref) -> None:
        """Note what a name of a selected expression stands for; the selected columns may be left out."""
        for column in columns_in(reference):
            if any(select.has(column.alias) for select in self._open):
                self._note_column(column)


_recorder: ContextVar[Recorder | None] = ContextVar("ringcache_recorder", default=None)


def _compiler_class(class_of: Callable[[str], Any], name: str) -> Any:
    """Return the class of compilers that a database has for a name; what it makes may be recorded."""
    found, recorder = class_of(name), _recorder.get()
    return found if recorder is None else recorder.compiler_class(found)


def _left_out(class_info: Any) -> Collection[int]:
    """Return the positions of the columns of whole rows.

    None is left out if ``select_related`` follows a parent to its children: these take columns of the parent.
    """
    if not class_info or any(each["from_parent"] for each in class_info.get("related_klass_infos", ())):
        return ()
    return frozenset(class_info["select_fields"])


def columns_in(expression: Any) -> Iterator[Col]:
    """Yield the columns in an expression."""
    if type(expression) is Col:
        yield expression
    elif hasattr(expression, "get_source_expressions"):
        for each in expression.get_source_expressions():
            yield from columns_in(each)


def _prefetched_column(select: Select, node: RawSQL, quote: Callable[[str], str]) -> tuple[str, str] | None:
    """Return the alias and column that ``prefetch_related`` selects by ``extra()``; None: it is other SQL.

    Django reads the many-to-many table in this way, which the join of the prefetch has.
    """
    extra = [sql for name, (sql, _) in select.query.extra.items() if name.startswith(PREFETCHED)]
    table, _, quoted = node.sql.rpartition(".")
    column = quoted[1:-1]
    alias = next((each for each in select.query.alias_map if quote(each) == table), None)
    is_found = node.sql in extra and not node.params and alias is not None and quote(column) == quoted
    return (alias, column) if is_found and alias is not None else None
