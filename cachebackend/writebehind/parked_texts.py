"""Parked writes as texts that a query of their rows returns, so that all are of one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import ormsgpack
from django.db import models
from django.db.models import Case, F, Func, Value, When
from django.db.models.functions import Cast, Concat

from cachebackend.models import ParkedWrite
from cachebackend.protocol.queue.encodings import Encodings
from cachebackend.protocol.queue.pending import PendingFields
from cachebackend.writebehind.changes import MARKER, SEPARATOR

__all__ = ["ParkedWrites", "parked_texts", "parse_parked"]


class ParkedWrites(NamedTuple):
    """The parked writes of a row.

    Attributes:
        waits: Whether they are retried by themselves.
        batches: What each would be in a batch, the oldest first.
    """

    waits: bool
    batches: list[PendingFields]


def parked_texts(model: type[models.Model], row_keys: Sequence[bytes]) -> models.QuerySet[Any, Any]:
    """Return the parked writes of some rows, the oldest first, each as one text."""
    keys = [row[:-1].decode() for row in row_keys]
    waits = Case(When(retry_at__isnull=False, then=Value("1")), default=Value("0"))
    changes = Func(F("changes"), Value("hex"), function="encode", output_field=models.TextField())
    batch = Cast(F("batch"), models.TextField())
    blank, text_field = Value(" "), models.TextField()
    text = Concat(waits, blank, batch, blank, changes, blank, F("key"), output_field=text_field)
    parked = ParkedWrite.objects.order_by("pk").filter(label=model._meta.label_lower, key__in=keys)
    return parked.annotate(text=text).values_list("text", flat=True)


def parse_parked(texts: Iterable[str]) -> dict[bytes, ParkedWrites]:
    """Return the parked writes of some texts, by the key of their row."""
    parked: dict[bytes, ParkedWrites] = {}
    for text in texts:
        waits, number, changes, key = text.split(" ", 3)
        own = parked.setdefault(key.encode(), ParkedWrites(waits == "1", []))  # as the oldest one does
        own.batches.append(_pending(int(number), key.encode(), bytes.fromhex(changes)))
    return parked


def _pending(number: int, key: bytes, changes: bytes) -> PendingFields:
    """Return the fields that a batch has for a parked write."""
    stored = ormsgpack.unpackb(changes)
    row = key + SEPARATOR
    fields, encodings = {}, {}
    codes = stored.get("codes") or [None] * len(stored["changes"])  # an earlier release stored none
    for (column, kind, value), code in zip(stored["changes"], codes, strict=True):
        fields[row + column.encode() + SEPARATOR + kind] = value
        if code:
            encodings[column] = code
    if stored["marker"]:
        fields[row + SEPARATOR + MARKER] = stored["marker"]
    return PendingFields("", number, fields, Encodings(encodings.items()))
