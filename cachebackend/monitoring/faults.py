"""What counts as a fault: the fault itself, and every threshold above which a figure is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cachebackend.monitoring.formatting import moment
from cachebackend.monitoring.runbook import EXPLAINS, OTHER_TOPIC, RUNBOOK, TOPICS, FaultKind
from cachebackend.options import WriteBehindOptions

__all__ = [
    "MAX_CLOCK_SKEW_SECONDS",
    "MAX_OUTBOX_LAG_SECONDS",
    "REPLAY_AGE_SECONDS",
    "RETRIED_SECONDS",
    "Fault",
    "alias_scope",
    "by_cause",
    "database_scope",
    "max_run_age",
    "max_tick_age",
    "max_waiting_age",
    "node_scope",
]

#: When the oldest pending delete is older, no relay runs, or a node is down.
MAX_OUTBOX_LAG_SECONDS = 10.0
#: A younger outbox row is most likely being confirmed by its own writer or by the relay's next run.
REPLAY_AGE_SECONDS = 2.0
#: The ages that nodes report mean something only while their clocks differ by less.
MAX_CLOCK_SKEW_SECONDS = 5.0
#: A periodic task that ran longer ago does not run.
MAX_RUN_AGE_SECONDS = 10.0
#: The same in intervals of the task, where those are long.
MAX_RUN_INTERVALS = 5
#: When the oldest queued write is older, in flush intervals, no worker drains the queue.
MAX_WAITING_INTERVALS = 10
#: The same in seconds, where flush intervals are short.
MIN_WAITING_SECONDS = 10.0
#: Seconds for which writes may be tried again before that is a fault: rows that refer to each other are in a
#: wrong order for a moment.
RETRIED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong.

    Attributes:
        kind: What kind of fault it is; the runbook has an entry for each kind.
        message: A sentence for the person on call.
        since: When it began, in seconds since 1970; None if that is not known.
        advice: What to do, in one sentence; empty: what the runbook says.
        subject: The partition that it concerns, if it concerns one; empty otherwise.
        scope: What it concerns, as far as that is known: each a word, such as ``node``, and a name.
        consequences: The faults that this one explains.
        is_note: Whether it is only worth knowing: the site is well nevertheless, and commands exit with 0.
    """

    kind: FaultKind
    message: str
    since: float | None = None
    advice: str = ""
    subject: str = ""
    scope: frozenset[str] = frozenset()
    consequences: tuple[Fault, ...] = ()
    is_note: bool = False

    @property
    def topic(self) -> str:
        """The tile that it turns red."""
        return TOPICS.get(self.kind, OTHER_TOPIC)

    @property
    def way_out(self) -> str:
        """What to do, in one sentence."""
        return self.advice or RUNBOOK[self.kind].way_out

    def as_data(self) -> dict[str, object]:
        """Return what programs get of it, as JSON."""
        return {
            "kind": str(self.kind),
            "message": self.message,
            "since": self.since,
            "way_out": self.way_out,
            "consequences": [each.as_data() for each in self.consequences],
        }

    @property
    def since_text(self) -> str:
        """The time of day when it began, and how long ago that was; empty if that is not known."""
        return "" if self.since is None else moment(self.since)


def alias_scope(alias: str) -> frozenset[str]:
    """Return what a fault of a cache alias concerns."""
    return frozenset({f"alias {alias}"})


def node_scope(alias: str, *names: str) -> frozenset[str]:
    """Return what a fault of nodes of an alias concerns; write-behind has an alias for its queue nodes."""
    return alias_scope(alias) | {f"node {alias} {name}" for name in names}


def database_scope(*aliases: str) -> frozenset[str]:
    """Return what a fault of databases concerns."""
    return frozenset(f"database {using!r}" for using in aliases)


def by_cause(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults that no other one explains, each with those that it explains.

    Faults are compared in the order of the runbook, which has causes before their consequences. A fault that
    several others explain is a consequence of the last of them: while no relay runs, for example, pending
    deletes wait for that, also if a node does not answer.
    """
    order = list(RUNBOOK)
    causes: list[Fault] = []
    for fault in sorted(faults, key=lambda each: order.index(each.kind)):
        explaining = [i for i, cause in enumerate(causes) if _explains(cause, fault)]
        if explaining:
            cause = causes[explaining[-1]]
            causes[explaining[-1]] = replace(cause, consequences=(*cause.consequences, fault))
        else:
            causes.append(fault)
    return causes


def _explains(cause: Fault, fault: Fault) -> bool:
    """Return whether a fault explains another one: by their kinds, and all of what the other one concerns.

    Only names after the same word are compared: a node that does not answer explains the counts of its own
    alias only, and pending deletes of any database.
    """
    words = {_word(name) for name in cause.scope}
    known = {name for name in fault.scope if _word(name) in words}
    return fault.kind in EXPLAINS.get(cause.kind, ()) and known <= cause.scope


def _word(name: str) -> str:
    return name.partition(" ")[0]


def max_run_age(interval: float) -> float:
    """Return how many seconds ago a periodic task may have run before it counts as stopped."""
    return max(MAX_RUN_AGE_SECONDS, MAX_RUN_INTERVALS * interval)


def max_tick_age(options: WriteBehindOptions) -> float:
    """Return how many seconds ago ``tick`` may have run before it counts as stopped."""
    return max_run_age(options.flush_interval)


def max_waiting_age(options: WriteBehindOptions) -> float:
    """Return for how many seconds a queued write may wait before that is a fault."""
    return max(MIN_WAITING_SECONDS, MAX_WAITING_INTERVALS * options.flush_interval)
