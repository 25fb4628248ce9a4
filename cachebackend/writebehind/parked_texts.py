"""Parked writes as texts that a query of their rows returns, so that all are of one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Func

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.models import ParkedWrite
from cachebackend.protocol.queue.encodings import Encodings
from cachebackend.protocol.queue.pending_writes import PendingFields
from cachebackend.writebehind.changes import MARKER, SEPARATOR
from cachebackend.writebehind.stored_writes import unpack_write

__all__ = ["ParkedWrites", "Words", "parked_texts", "parse_parked"]


class ParkedWrites(NamedTuple):
    """The parked writes of a row.

    Attributes:
        waits: Whether they are retried by themselves. A write that cannot be read will be refused, so the
            writes of its row do not count as ones that wait.
        batches: What each would be in a batch, the oldest first.
    """

    waits: bool
    batches: list[PendingFields]


class Words(Func):
    """Columns as one text, with a space between two of them; Postgres writes a boolean as t or f."""

    function = "concat_ws"
    template = "%(function)s(' ', %(expressions)s)"
    output_field = models.TextField()


def parked_texts(model: type[models.Model], keys: Sequence[Any]) -> models.QuerySet[Any, Any]:
    """Return the parked writes of the rows with some keys, the oldest first, each as one text.

    A key is a text, or an expression.
    """
    changes = Func("changes", function="encode", template="%(function)s(%(expressions)s, 'hex')")
    waits = Func("retry_at", template="(%(expressions)s IS NOT NULL)")
    text = Words(waits, "batch", changes, "key")
    parked = ParkedWrite.objects.order_by("pk").filter(label=model._meta.label_lower, key__in=keys)
    return parked.annotate(text=text).values_list("text", flat=True)


def parse_parked(texts: Iterable[str]) -> dict[bytes, ParkedWrites]:
    """Return the parked writes of some texts, by the key of their row."""
    parked: dict[bytes, ParkedWrites] = {}
    for text in texts:
        waits, number, changes, key = text.split(" ", 3)
        own = parked.setdefault(key.encode(), ParkedWrites(waits == "t", []))  # as the oldest one does
        try:
            own.batches.append(_pending(int(number), key.encode(), bytes.fromhex(changes)))
        except WriteBehindDamagedError:
            parked[key.encode()] = own._replace(waits=False)
    return parked


def _pending(number: int, key: bytes, changes: bytes) -> PendingFields:
    """Return the fields that a batch has for a parked write."""
    stored = unpack_write(changes)
    row = key + SEPARATOR
    fields, encodings = {}, {}
    for column, kind, value, code in stored.changes:
        fields[row + column.encode() + SEPARATOR + kind] = value
        if code:
            encodings[column] = code
    if stored.marker:
        fields[row + SEPARATOR + MARKER] = stored.marker
    return PendingFields("", number, fields, Encodings(encodings.items()))
