"""Parked writes: how many there are and why, the faults of that, and what each does to its row."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db.models import Count, Exists, Min, OuterRef

from cachebackend import writebehind
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.models import ParkedWrite
from cachebackend.monitoring.faults import RETRIED_SECONDS, Fault, database_scope
from cachebackend.monitoring.formatting import counted
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.writebehind.descriptions import describe_row
from cachebackend.writebehind.parked import row_of
from cachebackend.writebehind.queue import model_named

__all__ = ["ParkedFigures", "changes_text", "parked_faults", "parked_figures"]

#: The most characters of an error in a fault.
MAX_ERROR = 200


@dataclass(frozen=True, slots=True)
class ParkedFigures:
    """The parked writes of all databases; those of one that does not answer are not in them.

    Attributes:
        kept: Those that a person retries or discards.
        kept_since: When the first of them was parked, in seconds since 1970; None if none is.
        retried: Those that the workers try again, and the later ones of the same rows.
        retried_since: When the first of those was parked.
        error: The model and the error of the last of those that a person retries or discards.
        databases: The aliases of the databases that have parked writes.
        unanswered: For each database that does not answer, such as "database 'default'", that its parked
            writes are not known.
    """

    kept: int = 0
    kept_since: float | None = None
    retried: int = 0
    retried_since: float | None = None
    error: str = ""
    databases: Sequence[str] = ()
    unanswered: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.kept + self.retried


class _OfDatabase(NamedTuple):
    """The parked writes of one database, with the attributes of ``ParkedFigures``."""

    kept: int
    kept_since: float | None
    retried: int
    retried_since: float | None
    error: str


def parked_figures() -> ParkedFigures:
    """Return the parked writes.

    They are counted in their table: they outlive the queue and the model that they came from, and a
    partition that is on two nodes has them once.
    """
    known = writebehind.all_databases()
    asked = ask_databases(_read, READ_TIMEOUT, known)
    late = {f"database {using!r}": error for using, error in asked.errors.items()}
    found = asked.found.values()
    return ParkedFigures(
        sum(each.kept for each in found),
        min((each.kept_since for each in found if each.kept_since is not None), default=None),
        sum(each.retried for each in found),
        min((each.retried_since for each in found if each.retried_since is not None), default=None),
        next((each.error for each in found if each.error), ""),
        [using for using, each in asked.found.items() if each.kept or each.retried],
        {
            name: f"The {name} does not answer, so its parked writes are not known: {error}"
            for name, error in (known.errors | late).items()
        },
    )


def _read(using: str) -> _OfDatabase:
    writes = ParkedWrite.objects.using(using).order_by()
    of_row = writes.filter(label=OuterRef("label"), key=OuterRef("key"), retry_at__isnull=False)
    numbers = writes.values(is_retried=Exists(of_row)).annotate(count=Count("pk"), first=Min("created"))
    groups = {each["is_retried"]: (each["count"], each["first"].timestamp()) for each in numbers}
    kept, retried = groups.get(False, (0, None)), groups.get(True, (0, None))
    last = (
        writes.filter(~Exists(of_row)).order_by("-pk").values_list("label", "error").first()
        if kept[0]
        else None
    )
    return _OfDatabase(*kept, *retried, f"{last[0]}: {_shortened(last[1])}" if last else "")


def _shortened(error: str) -> str:
    """Return the first line of an error, without the value that it quotes."""
    return error.partition("\n")[0].partition(': "')[0][:MAX_ERROR]


def parked_faults(figures: ParkedFigures) -> Iterator[Fault]:
    """Yield what is parked in the databases that answer, whether another one does or not."""
    scope = database_scope(*figures.databases)
    if figures.kept:
        are, them = ("are", "them") if figures.kept > 1 else ("is", "it")
        message = f"{counted(figures.kept, 'write')} {are} parked because Postgres refused {them}"
        message += f": {figures.error}." if figures.error else "."
        yield Fault(FaultKind.WRITES_PARKED, message, figures.kept_since, scope=scope)
    since = figures.retried_since
    if since is not None and time.time() - since > RETRIED_SECONDS:
        waits = "wait for locks or for other rows, and are"
        if figures.retried == 1:
            waits = "waits for a lock or for another row, and is"
        message = f"{counted(figures.retried, 'write')} {waits} tried again."
        yield Fault(FaultKind.WRITES_RETRIED, message, since, scope=scope)


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
