"""Parked writes: what each does to its row, as text."""

from __future__ import annotations

from cachebackend.interrupts import raise_interrupt
from cachebackend.models import ParkedWrite
from cachebackend.writebehind.descriptions import describe_row
from cachebackend.writebehind.parked import row_of
from cachebackend.writebehind.queue import model_named

__all__ = ["changes_text"]


def changes_text(parked: ParkedWrite) -> str:
    """Return the changes of a parked write, such as ``count add 1; level put 200``.

    One that cannot be read, because its model has changed since, is shown with the reason.
    """
    model = model_named(parked.label)
    if model is None:
        return "the model no longer exists"
    try:
        return describe_row(model, row_of(parked, model))
    except Exception as error:  # noqa: BLE001  # one such write must not hide the others
        raise_interrupt(error)
        return f"cannot be read: {error!r}"
