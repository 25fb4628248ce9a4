"""``manage.py ring``: how the ring is, who owns a key, what a change of nodes would move."""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from cachebackend import protocol, writebehind
from cachebackend.backend import ring_cache
from cachebackend.client import RingClient
from cachebackend.conf import ring_aliases, write_behind_options
from cachebackend.errors import RingCacheError
from cachebackend.invalidation import outbox_lag
from cachebackend.invalidation.outbox import ClientOutbox, has_outbox
from cachebackend.management import ring_plan, simulation
from cachebackend.management.tables import print_table
from cachebackend.management.traces import Trace, TraceError, read_trace
from cachebackend.monitoring.nodes import node_rows
from cachebackend.monitoring.setup import configure, differences, ring_faults
from cachebackend.node.breaker import REPLAYING, UP
from cachebackend.node.monitor import read_keys
from cachebackend.options import Faults, change_faults, parse_nodes
from cachebackend.ring import slot_of

__all__ = ["Command"]

#: A delete that is owed for longer says that no relay runs.
WORRYING_LAG_SECONDS = 10.0
#: One that is owed for less may be on its way.
REPLAYING_LAG_SECONDS = 2.0
_UNDER_WAY = "is being changed already; end that change first"
#: Keys whose memory is asked for, to tell what entries take.
WEIGHED_KEYS = 1000
EXAMPLES = """examples:
  manage.py ring status
  manage.py ring owner product:17 --alias default
  manage.py ring plan 'redis://10.0.0.1:6379/0?name=a' 'redis://10.0.0.4:6379/0?name=d'
  manage.py ring doctor --json
  manage.py ring cleanup --yes
  manage.py ring configure --yes
  manage.py ring simulate TRACE.lis.gz --keep 90 --svg misses.svg
  manage.py ring simulate --live 30
Exits with 1 when what it reports is not well.
"""


