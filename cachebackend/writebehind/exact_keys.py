"""Primary keys that the database holds equal: a model that has such keys is refused.

In a column of the type citext, or with a collation that is not deterministic, ``"Bob"`` and ``"bob"``
are one row. The queue compares keys byte by byte, so the writes of that row would be queued as those
of two rows, in two partitions, and their order would be lost.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error, models, router

from cachebackend.backend.canonical import referred_field
from cachebackend.backend.collations import inexact_column
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.interrupts import raise_interrupt
from cachebackend.writebehind.backoff import Backoff

__all__ = ["key_fault", "key_fault_if_known"]

_backoff = Backoff(SYSTEM_CLOCK)


def key_fault(model: type[models.Model], using: str) -> str | None:
    """Return why rows of a model cannot be written behind, because of their keys; None if they can.

    A project's own class of text fields is asked about too: its column may have any type.

    Raises:
        django.db.Error: The database did not answer.
    """
    key: models.Field[Any, Any] | None = model._meta.pk
    while key is not None and not isinstance(key, models.CharField | models.TextField):
        if isinstance(key, models.JSONField):
            return (
                f"{model._meta.label}: different texts of JSON are equal primary keys, and the queue would "
                "lose the order of their writes; write the rows with save()"
            )
        key = referred_field(key)
    if key is None or (reason := inexact_column(model._meta.pk, using)) is None:
        return None
    return (
        f"{model._meta.label}: different primary keys are equal by {reason}, and the queue would lose the "
        "order of their writes; give the key a deterministic collation, or write the rows with save()"
    )


def key_fault_if_known(model: type[models.Model]) -> tuple[str | None, bool]:
    """Return ``key_fault``, and whether the database answered.

    A write must not depend on the database: while it does not answer, and in an event loop, the
    write is taken. If the key's column is not exact, the drain writes such rows one by one.
    """
    using = router.db_for_write(model)
    if _backoff.wait_seconds(using):
        return None, False
    try:
        fault = key_fault(model, using)
    except SynchronousOnlyOperation:
        return None, False
    except Error as error:
        raise_interrupt(error)
        _backoff.failed(using, error)
        return None, False
    _backoff.answered(using)
    return fault, True
