"""``manage.py ring``: the state of the ring, the owner of a key, a change of nodes, and their settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from cachebackend import protocol
from cachebackend.backend import ring_cache
from cachebackend.client import RingClient
from cachebackend.conf import ring_aliases, write_behind_options
from cachebackend.errors import RingCacheError
from cachebackend.management import ring_plan
from cachebackend.management.report import AddAction, Report
from cachebackend.management.ring_doctor import doctor_report
from cachebackend.management.ring_processes import processes_report
from cachebackend.management.ring_simulate import simulate
from cachebackend.management.ring_status import status_report
from cachebackend.management.usage_actions import UsageActions, clients_of
from cachebackend.monitoring import (
    key_figures,
    process_figures,
    query_figures,
)
from cachebackend.monitoring.formatting import moment
from cachebackend.monitoring.queries import RECENT_HOURS, CachedForm
from cachebackend.monitoring.setup import configure, differences
from cachebackend.options import ClusterAddress, Faults, NodeAddress, change_faults, parse_location

__all__ = ["Command"]

_UNDER_WAY = "is being changed already; end that change first"
_NO_CLEANUP = (
    "`ring cleanup` is for a ring of nodes; a cluster moves its slots, with their keys, itself: see "
    "`valkey-cli --cluster reshard`"
)
_KEY_COLUMNS = ("keys", "hits, about", "misses, about", "loads", "ms a load")
_QUERY_COLUMNS = ("model", "hits", "misses", "loads", "ms a load", "invalidations", "depends on")


class Command(UsageActions):
    """Status, owner, plan, queries, processes, doctor, cleanup, configure and simulate of the ring."""

    reading = frozenset(
        {"status", "owner", "plan", "queries", "processes", "doctor", "events", "usage", "simulate"}
    )
    help = "See the ring's nodes, find a key's owner, plan a change of nodes, and find what is set up wrong."
    examples = """  manage.py ring status
  manage.py ring owner product:17 --alias default
  manage.py ring plan 'redis://10.0.0.1:6379/0?name=a' 'redis://10.0.0.4:6379/0?name=d'
  manage.py ring queries --hours 24
  manage.py ring processes
  manage.py ring usage --samples 500
  manage.py ring events --limit 20
  manage.py ring doctor --json
  manage.py ring cleanup --yes
  manage.py ring configure --yes
  manage.py ring simulate TRACE.lis.gz --keep 90 --svg misses.svg
  manage.py ring simulate --live 30
