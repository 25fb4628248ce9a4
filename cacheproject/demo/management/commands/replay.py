"""``manage.py replay``: plays a recorded trace against the ring, the queue and the worker."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from rich.console import Console
from rich.table import Table

from cachebackend.errors import RingCacheError
from cachebackend.management.traces import Trace, TraceError, read_trace
from cacheproject.demo.drain_check import NotDrainedError, differing_rows, drained_rows, wait_until_drained
from cacheproject.demo.formatting import format_value
from cacheproject.demo.progress import Progress
from cacheproject.demo.trace_replay import SLUG, ReplayError, make_rows, replay
from cacheproject.processes import (
    celery_worker,
    interrupt_on_signals,
    missing_broker,
    missing_services,
    run_with_services,
)

__all__ = ["Command"]


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        message = f"a share is a number from 0 to 1, not {text!r}"
        raise ArgumentTypeError(message)
    return share


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        message = f"a whole number from 1, not {text!r}"
        raise ArgumentTypeError(message)
    return int(text)


class Command(BaseCommand):
    """Play a trace, and check at the end that Postgres holds exactly what was written."""

    help = (
        "Plays a trace of block reads and writes. Each block is a row; a read is Article.cached.get, a write "
        "is Article.behind.update, and a Celery worker drains. Uses the services that RING_NODES, "
        "WRITE_BEHIND_NODES, CELERY_BROKER_URL and DATABASE_URL name, or starts its own. Replaces the rows "
        "of an earlier replay. "
        "Example: manage.py replay OLTP.lis.gz --writes 0.1 --requests 100000 --json"
    )
    requires_system_checks = ()
    _done = 0

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of the command."""
        parser.add_argument(
            "trace", type=Path, help="ARC .lis, CloudPhysics .csv or Twitter .csv; plain, .gz or .zst"
        )
        parser.add_argument("--requests", type=_count, metavar="N", help="play only the first N requests")
        parser.add_argument(
            "--writes",
            type=_share,
            default=0.0,
            metavar="SHARE",
            help="turn this share of a read-only trace into writes",
        )
        parser.add_argument(
            "--seed", type=int, default=0, help="selects which requests become writes (default: 0)"
        )
        parser.add_argument(
            "--processes", type=_count, default=1, metavar="N", help="client processes (default: 1)"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")

    def handle(self, *_: Any, **options: Any) -> None:
        """Read the trace and play it: on the services of the environment, or on services started for it."""
        try:
            trace = read_trace(options["trace"], options["requests"])
            if options["writes"]:
                trace = trace.with_writes(options["writes"], options["seed"])
        except TraceError as error:
            message = f"{error}. Nothing was replayed."
            raise CommandError(message) from error
        if missing := missing_broker():
            raise CommandError(missing)
        services = missing_services()
        if any(services.values()):
            sys.exit(run_with_services(sys.argv[1:], services))
        interrupt_on_signals()
        try:
            result = self._play(trace, options)
        except (NotDrainedError, ReplayError, RingCacheError, DatabaseError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self.stderr.write(
                f"Interrupted after {self._done:,} of {len(trace):,} requests; nothing was checked."
            )
            sys.exit(130)
        self._print(result, as_json=options["json"])
        if not result["exact"]:
            sys.exit(1)

    def _play(self, trace: Trace, options: dict[str, Any]) -> dict[str, Any]:
        def played(done: int) -> None:
            self._done = done
            progress.show("requests", done, len(trace))

        call_command("migrate", verbosity=0, interactive=False)
        with Progress() as progress, celery_worker():
            keys = make_rows(trace, lambda done: progress.show("rows", done, len(trace.names)))
            drained_before = drained_rows()
            tally, seconds = replay(trace, keys, options["processes"], played)
            played(len(trace))
            wait_until_drained(lambda dirty: progress.show("partitions with queued writes", dirty))
            drained = drained_rows() - drained_before
        return {
            "trace": str(options["trace"]),
            "requests": len(trace),
            "reads": tally.reads,
            "writes": tally.writes,
            "hits": tally.hits,
            "misses": tally.misses,
            "hit_ratio": round(tally.hits / tally.reads, 4) if tally.reads else None,
            "queries": tally.queries,
            "stale_sets_refused": tally.stale_sets_refused,
            "drained_rows": drained,
            "seconds": round(seconds, 3),
            "requests_per_second": round(len(trace) / seconds, 1),
            "exact": differing_rows(tally.views, SLUG) == 0,
        }

    def _print(self, result: dict[str, Any], *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(result))
            return
        table = Table(title="Replay", show_header=False)
        for name, value in result.items():
            table.add_row(name.replace("_", " "), format_value(value))
        saved = result["reads"] - result["queries"]
        table.add_row("queries saved", f"{saved:,}")
        Console().print(table)
        if result["exact"]:
            self.stdout.write("Postgres holds exactly what was written.")
        else:
            self.stderr.write("Postgres does NOT hold exactly what was written.")
