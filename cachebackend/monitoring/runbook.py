"""The runbook: for each kind of fault what it means, what to do, and which other faults it explains.

Its text is in ``runbook.md``, a section for each kind. docs/production.md includes it, and the page shows
the section of a fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files

__all__ = ["RUNBOOK", "Entry", "FaultKind", "runbook_text"]


class FaultKind(StrEnum):
    """The kinds of faults; the value of each is the heading of its section, and the anchor of links to it."""

    NODE_DOWN = "node-down"
    QUEUE_NODE_DOWN = "queue-node-down"
    NODE_REFUSES_WRITES = "node-refuses-writes"
    NODE_PARTLY_REACHED = "node-partly-reached"
    NODE_REPLAYING = "node-replaying"
    SLOTS_UNSERVED = "slots-unserved"
    SERVER_WITHOUT_SLOTS = "server-without-slots"
    FIGURES_UNREADABLE = "figures-unreadable"
    COUNTS_UNREADABLE = "counts-unreadable"
    EVICTIONS = "evictions"
    SHAPES_FULL = "shapes-full"
    SETTINGS_DIFFER = "settings-differ"
    VERSIONS_DIFFER = "versions-differ"
    CLOCK_WRONG = "clock-wrong"
    NO_WORKER = "no-worker"
    NO_BEAT = "no-beat"
    DATABASE_DOWN = "database-down"
    TASKS_LATE = "tasks-late"
    OUTBOX_UNREADABLE = "outbox-unreadable"
    DELETES_PENDING = "deletes-pending"
    QUEUE_NODE_DISK = "queue-node-disk"
    QUEUE_NODE_FULL = "queue-node-full"
    QUEUE_SETTINGS = "queue-settings"
    PARTITION_STOPPED = "partition-stopped"
    PARTITION_CLOSED = "partition-closed"
    PARTITION_BLOCKED = "partition-blocked"
    NEWER_CODE = "newer-code"
    WRITES_WAIT = "writes-wait"
    DRAINS_FAIL = "drains-fail"
    WRITES_PARKED = "writes-parked"
    WRITES_RETRIED = "writes-retried"
    WRITES_DROPPED = "writes-dropped"
    WRITES_REFUSED = "writes-refused"
    #: Not a fault: the page lists such queries, with a link to the section
    QUERY_NOT_CACHED = "query-not-cached"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the runbook says about a kind of fault.

    Attributes:
        meaning: What is wrong, and what that does to the site.
        way_out: What to do, in one sentence.
        steps: What else to look at.
    """

    meaning: str
    way_out: str
    steps: tuple[str, ...] = ()


#: The tile of the page that each kind of fault turns red.
TOPICS: dict[FaultKind, str] = {
    FaultKind.NODE_DOWN: "nodes",
    FaultKind.NODE_REFUSES_WRITES: "nodes",
    FaultKind.NODE_PARTLY_REACHED: "nodes",
    FaultKind.NODE_REPLAYING: "nodes",
    FaultKind.SLOTS_UNSERVED: "nodes",
    FaultKind.SERVER_WITHOUT_SLOTS: "nodes",
    FaultKind.FIGURES_UNREADABLE: "nodes",
    FaultKind.COUNTS_UNREADABLE: "nodes",
    FaultKind.EVICTIONS: "nodes",
    FaultKind.SHAPES_FULL: "nodes",
    FaultKind.SETTINGS_DIFFER: "processes",
    FaultKind.VERSIONS_DIFFER: "processes",
    FaultKind.CLOCK_WRONG: "processes",
    FaultKind.NO_WORKER: "worker",
    FaultKind.NO_BEAT: "worker",
    FaultKind.TASKS_LATE: "worker",
    FaultKind.DATABASE_DOWN: "pending",
    FaultKind.OUTBOX_UNREADABLE: "pending",
    FaultKind.DELETES_PENDING: "pending",
}
#: The tile of all other kinds: write-behind's.
OTHER_TOPIC = "waiting"

_LATE_WRITES = frozenset({FaultKind.WRITES_WAIT, FaultKind.DRAINS_FAIL})
_LOST_WRITES = frozenset({FaultKind.WRITES_DROPPED, FaultKind.WRITES_REFUSED})
#: The kinds of faults that a fault causes. They are shown below it.
EXPLAINS: dict[FaultKind, frozenset[FaultKind]] = {
    FaultKind.NODE_DOWN: frozenset(
        {
            FaultKind.NODE_PARTLY_REACHED,
            FaultKind.NODE_REPLAYING,
            FaultKind.COUNTS_UNREADABLE,
            FaultKind.DELETES_PENDING,
            FaultKind.FIGURES_UNREADABLE,
        }
    ),
    FaultKind.SLOTS_UNSERVED: _LATE_WRITES
    | _LOST_WRITES
    | {FaultKind.COUNTS_UNREADABLE, FaultKind.DELETES_PENDING, FaultKind.FIGURES_UNREADABLE},
    FaultKind.NODE_REFUSES_WRITES: frozenset({FaultKind.NODE_PARTLY_REACHED, FaultKind.DELETES_PENDING}),
    FaultKind.NODE_PARTLY_REACHED: frozenset({FaultKind.DELETES_PENDING}),  # maybe by the relay's process
    FaultKind.NODE_REPLAYING: frozenset({FaultKind.DELETES_PENDING}),
    FaultKind.NO_WORKER: _LATE_WRITES | {FaultKind.DELETES_PENDING},
    FaultKind.NO_BEAT: _LATE_WRITES | {FaultKind.DELETES_PENDING},
    FaultKind.TASKS_LATE: _LATE_WRITES | {FaultKind.DELETES_PENDING},
    FaultKind.DATABASE_DOWN: _LATE_WRITES
    | {
        FaultKind.TASKS_LATE,
        FaultKind.DELETES_PENDING,
        FaultKind.WRITES_PARKED,
        FaultKind.WRITES_RETRIED,
    },
    FaultKind.PARTITION_BLOCKED: _LATE_WRITES | {FaultKind.WRITES_RETRIED},
    FaultKind.QUEUE_NODE_DOWN: _LATE_WRITES | _LOST_WRITES | {FaultKind.NODE_PARTLY_REACHED},
    FaultKind.QUEUE_NODE_DISK: _LATE_WRITES | _LOST_WRITES,
    FaultKind.QUEUE_NODE_FULL: _LOST_WRITES,
}


def runbook_text() -> str:
    """Return the runbook as Markdown."""
    return files(__package__).joinpath("runbook.md").read_text(encoding="utf-8")


def _entry(section: str) -> Entry:
    """Return the entry of a section without its heading."""
    meaning, _, rest = section.partition("**What to do:**")
    way_out, *steps = re.split(r"\n\s*- ", rest)
    return Entry(_in_one_line(meaning), _in_one_line(way_out), tuple(map(_in_one_line, steps)))


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _read() -> dict[FaultKind, Entry]:
    _, *parts = re.split(r"^### (.+)$", runbook_text(), flags=re.MULTILINE)
    return {FaultKind(name): _entry(section) for name, section in zip(parts[::2], parts[1::2], strict=True)}


#: The entry of each kind, causes before what they explain.
RUNBOOK = _read()
