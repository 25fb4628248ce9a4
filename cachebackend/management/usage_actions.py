"""The actions ``events`` and ``usage`` of ``manage.py ring``: what happened, and where time and memory go."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from cachebackend.backend import ring_cache
from cachebackend.client import RingClient
from cachebackend.conf import ring_aliases
from cachebackend.management.report import AddAction, Report, ReportCommand
from cachebackend.monitoring.events import timeline
from cachebackend.monitoring.formatting import moment
from cachebackend.monitoring.usage import SAMPLES, usage_figures

__all__ = ["UsageActions", "clients_of"]


class UsageActions(ReportCommand):
    """The actions ``events`` and ``usage``."""

    def add_usage_actions(self, add: AddAction) -> CommandParser:
        """Add the actions; return the parser of ``usage``, which takes an alias."""
        events = add("events", help="what happened to nodes and processes, and what people did")
        events.add_argument("--limit", type=int, default=50, help="how many events, the newest first (50)")
        usage = add("usage", help="the hottest and biggest keys, memory by group, and times of commands")
        usage.add_argument(
            "--samples", type=int, default=SAMPLES, help=f"random keys of each node ({SAMPLES})"
        )
        return usage

    def _events(self, options: dict[str, Any]) -> Report:
        events = timeline(max(options["limit"], 1))
        self.print_table(
            ("when", "what", "by"),
            [(moment(each.at), each.text, each.subject if each.is_of_person else "") for each in events],
        )
        return Report({"events": [each._asdict() for each in events]})

    def _usage(self, options: dict[str, Any]) -> Report:
        data: dict[str, Any] = {}
        for alias, _ in clients_of(options["alias"]):
            figures = usage_figures(alias, max(options["samples"], 1))
            self.say(f"{alias}: {figures.sampled} keys sampled")
            if figures.error:
                self.say(f"not well: the hottest keys are unknown: {figures.error}")
            for name, error in figures.unanswered.items():
                self.say(f"not well: node {name} does not answer, so its keys are not known: {error}")
            self.print_table(("hottest key", "gets, about"), figures.hottest.items())
            groups = [
                (each.group or "query results", f"{each.share:.0%}", each.keys, f"{each.mean_bytes:.0f}")
                for each in figures.groups
            ]
            self.print_table(("keys", "memory", "sampled", "mean bytes"), groups)
            self.print_table(("biggest key", "node", "bytes"), figures.biggest)
            self.print_table(
                ("node", "command", "calls", "p50", "p99"),
                [(each.node, each.command, each.calls, *each.times_text) for each in figures.commands],
            )
            data[alias] = {
                "hottest": None if figures.error else figures.hottest,
                "biggest": [each._asdict() for each in figures.biggest],
                "groups": [each._asdict() for each in figures.groups],
                "commands": [each._asdict() for each in figures.commands],
                "sampled": figures.sampled,
                "unanswered": figures.unanswered,
            }
        is_well = not any(each["hottest"] is None or each["unanswered"] for each in data.values())
        return Report({"aliases": data}, is_well)


def clients_of(alias: str | None) -> list[tuple[str, RingClient]]:
    """Return the clients of an alias, or of every ring cache, by alias."""
    aliases = [alias] if alias else ring_aliases()
    if not aliases:
        message = "no alias of CACHES is a ring cache"
        raise CommandError(message)
    return [(name, ring_cache(name).client) for name in aliases]
