"""``manage.py services``: runs real servers until Ctrl-C."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cachebackend.testing.embedded import MissingBinaryError
from cacheproject.processes import interrupt_on_signals, wait_for_interrupt
from cacheproject.services import ServiceError, Services

__all__ = ["Command"]

#: The most nodes of a kind: more than anyone needs on one machine.
MAX_NODES = 50


class Command(BaseCommand):
    """Start ring nodes, a queue node, a broker and Postgres; print their addresses; wait."""

    help = "Starts real services on free ports, prints the environment that names them, and waits for Ctrl-C."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of the command."""
        parser.add_argument("--ring", type=int, default=3, help="ring nodes (default: 3)")
        parser.add_argument(
            "--queue", type=int, default=1, help="queue nodes, and a broker with them (default: 1)"
        )
        parser.add_argument(
            "--cluster",
            action="store_true",
            help="a cluster of three primaries and three replicas instead of ring nodes",
        )
        parser.add_argument("--no-postgres", action="store_true", help="start no Postgres")
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object instead of shell lines"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Run until interrupted."""
        for name, maximum in (("ring", MAX_NODES), ("queue", MAX_NODES)):
            if not 0 <= options[name] <= maximum:
                message = f"--{name} must be from 0 to {maximum}, not {options[name]}"
                raise CommandError(message)
        interrupt_on_signals()
        try:
            ring: int | Literal["cluster"] = "cluster" if options["cluster"] else int(options["ring"])
            with Services(ring, options["queue"], not options["no_postgres"]) as services:
                if options["json"]:
                    self.stdout.write(json.dumps(services.env()))
                else:
                    for name, value in services.env().items():
                        self.stdout.write(f"export {name}={shlex.quote(value)}")
                self.stdout.flush()
                self.stderr.write("Running; Ctrl-C ends them and removes their data.")
                wait_for_interrupt()
        except KeyboardInterrupt:
            self.stderr.write("Ended.")
        except (ServiceError, MissingBinaryError) as error:
            raise CommandError(str(error)) from error
