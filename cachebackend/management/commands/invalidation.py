"""``manage.py invalidation``: what is owed to the nodes, and whether what is cached is right."""

from __future__ import annotations

import json
import signal
import sys
import threading
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from cachebackend.invalidation import RelayResult, outbox_lag, relay
from cachebackend.invalidation.outbox import has_outbox
from cachebackend.invalidation.relay_listener import relay_on_notify
from cachebackend.managers.audit import WINDOWS, audit, cached_managers
from cachebackend.models import OutboxRow

__all__ = ["Command"]

#: A row that is owed for longer says that no relay runs, or a node is gone.
WORRYING_SECONDS = 10.0
EXAMPLES = """examples:
  manage.py invalidation status --json
  manage.py invalidation relay                            after a node was away, without a worker
  manage.py invalidation relay --listen --database default
  manage.py invalidation audit --sample 500 --windows 0,1,5
Exits with 1 when what it reports is not well.
"""


def _windows(text: str) -> tuple[float, ...]:
    try:
        windows = tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        windows = ()
    if not windows or windows[0] < 0:
        message = f"windows are seconds, such as 0,1,5; not {text!r}"
        raise ArgumentTypeError(message)
    return windows


class Command(BaseCommand):
    """Status, relay and audit of invalidation."""

    help = (
        "status: what the outbox owes; relay: settle it now; audit: hold cached rows against the database. "
        "relay --listen goes on doing so, woken by triggers."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the lines of the examples."""
        return super().create_parser(
            prog_name, subcommand, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what to do."""
        parser.add_argument("action", choices=("status", "relay", "audit"))
        parser.add_argument(
            "--sample", type=int, default=1000, help="rows of each model to audit (default: 1000)"
        )
        parser.add_argument(
            "--windows",
            type=_windows,
            default=WINDOWS,
            help="seconds after which to look again (default: 0,1,5,60)",
        )
        parser.add_argument(
            "--listen",
            action="store_true",
            help="relay: go on until interrupted, at once when a trigger tells, else every second",
        )
        parser.add_argument(
            "--database",
            default="default",
            help="relay --listen: whose triggers to listen to, if it is Postgres (default: default)",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")

    def handle(self, *_: Any, **options: Any) -> None:
        """Do it, print it, and exit accordingly."""
        if options["sample"] < 1:
            message = f"--sample must be at least 1, not {options['sample']}"
            raise CommandError(message)
        found, is_well = getattr(self, f"_{options['action']}")(options)
        if options["json"]:
            self.stdout.write(json.dumps(found))
        else:
            for name, value in found.items():
                self.stdout.write(f"{name}: {value}")
        if not is_well:
            sys.exit(1)

    def _status(self, _: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        databases = [using for using in connections if has_outbox(using)]
        lag = max(map(outbox_lag, databases), default=0.0)
        rows = sum(OutboxRow.objects.using(using).count() for using in databases)
        return {"rows": rows, "lag_seconds": round(lag, 3)}, lag < WORRYING_SECONDS

    def _relay(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        relayed = self._listen(options["database"]) if options["listen"] else relay()
        told = {"rows": relayed.rows, "keys": relayed.keys, "left": relayed.pending}
        return told | {"lag_seconds": round(relayed.lag, 3)}, not relayed.pending

    def _listen(self, using: str) -> RelayResult:
        """Settle whenever told, until SIGTERM or SIGINT; return what the rounds did together."""
        if using not in connections:
            message = f"--database {using!r} is none of DATABASES: {', '.join(connections)}"
            raise CommandError(message)
        total, ended = RelayResult(), threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())

        def on_round(done: RelayResult) -> bool:
            total.rows += done.rows
            total.keys += done.keys
            total.pending, total.lag = done.pending, max(total.lag, done.lag)
            return not ended.is_set()

        self.stderr.write(f"relaying every second, listening to database {using!r}; end with Ctrl-C")
        relay_on_notify(using, on_round, pause=ended.wait)
        return total

    def _audit(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        told: dict[str, Any] = {}
        is_well = True
        for manager in cached_managers():
            if not options["json"]:
                self.stderr.write(f"auditing {manager.model._meta.label}")
            found = audit(manager, options["sample"], options["windows"])
            is_well &= not found.differing[options["windows"][-1]]
            told[found.model] = {
                "sampled": found.sampled,
                "cached": found.cached,
                "consistent": {f"{window:g} s": found.consistent(window) for window in options["windows"]},
                "nines": {f"{window:g} s": _finite(found.nines(window)) for window in options["windows"]},
            }
        return told, is_well


def _finite(nines: float) -> float | None:
    """Return nines as JSON has them; None for as many as there are entries."""
    return round(nines, 2) if nines != float("inf") else None
