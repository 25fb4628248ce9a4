"""The columns that a SELECT binds to values: which rows cannot be in its result.

A row without these values never passes the WHERE clause, so a change of it cannot change the result. Only
the top-level AND of the clause binds, and in it:

- ``column = value`` and ``column IN (values)`` with any number of values, also on the far side of an outer
  join: if the join finds no row, the column is NULL, and the condition is false as well.
- ``column IS NULL``, unless an outer join is between the table and the base table. There a new row, whose
  column is not NULL, ends the absence of one.

The condition of a join binds columns of the joined table alone. And a join binds its column to the values
to which the column on the other side is bound: of the rows that pass the clause, no other one joins.

OR, negation, ranges, transforms, expressions and subqueries bind nothing. Each value comes from one lookup
of the WHERE tree, so the position of its parameter in the SQL could be remembered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from django.db.models import Field
from django.db.models.expressions import Col, ColPairs
from django.db.models.fields.related_lookups import RelatedExact, RelatedIn, RelatedIsNull
from django.db.models.fields.reverse_related import ForeignObjectRel
from django.db.models.fields.tuple_lookups import TupleExact, TupleIn
from django.db.models.lookups import Exact, In, IntegerFieldExact, IsNull
from django.db.models.sql.constants import LOUTER
from django.db.models.sql.datastructures import BaseTable, Join
from django.db.models.sql.where import AND, WhereNode

from cachebackend.backend.canonical import canonical_text
from cachebackend.invalidation.catalogue import catalogue_of, kind_of
from cachebackend.queries.recording import Select

__all__ = ["Values", "bound_values", "is_in_unbound"]

AnyField: TypeAlias = "Field[Any, Any]"
#: The canonical texts to which columns are bound, by column; None: NULL.
Values: TypeAlias = dict[str, tuple[str | None, ...]]
#: Whether a column of an alias can be bound.
CanBind: TypeAlias = Callable[[str, AnyField], bool]

_EXACT = frozenset({Exact, IntegerFieldExact, RelatedExact})
_IN = frozenset({In, RelatedIn})
_IS_NULL = frozenset({IsNull, RelatedIsNull})


def bound_values(select: Select, can_bind: CanBind) -> dict[str, Values]:
    """Return the values to which a SELECT binds columns, by alias.

    Args:
        select: The SELECT.
        can_bind: Returns whether a column of an alias can be bound.
    """
    bound: dict[str, Values] = {alias: {} for alias in select.tables}
    for lookup in _required(select.query.where):
        for column, texts in _comparisons(lookup):
            is_null_of_no_row = None in texts and _may_be_absent(select.tables, column.alias)
            if column.alias in bound and not is_null_of_no_row and can_bind(column.alias, column.target):
                _narrow(bound[column.alias], str(column.target.column), texts)
    for alias, table in select.tables.items():
        if isinstance(table, Join):
            _bind_by_join(table, alias, bound, can_bind)
    return bound


def is_in_unbound(where: Any, using: str) -> bool:
    """Return whether a WHERE clause has ``column IN (values)`` with a column that cannot be bound.

    ``prefetch_related`` assigns each row by the value of such a column, and raises if the row has another
    value. Rows that are read from their own entries are not compared with it. A relation of several columns
    is compared in pairs, which bind nothing.
    """
    compared = [each.lhs for each in _required(where) if type(each) in _IN]
    columns = (each.target for each in compared if type(each) is Col)
    return any(type(each) is ColPairs for each in compared) or any(
        not catalogue_of(each.model._meta.db_table, using).can_bind(each) for each in columns
    )


def _bind_by_join(join: Join, alias: str, bound: dict[str, Values], can_bind: CanBind) -> None:
    """Bind columns of a joined table by the conditions of the join."""
    restriction: Any = join.join_field
    conditions = [restriction.get_extra_restriction(join.table_alias, join.parent_alias)]
    if join.filtered_relation is not None:
        conditions.append(getattr(join.filtered_relation, "resolved_condition", None))
    for lookup in (each for condition in conditions for each in _required(condition)):
        for column, texts in _comparisons(lookup):
            if column.alias == alias and can_bind(alias, column.target):
                _narrow(bound[alias], str(column.target.column), texts)
    of_parent = bound.get(str(join.parent_alias), {})
    for other, own in join.join_fields or ():  # type: ignore[attr-defined]  # django-stubs leaves it out
        texts = of_parent.get(str(other.column), (None,))
        if None not in texts and kind_of(other) == kind_of(own) and can_bind(alias, own):
            _narrow(bound[alias], str(own.column), texts)


def _required(node: Any) -> Iterator[Any]:
    """Yield the conditions that hold for every row of the result."""
    if type(node) is not WhereNode:
        if node is not None:
            yield node
    elif not node.negated and (node.connector == AND or len(node.children) == 1):
        for child in node.children:
            yield from _required(child)


def _comparisons(lookup: Any) -> Iterator[tuple[Col, tuple[str | None, ...]]]:
    """Yield the columns that a lookup compares with constants, with canonical texts; None: NULL."""
    column, kind = getattr(lookup, "lhs", None), type(lookup)
    if type(column) is ColPairs:
        yield from _of_parts(column, lookup)
    if type(column) is not Col or getattr(lookup, "bilateral_transforms", None):
        return
    if kind in _IS_NULL:
        if lookup.rhs is True:
            yield column, (None,)
        return
    if kind in _EXACT:
        texts = _texts(column, [lookup.rhs])
    elif kind in _IN and isinstance(lookup.rhs, list | tuple | set | frozenset):
        texts = _texts(column, lookup.rhs)
    else:
        texts = ()
    if texts:
        yield column, texts


def _of_parts(columns: ColPairs, lookup: Any) -> Iterator[tuple[Col, tuple[str | None, ...]]]:
    """Yield the columns of a composite key, each with the values of it that are compared."""
    rows = [lookup.rhs] if type(lookup) is TupleExact else lookup.rhs if type(lookup) is TupleIn else ()
    if not isinstance(rows, list | tuple) or not all(isinstance(row, list | tuple) for row in rows):
        return
    for position, column in enumerate(columns.get_cols()):
        texts = _texts(column, [row[position] for row in rows])
        if texts:
            yield column, texts


def _texts(column: Col, values: Any) -> tuple[str, ...]:
    """Return the canonical texts of the values that a column is compared with; none if one has no text.

    NULL among the values of IN is equal to nothing.
    """
    compared: Any = column.output_field
    if isinstance(compared, ForeignObjectRel):  # the other end of a foreign key: Django compares its target
        compared = compared.target_field
    if kind_of(compared) != kind_of(column.target):
        return ()
    texts = {canonical_text(column.target, value) for value in values if value is not None}
    found = tuple(sorted(text for text in texts if text is not None))
    return found if len(found) == len(texts) else ()


def _narrow(values: Values, column: str, texts: tuple[str | None, ...]) -> None:
    """Bind a column; if it is bound already, both conditions hold, and either one may be kept."""
    before, of_both = values.get(column), frozenset(texts)
    both = texts if before is None else tuple(text for text in before if text in of_both)
    values[column] = both or texts


def _may_be_absent(tables: Mapping[str, BaseTable | Join], alias: str) -> bool:
    """Return whether an outer join is between the table of an alias and the base table."""
    table: Any = tables.get(alias)
    while isinstance(table, Join):
        if table.join_type == LOUTER:
            return True
        table = tables.get(str(table.parent_alias))
    return False
