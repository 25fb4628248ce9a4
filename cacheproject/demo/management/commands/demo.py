"""``manage.py demo``: the whole system at work, for a first look."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import RawDescriptionHelpFormatter
from contextlib import ExitStack
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cachebackend import writebehind
from cachebackend.conf import ring_options
from cachebackend.errors import RingCacheError
from cachebackend.registry import ring_client
from cacheproject.demo.drain_check import NotDrainedError, differing_rows, drained_rows, wait_until_drained
from cacheproject.demo.formatting import format_value
from cacheproject.demo.load import LOGIN, SLUG, Load, seed
from cacheproject.processes import (
    celery_worker,
    free_port,
    interrupt_on_signals,
    missing_broker,
    missing_services,
    run_with_services,
    site,
    wait_for_interrupt,
)

__all__ = ["Command"]

REFRESH_SECONDS = 0.5
#: Seconds between two lines of counts, where there is no terminal.
LINE_SECONDS = 5.0
EXAMPLES = """examples:
  manage.py demo
  manage.py demo --seconds 120 --port 8001
  manage.py demo --cluster
  manage.py demo --seconds 5 --json             for a script: one object, and it ends
Exits with 1 when Postgres does not hold exactly what was written.
"""


class Command(BaseCommand):
    """Run services, worker and site, put a load on them, and print a summary."""

    help = (
        "Starts the services that the environment does not name, two workers and the site; runs a load of "
        "readers and writers with live counts; and checks at the end that Postgres holds exactly what was "
        "written. On a terminal the site then stays up until Ctrl-C."
    )
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the line breaks of the examples."""
        return super().create_parser(
            prog_name, subcommand, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of the command."""
        parser.add_argument(
            "--seconds", type=float, default=20.0, help="how long the load runs (default: 20)"
        )
        parser.add_argument(
            "--port",
            type=int,
            default=8000,
            help="the site's port; if taken, another is used (default: 8000)",
        )
        parser.add_argument(
            "--cluster",
            action="store_true",
            help="use a cluster of three primaries and three replicas instead of a ring of three nodes",
        )
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object as the last line, and end"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Run with the services of the environment, or start services and run there."""
        if options["seconds"] <= 0:
            message = f"--seconds must be above 0, not {options['seconds']:g}"
            raise CommandError(message)
        if missing := missing_broker():
            raise CommandError(missing)
        ring_nodes = os.environ.get("RING_NODES")
        if options["cluster"] and ring_nodes and "+cluster://" not in ring_nodes:
            message = "--cluster starts a cluster, but RING_NODES names nodes; leave one of them out"
            raise CommandError(message)
        services = missing_services("cluster" if options["cluster"] else 3)
        if any(services.values()):
            sys.exit(run_with_services(sys.argv[1:], services))
        interrupt_on_signals()
        console = Console(stderr=options["json"])
        try:
            result = self._show(console, options)
        except (NotDrainedError, RingCacheError, DatabaseError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            console.print("Interrupted; nothing was checked.")
            sys.exit(130)
        if options["json"]:
            self.stdout.write(json.dumps(result))
        if not result["exact"]:
            sys.exit(1)

    def _show(self, console: Console, options: dict[str, Any]) -> dict[str, Any]:
        call_command("migrate", verbosity=0, interactive=False)
        seed()
        with ExitStack() as running:
            running.enter_context(celery_worker())
            port = free_port(options["port"])
            running.enter_context(site(port))
            address = f"http://127.0.0.1:{port}"
            console.print(
                f"Site   {address}/\nAdmin  {address}/admin/  user [b]{LOGIN}[/], password [b]{LOGIN}[/]\n"
            )
            result = self._load(console, options["seconds"])
            result["admin"] = f"{address}/admin/"
            console.print(_table("Summary", result))
            console.print(
                "[green]Postgres holds exactly what was written.[/]"
                if result["exact"]
                else "[red]Postgres does NOT hold exactly what was written.[/]"
            )
            if sys.stdout.isatty() and not options["json"]:
                console.print(f"\nThe site stays up at {address}/ until Ctrl-C.")
                try:
                    wait_for_interrupt()
                except KeyboardInterrupt:
                    console.print("Ended.")
        return result

    def _load(self, console: Console, seconds: float) -> dict[str, Any]:
        counters = ring_client(ring_options("default")).counters
        drained_before, before, started = drained_rows(), counters.total(), time.monotonic()
        next_line = started + LINE_SECONDS
        with Load() as load, Live(console=console, auto_refresh=False, transient=True) as live:
            while (elapsed := time.monotonic() - started) < seconds:
                time.sleep(min(REFRESH_SECONDS, seconds - elapsed))
                counts = self._counts(load, before, drained_before, time.monotonic() - started)
                if console.is_terminal:
                    live.update(_table("Under load", counts), refresh=True)
                elif time.monotonic() >= next_line:
                    next_line += LINE_SECONDS
                    console.print(
                        "  ".join(f"{name} {value}" for name, value in counts.items()), soft_wrap=True
                    )
        counts = self._counts(load, before, drained_before, time.monotonic() - started)
        wait_until_drained(lambda _: None)
        counts["rows_landed"] = drained_rows() - drained_before
        counts["partitions_waiting"] = 0
        counts["exact"] = differing_rows(load.views(), SLUG) == 0
        return counts

    def _counts(self, load: Load, before: Any, drained_before: int, elapsed: float) -> dict[str, Any]:
        done = load.counts()
        now = ring_client(ring_options("default")).counters.total()
        hits, misses = now.hits - before.hits, now.misses - before.misses
        return {
            "seconds": round(elapsed, 1),
            "reads": done.reads,
            "reads_per_second": round(done.reads / elapsed),
            "hit_ratio": round(hits / (hits + misses), 4) if hits + misses else None,
            "loads": now.loads - before.loads,
            "saves": done.saves,
            "stale_sets_refused": now.stale_sets_refused - before.stale_sets_refused,
            "writes_behind": done.writes,
            "rows_landed": drained_rows() - drained_before,
            "partitions_waiting": len(writebehind.dirty_partitions()),
            "errors": done.errors,
        }


def _table(title: str, counts: dict[str, Any]) -> Table:
    table = Table(title=title, show_header=False)
    for name, value in counts.items():
        table.add_row(name.replace("_", " "), format_value(value))
    return table