"""

    def add_actions(self, parser: CommandParser, add: AddAction) -> None:
        """Add the actions; all of them take ``--alias``, which may come before the action too."""
        status = add(
            "status",
            help="each node, its state, what it holds, and how many distinct keys it must still delete",
        )
        owner = add("owner", help="which node owns a key, and what it holds")
        owner.add_argument("key", help="the key, as it is given to cache.get(), or the name of a tag")
        owner.add_argument("--version", type=int, dest="key_version", help="the key's version")
        plan = add("plan", help="how many keys a change of nodes moves, and the settings of its deploys")
        plan.add_argument("nodes", nargs="+", metavar="URL", help="the new nodes, as in LOCATION")
        queries = add("queries", help="what cached querysets read, and what is not cached and why")
        queries.add_argument(
            "--hours",
            type=int,
            default=RECENT_HOURS,
            choices=range(1, 25),
            metavar="HOURS",
            help=f"how many hours, the present one included, 1 to 24 ({RECENT_HOURS})",
        )
        processes = add("processes", help="each process of the site, and in which settings they differ")
        usage = self.add_usage_actions(add)
        doctor = add("doctor", help="find what is set up wrong")
        cleanup = add("cleanup", help="delete keys from nodes that do not own them")
        cleanup.add_argument("--yes", action="store_true", help="delete them; default: only count them")
        configured = add("configure", help="set maxmemory and its policy as in OPTIONS['eviction']")
        configured.add_argument("--yes", action="store_true", help="set them; default: only list them")
        simulated = add("simulate", help="hit ratios of caches of several sizes, by policy")
        _add_simulate(simulated)
        self.add_option(
            [parser, status, owner, plan, queries, processes, usage, doctor, cleanup, configured, simulated],
            "--alias",
            help="a cache alias; default: every ring cache, or 'default'",
        )

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse an alias that is not a ring cache."""
        if options["alias"] and options["alias"] not in ring_aliases():
            aliases = ", ".join(ring_aliases()) or "none"
            message = f"{options['alias']!r} is not a ring cache; the ring caches are: {aliases}"
            raise CommandError(message)

    def _status(self, options: dict[str, Any]) -> Report:
        return status_report(self, options["alias"])

    def _owner(self, options: dict[str, Any]) -> Report:
        figures = key_figures(
            options["alias"] or "default",
            options["key"],
            options["key_version"],
            shows_value=False,
            shows_pending=False,
        )
        data: dict[str, Any] = {
            "key": options["key"],
            "made": figures.node_key,
            "slot": figures.slot,
            "owner": figures.owner,
        }
        record = figures.record
        if record is None:
            data |= {"holds": None, "error": figures.error}
        else:
            data |= {"holds": record.kind, "bytes": record.size, "ttl_seconds": record.ttl}
            data |= {"depends_on": [each._asdict() for each in figures.depends_on]} if record.tags else {}
            data |= {"shapes": [each._asdict() for each in figures.shapes]} if record.shapes else {}
        for name, value in data.items():
            self.say(f"{name}: {value}")
        return Report(data, record is not None)

    def _plan(self, options: dict[str, Any]) -> Report:
        new, new_cluster = _new_ring(options["nodes"])
        alias = options["alias"] or "default"
        context = ring_cache(alias).client.context
        old, old_cluster = context.options.nodes, context.options.cluster
        if new_cluster is None and old_cluster is None:
            plan = ring_plan.plan_change(old, new)
            faults = change_faults(old, new)
        else:  # another hash decides, so nearly every key gets another server
            plan, faults = ring_plan.Plan(1.0, {}), []
            if new_cluster is not None and old_cluster is not None:
                faults = ["is a cluster already, which moves its slots itself"]
        rows = [(name, f"{now:.1%}", f"{then:.1%}") for name, (now, then) in plan.shares.items()]
        if rows:
            self.print_table(("node", "share now", "share then"), rows)
        self.say(f"{plan.moved:.1%} of the keys would move to another node")
        fault = _UNDER_WAY if context.ring_change else "; ".join(faults)
        urls = _settings(old, old_cluster), _settings(new, new_cluster)
        settings = None if fault else ring_plan.settings_text(alias, *urls)
        self.say(f"no settings are printed: the ring {fault}" if fault else f"\n{settings}")
        shares = {
            name: {"now": round(now, 4), "then": round(then, 4)} for name, (now, then) in plan.shares.items()
        }
        data = {"moved": round(plan.moved, 4), "nodes": shares, "fault": fault, "settings": settings}
        return Report(data, not fault or not plan.moved)

    def _queries(self, options: dict[str, Any]) -> Report:
        data: dict[str, Any] = {}
        for alias, _ in clients_of(options["alias"]):
            figures = query_figures(alias, options["hours"])
            data[alias] = {
                "since": figures.since,
                "cached": [each._asdict() for each in figures.cached],
                "not_cached": [each._asdict() for each in figures.not_cached],
                "keys": [each._asdict() for each in figures.keys],
                "error": figures.error,
            }
            self.say(f"{alias}, since {moment(figures.since)}")
            if figures.error:
                self.say(f"not well: the counts cannot be read: {figures.error}")
            self.print_table(_QUERY_COLUMNS, [_query_row(each) for each in figures.cached])
            self.print_table(_KEY_COLUMNS, [_key_row(each) for each in figures.keys])
            plain = [(each.model, each.runs, each.reason) for each in figures.not_cached]
            self.print_table(("not cached", "queries", "reason"), plain)
        is_well = not any(each["error"] for each in data.values())
        return Report({"aliases": data, "well": is_well}, is_well)

    def _processes(self, options: dict[str, Any]) -> Report:
        return processes_report(self)

    def _doctor(self, options: dict[str, Any]) -> Report:
        has_queue = bool(write_behind_options().is_on)
        clients = [] if has_queue and not ring_aliases() else clients_of(options["alias"])
        return doctor_report(self, clients)

    def _cleanup(self, options: dict[str, Any]) -> Report:
        data: dict[str, Any] = {}
        for difference in process_figures().differences:
            self.say_progress(f"warning: {difference.process.label} has other settings: {difference}")
        for alias, client in clients_of(options["alias"]):
            if client.cluster is not None:
                message = f"{alias}: {_NO_CLEANUP}"
                if options["alias"]:
                    raise CommandError(message)
                self.say(message)
                data[alias] = {"foreign": None, "deleted": 0, "refused": _NO_CLEANUP}
                continue
            if client.context.ring_change is not None:
                message = f"{alias}: end the ring change first: until then nodes are read for keys of others"
                raise CommandError(message)
            deletion = protocol.delete_misplaced(
                client.context,
                ring_cache(alias).pattern,
                delete=options["yes"],
                progress=lambda count: self.say_progress(f"{count} keys searched"),
            )
            count = client.run(deletion)
            data[alias] = {"foreign": count, "deleted": count if options["yes"] else 0}
            done = "deleted" if options["yes"] else "found; --yes deletes them"
            self.say(f"{alias}: {count} keys on nodes that do not own them, {done}")
        return Report(data, may_have_changed=options["yes"])

    def _configure(self, options: dict[str, Any]) -> Report:
        differing: dict[str, Any] = {}
        unseen: dict[str, list[str]] = {}
        for alias, client in clients_of(options["alias"]):
            if client.context.options.eviction is None:
                self.say(f"{alias}: OPTIONS['eviction'] is not set, so there is nothing to configure")
                continue
            differing[alias], errors = self._configure_alias(alias, client, sets=options["yes"])
            if errors:
                unseen[alias] = errors
        if count := sum(map(len, differing.values())):
            done = "were set; a node that is restarted has those of its configuration file"
            self.say(f"{count} settings {done if options['yes'] else 'differ; --yes sets them'}")
        is_well = not unseen and (options["yes"] or not count)
        data = {"aliases": differing, "unseen": unseen, "applied": options["yes"], "well": is_well}
        return Report(data, is_well, may_have_changed=options["yes"])

    def _configure_alias(
        self, alias: str, client: RingClient, *, sets: bool
    ) -> tuple[list[dict[str, str]], list[str]]:
        """Return the settings that differ, and the errors of the nodes that did not answer."""
        infos = client.run(protocol.telemetry.node_infos(client.context))
        errors = [str(info) for info in infos if isinstance(info, RingCacheError)]
        different = differences(client, infos)
        self.print_table(("node", "setting", "is", "should be"), different)
        if sets:
            configure(client, different)
        if not errors and not different:
            self.say(f"{alias}: the nodes are set as in OPTIONS['eviction']")
        for error in errors:
            self.say(f"{alias}: {error}, so its settings are unknown")
        return [difference._asdict() for difference in different], errors

    def _simulate(self, options: dict[str, Any]) -> Report:
        return simulate(self, options)


