"""``manage.py invalidation``: pending deletes, the relay, and an audit of cached rows."""

from __future__ import annotations

import argparse
import math
import signal
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connections, router

from cachebackend.invalidation import RelayResult, relay
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases, server_of
from cachebackend.invalidation.relay_listener import relay_on_notify
from cachebackend.invalidation.set_aside import delete_set_aside
from cachebackend.management.database_work import in_database
from cachebackend.management.report import AddAction, Report, ReportCommand
from cachebackend.managers.audit import WINDOWS, audit, cached_managers
from cachebackend.monitoring import outbox_figures
from cachebackend.monitoring.observer import observe
from cachebackend.telemetry import this_process

__all__ = ["Command"]


#: Seconds that a database may take for all its pending deletes.
RELAY_TIMEOUT = 60.0
#: Seconds that a database may take to delete the rows that are set aside.
DISCARD_TIMEOUT = 60.0
#: What the text says for a key of the JSON.
_LABELS = {
    "rows": "outbox rows",
    "keys": "keys deleted",
    "left": "outbox rows still pending",
    "discarded": "unreadable outbox rows deleted",
    "lag_seconds": "age of the oldest outbox row, in seconds",
}


def _windows(text: str) -> tuple[float, ...]:
    try:
        windows = tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        windows = ()
    if not windows or not all(0 <= window < math.inf for window in windows):  # NaN is refused too
        message = f"windows are seconds, such as 0,1,5; not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return windows


class Command(ReportCommand):
    """Status, relay, unreadable rows and audit of invalidation."""

    reading = frozenset({"status", "audit"})
    help = "See pending deletes, send them now, and compare cached rows with the database."
    examples = """  manage.py invalidation status --json
  manage.py invalidation relay                            after a node was down, without a worker
  manage.py invalidation relay --listen --database default
  manage.py invalidation audit --sample 500 --windows 0,1,5
"""

    def add_actions(self, parser: CommandParser, add: AddAction) -> None:
        """Add status, relay, discard and audit; their options may come before the action too."""
        add("status", help="how many outbox rows are pending, and the age of the oldest in seconds")
        relay = add("relay", help="send pending deletes now")
        self.add_option(
            [parser, relay],
            "--listen",
            action="store_true",
            help="relay until interrupted: every second, and at once when a trigger notifies",
        )
        self.add_option(
            [parser, relay],
            "--database",
            default="default",
            help="--listen: the database whose triggers notify, if it is Postgres (default: default)",
        )
        add("discard", help="delete the outbox rows that cannot be read and are set aside")
        audit = add("audit", help="compare cached rows with the database")
        self.add_option(
            [parser, audit],
            "--sample",
            type=int,
            default=1000,
            help="rows of each model to compare (default: 1000)",
        )
        self.add_option(
            [parser, audit],
            "--windows",
            type=_windows,
            default=WINDOWS,
            help="seconds after which rows that differ are compared again (default: 0,1,5,60)",
        )

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse an empty sample."""
        if options["sample"] < 1:
            message = f"--sample must be at least 1, not {options['sample']}"
            raise CommandError(message)

    def _status(self, _: dict[str, Any]) -> Report:
        outbox = outbox_figures()
        for fault in outbox.faults:
            self.say(fault.message)
            self.say(f"  {fault.way_out}")
        data = {"rows": outbox.rows, "lag_seconds": None if outbox.lag is None else round(outbox.lag, 3)}
        return self._report(data, not outbox.faults)

    def _discard(self, _: dict[str, Any]) -> Report:
        seen = ask_databases(server_of, READ_TIMEOUT)
        asked = ask_databases(delete_set_aside, DISCARD_TIMEOUT, seen.found)
        is_well = self._can_be_read(seen.errors | asked.errors)
        return self._report({"discarded": sum(asked.found.values())}, is_well)

    def _can_be_read(self, errors: Mapping[str, object]) -> bool:
        """Report the databases that could not be read; return whether there are none."""
        for using, error in errors.items():
            self.say(f"the outbox of database {using!r} cannot be read: {error}")
        return not errors

    def _relay(self, options: dict[str, Any]) -> Report:
        relayed = self._listen(options["database"]) if options["listen"] else self._relay_all()
        counts = {"rows": relayed.rows, "keys": relayed.keys, "left": relayed.pending}
        is_well = self._can_be_read(relayed.failed) and not relayed.pending
        return self._report(counts | {"lag_seconds": round(relayed.lag, 3)}, is_well)

    def _relay_all(self) -> RelayResult:
        """Run the relay until a run reaches the last row; return the sums of all runs."""
        ask_databases(server_of, READ_TIMEOUT)  # the relay then does not wait for one that hangs
        total = RelayResult(is_complete=False)
        while not total.is_complete:
            total.add_run(relay(RELAY_TIMEOUT))
            self.say_progress(f"relayed {total.rows} rows")
        return total

    def _listen(self, using: str) -> RelayResult:
        """Relay at every notification until SIGTERM or SIGINT; return the sums of all runs."""
        if using not in connections:
            message = f"--database {using!r} is none of DATABASES: {', '.join(connections)}"
            raise CommandError(message)
        total, ended = RelayResult(), threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())

        def on_round(done: RelayResult) -> bool:
            total.add_run(done)
            observe()
            return not ended.is_set()

        this_process.add_kind("relay")
        self.stderr.write(f"relaying every second, listening to database {using!r}; end with Ctrl-C")
        relay_on_notify(using, on_round, pause=ended.wait)
        return total

    def _audit(self, options: dict[str, Any]) -> Report:
        windows = options["windows"]
        audits: dict[str, Any] = {}
        is_well = True
        managers = cached_managers()
        if not managers:
            message = "no model has a CachedManager whose alias is a ring cache"
            raise CommandError(message)
        for manager in managers:
            self.say_progress(f"auditing {manager.model._meta.label}")
            using = router.db_for_read(manager.model)
            result = in_database(using, partial(audit, manager, options["sample"], windows))
            is_well &= not result.differing[windows[-1]]
            audits[result.model] = {
                "sampled": result.sampled,
                "cached": result.cached,
                "consistent": {f"{window:g} s": result.consistent(window) for window in windows},
                "nines": {f"{window:g} s": _finite(result.nines(window)) for window in windows},
            }
        return self._report(audits, is_well)

    def _report(self, data: dict[str, Any], is_well: bool) -> Report:
        for name, value in data.items():
            self.say(f"{_LABELS.get(name, name)}: {'unknown' if value is None else value}")
        return Report(data, is_well)


def _finite(nines: float) -> float | None:
    """Return a number of nines as JSON can hold it; None if every entry was right."""
    return round(nines, 2) if nines != float("inf") else None
