"""Counts of queries by form: how often the ring has answered, and what was not cached, and why.

Queries with the same **form** are counted together: those of one model that depend on the same
shapes (``shapes``), for any values. A query whose result is not cached is counted by its model
and the reason. What writes invalidate is counted by shape. A process has a limited number of forms
of each kind; those that it meets later are counted as one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from cachebackend.counters import CountGroup
from cachebackend.interrupts import raise_interrupt
from cachebackend.shapes import Shape

__all__ = [
    "MAX_FORMS",
    "FormCounts",
    "FormKind",
    "QueryCounts",
    "QueryForm",
    "form_of",
    "known_form",
    "shape_form",
    "shape_text",
]

#: The most forms of a kind that a process counts separately.
MAX_FORMS = 200
_ID_BYTES = 8


class FormKind(StrEnum):
    """What a form stands for.

    It is also the id of the form for everything beyond the limit.
    """

    CACHED = "cached"
    NOT_CACHED = "not-cached"
    SHAPE = "shape"
    KEYS = "keys"


class QueryForm:
    """What some queries have in common that are counted together. Two of one process are never equal.

    Args:
        kind: What the form stands for.
        model: The label of the model; the table, if it stands for a shape; or the group of keys.
        text: What the results depend on; or why they are not cached.
        shapes: The ids of the forms that stand for the shapes of a cached query.
    """

    def __init__(self, kind: FormKind, model: str, text: str, shapes: Sequence[str] = ()) -> None:
        self.kind, self.model, self.text, self.shapes = kind, model, text, tuple(shapes)
        self.description = json.dumps([kind, model, text, list(shapes)])
        #: The name of the form in the hashes of counts.
        self.id = (
            blake2b(self.description.encode(), digest_size=_ID_BYTES).hexdigest() if model else str(kind)
        )

    @classmethod
    def read(cls, form_id: str, description: bytes | None) -> QueryForm | None:
        """Return the form with an id, given its description; None if it is not known what it stands for."""
        try:
            if description is None:
                return _beyond_limit[FormKind(form_id)]
            kind, model, text, shapes = json.loads(description)
            f"{model}{text}".encode()  # the page and the metrics cannot show a lone surrogate
            return cls(FormKind(kind), str(model), str(text), [str(each) for each in shapes])
        except (TypeError, ValueError, RecursionError) as error:  # another version or program wrote it
            raise_interrupt(error)
            return None


@dataclass(slots=True)
class FormCounts(CountGroup):
    """The counters of a form of queries.

    Attributes:
        hits: Results that were requested and found in the ring.
        misses: Results that were requested and not found, or not valid any more.
        loads: Queries that the database was sent for results, after a miss or to refresh one.
        load_micros: The time that these took, in microseconds.
        runs: Queries that the database was sent because their results are not cached.
        invalidations: Tags of a shape that were deleted because rows changed. If all results of a shape
            were invalidated at once, that counts as one.
    """

    hits: int = 0
    misses: int = 0
    loads: int = 0
    load_micros: int = 0
    runs: int = 0
    invalidations: int = 0


class QueryCounts(dict[QueryForm, FormCounts]):
    """The counters of all forms of queries that a thread has met; those of another form begin at 0."""

    def __missing__(self, form: QueryForm) -> FormCounts:
        counts = self[form] = FormCounts()
        return counts

    def add(self, counts: QueryCounts, /) -> None:
        """Add other counts to these."""
        for form, added in tuple(counts.items()):  # its thread may meet a form meanwhile
            self[form].add(added)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by the name ``id.counter``."""
        return {
            f"{form.id}.{name}": count
            for form, counts in self.items()
            for name, count in counts.as_dict().items()
        }


_beyond_limit = {kind: QueryForm(kind, "", "other") for kind in FormKind}
_forms: dict[str, QueryForm] = {}
_of_shapes: dict[tuple[str, bytes], QueryForm] = {}


def form_of(kind: FormKind, model: str, text: str, shapes: Sequence[str] = ()) -> QueryForm:
    """Return the form with these attributes: one object in this process, or the one beyond the limit."""
    form = QueryForm(kind, model, text, shapes)
    known = _forms.get(form.id)
    if known is not None:
        return known
    if sum(each.kind is kind for each in tuple(_forms.values())) >= MAX_FORMS:
        return _beyond_limit[kind]
    return _forms.setdefault(form.id, form)


def known_form(form_id: str) -> QueryForm:
    """Return a form of this process by its id."""
    form = _forms.get(form_id)
    return _beyond_limit[FormKind(form_id)] if form is None else form


def shape_form(table: str, shape: Shape) -> QueryForm:
    """Return the form that stands for a shape of a table."""
    form = _of_shapes.get((table, shape.id))
    if form is None:
        form = form_of(FormKind.SHAPE, table, shape_text(table, shape))
        if form.model:
            _of_shapes[table, shape.id] = form
    return form


def shape_text(table: str, shape: Shape) -> str:
    """Return a shape as text: the bound columns, and in brackets the others that results depend on."""
    bound = f" by {', '.join(shape.bound)}" if shape.bound else ""
    if shape.columns is None:
        return f"{table}{bound} (all columns)"
    others = sorted(shape.columns.difference(shape.bound))
    return f"{table}{bound}" + (f" ({', '.join(others)})" if others else "")