class Command(BaseCommand):
    """Status, owner, plan, doctor, cleanup, configure and simulate of the ring."""

    help = (
        "See the ring's nodes, find a key's owner, plan a change of nodes, and look for what is set up wrong."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the lines of the examples."""
        return super().create_parser(
            prog_name, subcommand, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what to do."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        common = CommandParser(add_help=False)
        common.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        common.add_argument("--alias", help="a cache alias; default: every ring cache, or 'default'")
        actions.add_parser("status", parents=[common], help="each node, its state and what it holds")
        owner = actions.add_parser("owner", parents=[common], help="which node owns a key, and what it holds")
        owner.add_argument("key", help="the key, as it is given to cache.get()")
        owner.add_argument("--version", type=int, dest="key_version", help="the key's version")
        plan = actions.add_parser(
            "plan", parents=[common], help="what a change of nodes would move, and its settings"
        )
        plan.add_argument("nodes", nargs="+", metavar="URL", help="the nodes as LOCATION would name them")
        actions.add_parser("doctor", parents=[common], help="look for what is set up wrong")
        cleanup = actions.add_parser(
            "cleanup", parents=[common], help="delete what nodes hold and do not own"
        )
        cleanup.add_argument("--yes", action="store_true", help="delete; without it only count")

        configured = actions.add_parser(
            "configure", parents=[common], help="have the nodes evict as OPTIONS['eviction'] says"
        )
        configured.add_argument("--yes", action="store_true", help="do it; without it only tell")
        simulate = actions.add_parser(
            "simulate", parents=[common], help="what caches of some sizes would find, by policy"
        )
        simulate.add_argument("trace", nargs="?", type=Path, help="a trace: .lis or .csv, plain, .gz or .zst")
        simulate.add_argument(
            "--live", type=float, metavar="SECONDS", help="instead listen to the nodes for so long (MONITOR)"
        )
        simulate.add_argument("--sizes", help="entries, by commas; default: 1 %% of the keys to all")
        simulate.add_argument(
            "--keep",
            type=float,
            default=95,
            metavar="PERCENT",
            help="hits that are to be kept (default: 95)",
        )
        simulate.add_argument("--svg", type=Path, metavar="FILE", help="write the miss ratios as a picture")

    def handle(self, *_: Any, **options: Any) -> None:
        """Do it, print it, and exit accordingly."""
        self._is_json = options["json"]
        if options["alias"] and options["alias"] not in ring_aliases():
            message = (
                f"{options['alias']!r} is no ring cache; there are {', '.join(ring_aliases()) or 'none'}"
            )
            raise CommandError(message)
        try:
            found, is_well = getattr(self, f"_{options['action']}")(options)
        except (RingCacheError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        if self._is_json:
            self.stdout.write(json.dumps(found, default=str))
        if not is_well:
            sys.exit(1)

    def _status(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        told: dict[str, Any] = {}
        for alias, client in _clients(options["alias"]):
            told[alias] = node_rows(client, self._owed(client))
            self._say(f"{alias}: {len(told[alias])} nodes")
            self._table(
                _COLUMNS,
                [[each[name] for name in _COLUMNS] for each in told[alias]],
            )
            for each in told[alias]:
                if each["error"]:
                    self._say(f"{each['node']}: {each['error']}")
        is_well = all(each["state"] in {UP, REPLAYING} for nodes in told.values() for each in nodes)
        return {"aliases": told, "well": is_well}, is_well

    def _owed(self, client: RingClient) -> list[int | str]:
        """Return how many deletes each node is owed, or "all", as far as the databases tell."""
        endpoints, limit = [node.endpoint for node in client.nodes], client.context.missed.limit
        try:
            if _lag() > REPLAYING_LAG_SECONDS:
                owed = [ClientOutbox(client).find(place, limit) for place in endpoints]
                return ["all" if each.is_all_keys else len(each.keys) for each in owed]
        except DatabaseError as error:
            self._say(f"what the nodes are owed is not known: {error}")
        return [0 for _ in endpoints]

    def _owner(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        cache = ring_cache(options["alias"] or "default")
        client, made = cache.client, cache.key_bytes(options["key"], options["key_version"])
        owner = client.ring.names[client.ring.owner(made)]
        told: dict[str, Any] = {
            "key": options["key"],
            "made": made.decode("utf-8", "replace"),
            "slot": slot_of(made),
            "owner": owner,
        }
        try:
            found = client.run(protocol.inspect(client.context, made))
        except RingCacheError as error:
            told |= {"holds": None, "error": str(error)}
        else:
            told |= {"holds": found.kind, "bytes": found.size, "ttl_seconds": found.ttl}
        for name, value in told.items():
            self._say(f"{name}: {value}")
        return told, "error" not in told

    def _plan(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        faults = Faults("ring plan")
        wanted = parse_nodes(options["nodes"], faults)
        faults.raise_any()
        alias = options["alias"] or "default"
        client = ring_cache(alias).client
        nodes = client.context.options.nodes
        plan = ring_plan.plan_change(nodes, wanted)
        rows = [(name, f"{now:.1%}", f"{then:.1%}") for name, (now, then) in plan.shares.items()]
        self._table(("node", "share now", "share then"), rows)
        self._say(f"{plan.moved:.1%} of the keys would change their owner")
        fault = _UNDER_WAY if client.context.ring_change else "; ".join(change_faults(nodes, wanted))
        settings = None if fault else ring_plan.settings_text(alias, nodes, wanted)
        self._say(f"no settings are printed: the ring {fault}" if fault else f"\n{settings}")
        shares = {
            name: {"now": round(now, 4), "then": round(then, 4)} for name, (now, then) in plan.shares.items()
        }
        told = {"moved": round(plan.moved, 4), "nodes": shares, "fault": fault, "settings": settings}
        return told, not fault or not plan.moved

    def _doctor(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        faults = [
            fault for alias, client in _clients(options["alias"]) for fault in ring_faults(alias, client)
        ]
        try:
            lag = _lag()
        except DatabaseError as error:
            faults.append(f"the database does not answer: {error}")
        else:
            if lag > WORRYING_LAG_SECONDS:
                faults.append(
                    f"deletes have been owed for {lag:.0f} s: run a worker, or `invalidation relay`"
                )
        if write_behind_options().nodes:
            faults += writebehind.node_faults()
        for fault in faults:
            self._say(fault)
        if not faults:
            self._say("nothing is set up wrong")
        return {"faults": faults, "well": not faults}, not faults

    def _cleanup(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        told = {}
        for alias in [options["alias"]] if options["alias"] else ring_aliases():
            cache = ring_cache(alias)
            client = cache.client
            if client.context.ring_change is not None:
                message = (
                    f"{alias}: what nodes hold and do not own is read until joining and leaving are gone"
                )
                raise CommandError(message)
            found = client.run(
                protocol.delete_misplaced(
                    client.context, cache.pattern, delete=options["yes"], progress=self._progress
                )
            )
            told[alias] = {"foreign": found, "deleted": found if options["yes"] else 0}
            done = "deleted" if options["yes"] else "found; --yes deletes them"
            self._say(f"{alias}: {found} keys on nodes that do not own them, {done}")
        return told, True

    def _configure(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        told: dict[str, Any] = {}
        unseen: dict[str, list[str]] = {}
        for alias, client in _clients(options["alias"]):
            if client.context.options.eviction is None:
                self._say(f"{alias}: OPTIONS['eviction'] says nothing, so there is nothing to set")
                continue
            infos = client.run(protocol.node_infos(client.context))
            errors = [str(info) for info in infos if isinstance(info, RingCacheError)]
            found = differences(client, infos)
            told[alias] = [difference._asdict() for difference in found]
            self._table(("node", "setting", "is", "should be"), found)
            if options["yes"]:
                configure(client, found)
            if errors:
                unseen[alias] = errors
            elif not found:
                self._say(f"{alias}: the nodes are set as OPTIONS['eviction'] says")
            for error in errors:
                self._say(f"{alias}: {error}, so what it is set to is not known")
        if count := sum(map(len, told.values())):
            done = "were set; a node that is restarted has what its file says"
            self._say(f"{count} settings {done if options['yes'] else 'differ; --yes sets them'}")
        is_well = not unseen and (options["yes"] or not count)
        return {"aliases": told, "unseen": unseen, "applied": options["yes"], "well": is_well}, is_well

    def _simulate(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        if (options["trace"] is None) == (options["live"] is None):
            message = "name a trace, or --live SECONDS to listen to the nodes"
            raise CommandError(message)
        if not 0 < options["keep"] <= 100:
            message = f"--keep is a number above 0 and up to 100, not {options['keep']:g}"
            raise CommandError(message)
        if options["svg"] is not None:
            _check_writable(options["svg"])
        trace, entry_bytes = self._trace(options)
        reads = len(trace) - sum(trace.writes)
        if not reads:
            message = "nothing was asked for: there is nothing to simulate"
            raise CommandError(message)
        sizes = _sizes(options["sizes"]) or simulation.default_sizes(trace)
        thinned, rate = simulation.sampled(trace)
        if rate < 1:
            self._say(f"of {len(trace):,} requests those of {rate:.0%} of the keys are played")
        found = simulation.curves(thinned, sizes, rate, self._say)
        rows = [(name, *(f"{ratio:.1%}" for ratio in ratios)) for name, ratios in found.items()]
        self._table(("hit ratio", *(f"{size:,}" for size in sizes)), rows)
        sentence = simulation.advice(sizes, found, options["keep"] / 100, entry_bytes)
        self._say(sentence)
        if options["svg"] is not None:
            options["svg"].write_text(simulation.miss_ratio_chart(sizes, found))
        told = {name: [round(ratio, 4) for ratio in ratios] for name, ratios in found.items()}
        counts = {"requests": reads, "writes": len(trace) - reads, "entry_bytes": entry_bytes}
        return counts | {"sizes": sizes, "hit_ratios": told, "advice": sentence}, True

    def _trace(self, options: dict[str, Any]) -> tuple[Trace, float | None]:
        """Return the requests to play, a file's or what the nodes are asked for from now on.

        Beside them what a key takes, in bytes, on the average of some; None where nobody knows.
        """
        if options["live"] is None:
            try:
                return read_trace(options["trace"]), None
            except TraceError as error:
                raise CommandError(str(error)) from error
        cache = ring_cache(options["alias"] or "default")
        self._say(f"listening for {options['live']:g} s; each node sends all that it is asked meanwhile")
        nodes = cache.client.nodes[: len(cache.client.ring)]
        keys = read_keys(nodes, cache.pattern, options["live"])
        some = list(dict.fromkeys(keys))[:WEIGHED_KEYS]
        taken = cache.client.run(protocol.memory_usage(cache.client.context, some))
        return Trace.of_reads(keys), round(sum(taken) / len(taken), 1) if taken else None

    def _progress(self, looked: int) -> None:
        if not self._is_json:
            self.stderr.write(f"{looked} keys looked at")

    def _say(self, text: str) -> None:
        if not self._is_json:
            self.stdout.write(text)

    def _table(self, names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        if not self._is_json:
            print_table(self.stdout, names, rows)


_COLUMNS = ("node", "state", "owed", "share", "server", "memory", "policy", "keys", "evicted")


def _sizes(given: str | None) -> list[int]:
    """Return the sizes that were given, the smallest first."""
    try:
        sizes = sorted({int(size) for size in (given or "").split(",") if size})
    except ValueError:
        sizes = [0]
    if sizes and sizes[0] < 1:
        message = f"--sizes are whole numbers from 1, with commas between, not {given!r}"
        raise CommandError(message)
    return sizes


def _check_writable(path: Path) -> None:
    """Complain of a file that cannot be written, before minutes are spent on what is to be in it."""
    try:
        path.touch()
    except OSError as error:
        message = f"--svg: {path} cannot be written: {error.strerror}"
        raise CommandError(message) from error


def _clients(alias: str | None) -> list[tuple[str, RingClient]]:
    return [(name, ring_cache(name).client) for name in ([alias] if alias else ring_aliases())]


def _lag() -> float:
    """Return for how many seconds the oldest delete has been owed."""
    return max((outbox_lag(using) for using in connections if has_outbox(using)), default=0.0)