def _add_simulate(parser: CommandParser) -> None:
    parser.add_argument("trace", nargs="?", type=Path, help="a trace: .lis or .csv, plain, .gz or .zst")
    parser.add_argument(
        "--live",
        type=float,
        metavar="SECONDS",
        help="read the commands of the nodes for SECONDS (MONITOR) instead",
    )
    parser.add_argument("--sizes", help="numbers of entries, with commas; default: 1 %% of the keys to all")
    parser.add_argument(
        "--keep",
        type=float,
        default=95,
        metavar="PERCENT",
        help="the hits to keep, of those of the largest size (default: 95)",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart of the miss ratios")


def _settings(nodes: Sequence[NodeAddress], cluster: ClusterAddress | None) -> list[str]:
    """Return the URLs of a ring as settings have them; user and passwords are masked."""
    return [node.setting for node in nodes] if cluster is None else [cluster.public_url]


def _new_ring(urls: Sequence[str]) -> tuple[tuple[NodeAddress, ...], ClusterAddress | None]:
    """Return the nodes, or the cluster, of the URLs that were given.

    Raises:
        CommandError: One of them is not the URL of a node; the message says which one.
    """
    faults = Faults("URL")
    ring = parse_location(urls, faults)
    if not faults.messages:
        return ring

    def argument(index: re.Match[str]) -> str:
        url = urls[int(index[1])]
        shown = "" if "@" in url else f" ({url!r})"  # it may hold a password
        return f"URL {int(index[1]) + 1}{shown}"

    messages = [re.sub(r"^URL\[(\d+)\]", argument, message) for message in faults.messages]
    message = f"ring plan: {'; '.join(messages)}. Write redis://HOST:PORT/0?name=NAME, as in LOCATION"
    raise CommandError(message)


def _key_row(form: CachedForm) -> tuple[object, ...]:
    mean = "" if form.mean_load_ms is None else f"{form.mean_load_ms:.1f}"
    return form.model, form.hits, form.misses, form.loads, mean


def _query_row(form: CachedForm) -> tuple[object, ...]:
    mean = "" if form.mean_load_ms is None else f"{form.mean_load_ms:.1f}"
    return form.model, form.hits, form.misses, form.loads, mean, form.invalidations, form.text
