"""What the result of a query depends on, for each table in it.

``compiled_query`` lets Django compile the query and returns its SQL with the dependencies.
``compiled_aggregation`` does the same for ``aggregate()`` and ``count()``, whose query Django makes when it
runs them. Both raise ``NotCached`` if a change could be missed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from django.db import connections, models
from django.db.models.sql import Query

from cachebackend.backend.query_names import shape_tag_name
from cachebackend.invalidation.catalogue import TableCatalogue
from cachebackend.invalidation.tables import many_to_many_models, table_name
from cachebackend.queries.binding import Values, bound_values
from cachebackend.queries.known import check_query
from cachebackend.queries.not_cached import NotCached
from cachebackend.queries.recording import Recorder, Select, columns_in
from cachebackend.queries.tables import Rules, is_plain_table, model_of_table, watched_catalogue
from cachebackend.shapes import Shape, value_digest

__all__ = [
    "MOST_TAGS",
    "CompiledQuery",
    "Dependency",
    "compiled_aggregation",
    "compiled_query",
    "dependencies_of",
    "unchanged",
]

#: Tags of one alias. If there are more combinations of values, the column with the most is left out of them.
MOST_TAGS = 20


@dataclass(frozen=True, slots=True)
class Dependency:
    """What a result depends on in an alias of a table, or in several that are used in the same way.

    Attributes:
        table: The name of the table, as writers have it (``table_name``).
        model: The model.
        shape: The bound columns, and the columns that the result depends on.
        values: The canonical texts of each bound column; None: NULL.
    """

    table: str
    model: type[models.Model]
    shape: Shape
    values: Mapping[str, tuple[str | None, ...]]

    def __str__(self) -> str:
        """Return which changes of the table invalidate the result, as text to be read."""
        conditions = [
            f"{column} = {_shown(texts[0])}"
            if len(texts) == 1
            else f"{column} in {', '.join(map(_shown, texts))}"
            for column, texts in sorted(self.values.items())
        ]
        columns = "all columns" if self.shape.columns is None else ", ".join(sorted(self.shape.columns))
        rows = f"rows with {' and '.join(conditions)}" if conditions else "all rows"
        return f"{self.table}: {rows}; {columns or 'no columns'}"

    def tags(self) -> list[str]:
        """Return the last parts of the names of the tags: one for each combination of values."""
        columns = self.shape.bound
        digests = [[value_digest(text) for text in self.values[column]] for column in columns]
        found = (self.shape.tag(dict(zip(columns, each, strict=True))) for each in product(*digests))
        return [tag for tag in found if tag is not None]

    def tag_names(self, scope: str) -> list[str]:
        """Return the names of the tags in a scope."""
        return [shape_tag_name(scope, self.table, tag) for tag in self.tags()]


@dataclass(frozen=True, slots=True)
class CompiledQuery:
    """A query as Django sends it to the database, and what its result depends on.

    Attributes:
        sql: The statement; None: the result is known to be empty, and nothing is sent.
        params: The parameters of the statement.
        dependencies: What the result depends on.
        equalities: The values to which the query itself binds columns, by alias. They may be more than those
            of the dependencies, which are limited.
    """

    sql: str | None
    params: tuple[Any, ...]
    dependencies: Sequence[Dependency]
    equalities: Mapping[str, Values]


def dependencies_of(query: Query, using: str, **options: Any) -> Sequence[Dependency]:
    """Return what the result of a query depends on; see ``compiled_query``."""
    return compiled_query(query, using, **options).dependencies


def compiled_query(
    query: Query,
    using: str,
    *,
    rules: Rules | None = None,
    depends_on: Collection[type[models.Model]] = (),
    leaves_out_rows: bool = False,
) -> CompiledQuery:
    """Compile a query, and return its SQL and what its result depends on.

    Args:
        query: The query of a queryset.
        using: The alias of the database.
        rules: What the caller knows of tables.
        depends_on: The models that unknown parts of the query read. All of their columns count, those of
            the many-to-many tables that Django makes for them, and all columns of the other tables in the
            query, which an unknown part may name.
        leaves_out_rows: Whether the columns of whole rows are left out, because the result has primary
            keys only, and the rows are read from their own entries.

    Raises:
        NotCached: A change of the result could be missed.
    """
    check_query(query)
    recorder = Recorder(query, leaves_out_rows=leaves_out_rows)
    with unchanged(query), recorder.recording(connections[using]):
        query.get_compiler(using).execute_sql()
    return _compiled(recorder, using, rules, depends_on)


@contextmanager
def unchanged(query: Any) -> Iterator[None]:
    """Leave a query as it is while it is compiled in the block.

    Each time that Django compiles a union, it adds the columns by which the union is ordered, and which are
    not selected, to the query and to its parts.
    """
    if not query.combinator:
        yield
        return
    before = query.combined_queries, query.select, query.selected
    query.combined_queries, query.selected = tuple(each.clone() for each in before[0]), copy(before[2])
    try:
        yield
    finally:
        query.combined_queries, query.select, query.selected = before


def compiled_aggregation(
    query: Query,
    using: str,
    aggregates: Mapping[str, Any],
    *,
    rules: Rules | None = None,
    depends_on: Collection[type[models.Model]] = (),
) -> CompiledQuery:
    """Compile the query that ``aggregate()`` or ``count()`` would run, as ``compiled_query``.

    Args:
        query: The query of the queryset.
        using: The alias of the database.
        aggregates: The aggregates by name; for ``count()``, ``{"__count": Count("*")}``.
        rules: What the caller knows of tables.
        depends_on: The models that unknown parts of the query read.

    Raises:
        NotCached: A change of the result could be missed.
    """
    check_query(query)
    aggregated = query.chain()
    recorder = Recorder(aggregated)
    with recorder.recording(connections[using]):
        aggregated.get_aggregation(using, dict(aggregates))
    return _compiled(recorder, using, rules, depends_on)


def _compiled(
    recorder: Recorder, using: str, rules: Rules | None, depends_on: Collection[type[models.Model]]
) -> CompiledQuery:
    if recorder.statement is None:
        return CompiledQuery(None, (), (), {})
    sql, params = recorder.statement
    found = _Dependencies(using, recorder, rules or Rules(), depends_on)
    return CompiledQuery(sql, tuple(params), found.read(), found.equalities)


class _Dependencies:
    """Makes the dependencies of a statement from what was recorded of it."""

    def __init__(
        self, using: str, recorder: Recorder, rules: Rules, depends_on: Collection[type[models.Model]]
    ) -> None:
        self._using = using
        self._selects, self._query = recorder.selects, recorder.query
        self.equalities: Mapping[str, Values] = {}
        self._unknown = recorder.unknown or _unknown_tables(recorder)
        self._rules = rules
        found = {each._meta.concrete_model or each for each in depends_on}
        # In an order that all processes have: it is a part of the key of the result
        self._models = sorted(found, key=lambda each: each._meta.label)
        if self._unknown is not None and not self._models:
            raise self._unknown
        for select in self._selects:
            check_query(select.query, type(select.compiler))
        tables = {alias for select in self._selects for alias in select.tables}
        for select in self._selects:
            # A union takes the columns of its parts by position; those of its own query are not in the SQL
            if not select.query.combinator and not tables.issuperset(select.columns):
                raise NotCached("a column belongs to no table of the query")

    def read(self) -> list[Dependency]:
        """Return the dependencies, each once."""
        found = [*self._of_models(), *(each for select in self._selects for each in self._of_select(select))]
        unique: dict[Any, Dependency] = {}
        for each in found:
            same = (each.table, each.shape, tuple(sorted(each.values.items())))
            unique.setdefault(same, each)
        return list(unique.values())

    def _of_models(self) -> Iterator[Dependency]:
        for model in self._models:
            made = (each for each in many_to_many_models([model]) if each._meta.auto_created)
            between = sorted(made, key=lambda each: each._meta.label)
            for part in (model, *model._meta.get_parent_list(), *between):
                table = part._meta.db_table
                if is_plain_table(part, table, self._using):
                    watched_catalogue(table, self._using, self._rules)
                    yield Dependency(table_name(table), part, Shape((), None), {})

    def _of_select(self, select: Select) -> Iterator[Dependency]:
        catalogues = {
            alias: catalogue
            for alias, table in select.tables.items()
            if (catalogue := self._catalogue(table.table_name)) is not None
        }
        bound = bound_values(
            select, lambda alias, column: alias in catalogues and catalogues[alias].can_bind(column)
        )
        if select.query is self._query:
            self.equalities = bound
        for alias, catalogue in catalogues.items():
            table = select.tables[alias].table_name
            model = model_of_table(table)
            assert model is not None  # noqa: S101  # else there is no catalogue
            values = _at_most(bound[alias], MOST_TAGS)
            columns = self._columns(model, catalogue, self._named(select, alias))
            yield Dependency(table_name(table), model, Shape(values, columns), values)

    def _catalogue(self, table: str) -> TableCatalogue | None:
        """Return the catalogue of a table; None if the models of ``depends_on`` say what it shows."""
        if is_plain_table(model_of_table(table), table, self._using):
            return watched_catalogue(table, self._using, self._rules)
        if not self._models:
            raise NotCached(f"{table} is a view, or a table that Django does not manage")
        return None

    def _named(self, select: Select, alias: str) -> set[str]:
        """Return the columns of an alias that the SQL names, also from a SELECT around this one."""
        return set().union(
            select.columns.get(alias, ()),
            *(each.columns.get(alias, ()) for each in self._selects if alias not in each.tables),
        )

    def _columns(
        self, model: type[models.Model], catalogue: TableCatalogue, named: Collection[str]
    ) -> set[str] | None:
        """Return the columns that a result depends on, given those that the SQL names; None: all.

        A generated column changes with the columns that it is made of. Writers report it as changed, too;
        but a process that was started before the migration does not know it.
        """
        if self._unknown is not None or catalogue.has_before_row_triggers:
            return None
        fields = {field.column: field for field in model._meta.local_concrete_fields}
        columns = set(named).difference(self._rules.ignored(model._meta.db_table))
        for column in columns & catalogue.generated:
            expression = getattr(fields.get(column), "expression", None)
            if expression is None:
                return None
            resolved = expression.resolve_expression(Query(model, alias_cols=False), allow_joins=False)
            columns = columns.union(str(each.target.column) for each in columns_in(resolved))
        return columns


def _shown(text: str | None) -> str:
    return "NULL" if text is None else text


def _unknown_tables(recorder: Recorder) -> NotCached | None:
    """Return why the tables of a statement are not known: Django does not compile those of ``extra()``."""
    is_extra = any(select.query.extra_tables for select in recorder.selects)
    return NotCached("extra() adds tables") if is_extra else None


def _at_most(values: Values, limit: int) -> Values:
    """Return bound columns with at most ``limit`` combinations of values."""
    kept = dict(values)
    while prod(map(len, kept.values())) > limit:
        del kept[max(sorted(kept), key=lambda column: len(kept[column]))]
    return kept
