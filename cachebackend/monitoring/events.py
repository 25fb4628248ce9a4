"""The timeline: what happened to nodes and processes, and what people did, kept in the database.

A change of a subject's state is stored once, although several processes may see it:

    1. two processes read the last event of a subject, number 7, and both see another state now;
    2. both store an event with a key that is made of the subject and the number 7;
    3. the key is unique, so the database keeps the first one.

The first known state of a subject has no text, and is not shown. The table keeps a limited number of rows.
A failure is logged once a minute and stops nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from operator import ne
from typing import NamedTuple

from django.db import OperationalError, router, transaction
from django.db.models import Max

from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.models import Event
from cachebackend.monitoring.formatting import moment

__all__ = ["MAX_EVENTS", "PEOPLE", "State", "TimelineEvent", "record_event", "record_states", "timeline"]

logger = logging.getLogger("cachebackend")
#: The number of events that are kept.
MAX_EVENTS = 2000
#: The kinds of events that a person causes; their subject is the person.
PEOPLE = frozenset({"command", "action"})
#: Seconds that the database may take.
TIMEOUT = 2.0
#: The most characters of the columns of these names.
_MAX_TEXT, _MAX_SUBJECT, _MAX_STATE = 500, 200, 100
_failures = LogRateLimit(SYSTEM_CLOCK)


class State(NamedTuple):
    """The present state of a subject.

    Attributes:
        kind: The kind of the event, if the state has changed.
        subject: What has the state.
        value: The state.
        text: What happened, if the state has changed.
        differs: Returns whether the state that was stored last is another one, given both.
    """

    kind: str
    subject: str
    value: str
    text: str
    differs: Callable[[str, str], bool] = ne


class TimelineEvent(NamedTuple):
    """An event, as it is shown.

    Attributes:
        at: When it was stored, in seconds since 1970.
        kind: Its kind.
        text: What happened.
        subject: What changed, or the person.
    """

    at: float
    kind: str
    text: str
    subject: str

    @property
    def is_of_person(self) -> bool:
        """Whether a person did it."""
        return self.kind in PEOPLE

    @property
    def at_text(self) -> str:
        """When it was stored, as text."""
        return moment(self.at)


def record_event(kind: str, subject: str, text: str) -> None:
    """Store what a person did. Never raises."""
    event = Event(
        key=uuid.uuid4().hex, kind=kind, subject=subject[:_MAX_SUBJECT], text=text[:_MAX_TEXT] or kind
    )
    _write(lambda using: _store(using, [event]))


def record_states(states: Sequence[State]) -> None:
    """Store the subjects whose state differs from the one that was stored last. Never raises."""
    _write(lambda using: _store(using, _changes(using, states)))


def timeline(limit: int) -> list[TimelineEvent]:
    """Return the latest events, the newest first.

    Raises:
        OperationalError: The database cannot be asked.
    """
    using = router.db_for_write(Event)
    asked = ask_databases(lambda using: _latest(using, limit), TIMEOUT, [using])
    for error in asked.errors.values():
        message = f"the database {using!r} does not answer: {error}"
        raise OperationalError(message) from error
    return [
        TimelineEvent(_seconds(event.created), event.kind, event.text, event.subject)
        for event in asked.found[using]
    ]


def _latest(using: str, limit: int) -> list[Event]:
    return list(Event.objects.using(using).exclude(text="").order_by("-id")[:limit])


def _seconds(at: datetime) -> float:
    return at.timestamp()


def _changes(using: str, states: Sequence[State]) -> list[Event]:
    """Return the events of the states that have changed."""
    subjects = [state.subject[:_MAX_SUBJECT] for state in states]
    last = Event.objects.using(using).filter(subject__in=subjects).values("subject").annotate(last=Max("id"))
    stored = Event.objects.using(using).in_bulk([row["last"] for row in last])
    known = {event.subject: event for event in stored.values()}
    changes = []
    for subject, state in zip(subjects, states, strict=True):
        value, before = state.value[:_MAX_STATE], known.get(subject)
        if before is None or state.differs(before.state, value):
            changes.append(
                Event(
                    key=_key(subject, 0 if before is None else before.pk),
                    kind=state.kind,
                    subject=subject,
                    state=value,
                    text="" if before is None else state.text[:_MAX_TEXT],
                )
            )
    return changes


def _key(subject: str, before: int) -> str:
    return blake2b(f"{before} {subject}".encode(), digest_size=16).hexdigest()


def _store(using: str, events: Iterable[Event]) -> None:
    events = list(events)
    if not events:
        return
    rows = Event.objects.using(using)
    with transaction.atomic(using=using):  # in the caller's transaction a savepoint, so that it can continue
        rows.bulk_create(events, ignore_conflicts=True)
        newest = rows.aggregate(newest=Max("id"))["newest"] or 0
        rows.filter(id__lte=newest - MAX_EVENTS).delete()


def _write(write: Callable[[str], None]) -> None:
    errors: list[Exception] = []
    try:
        using = router.db_for_write(Event)
        if router.allow_migrate_model(using, Event):
            errors += ask_databases(write, TIMEOUT, [using]).errors.values()
    except Exception as error:  # noqa: BLE001  # an event that is lost does no harm
        raise_interrupt(error)
        errors.append(error)
    for each in errors:
        if count := _failures.to_log():
            extra = {"event": "events_not_stored", "count": count, "error": str(each)}
            logger.warning("%d writes of the timeline failed, the last: %s", count, each, extra=extra)
