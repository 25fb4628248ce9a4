"""``ring simulate``: reads a trace, or the commands that nodes receive, and reports hit ratios."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from cachebackend import protocol
from cachebackend.backend import ring_cache
from cachebackend.management import simulation
from cachebackend.management.report import Report, ReportCommand
from cachebackend.management.traces import Trace, TraceError, read_trace
from cachebackend.node.monitor import read_keys

__all__ = ["simulate"]

#: The most keys whose memory is measured, for the average size of an entry.
MAX_MEASURED_KEYS = 1000


def simulate(command: ReportCommand, options: dict[str, Any]) -> Report:
    """Report the hit ratio of each policy at each size, and the smallest size that is enough."""
    _check(options)
    given_sizes = _sizes(options["sizes"])
    trace, entry_bytes = _trace(command, options)
    reads = len(trace) - sum(trace.writes)
    if not reads:
        message = "no key was read: there is nothing to simulate"
        raise CommandError(message)
    sizes = given_sizes or simulation.default_sizes(trace)
    sample, rate = simulation.sampled(trace)
    if rate < 1:
        command.say(f"of {len(trace):,} requests, those of {rate:.0%} of the keys are simulated")
    hit_ratios = simulation.curves(sample, sizes, rate, command.say)
    rows = [(name, *(f"{ratio:.1%}" for ratio in ratios)) for name, ratios in hit_ratios.items()]
    command.print_table(("hit ratio", *(f"{size:,}" for size in sizes)), rows)
    sentence = simulation.advice(sizes, hit_ratios, options["keep"] / 100, entry_bytes)
    command.say(sentence)
    if options["svg"] is not None:
        options["svg"].write_text(simulation.miss_ratio_chart(sizes, hit_ratios))
    rounded = {name: [round(ratio, 4) for ratio in ratios] for name, ratios in hit_ratios.items()}
    counts = {"requests": reads, "writes": len(trace) - reads, "entry_bytes": entry_bytes}
    return Report(counts | {"sizes": sizes, "hit_ratios": rounded, "advice": sentence})


def _check(options: dict[str, Any]) -> None:
    """Raise CommandError for options that cannot work, before minutes are spent on the simulation."""
    if (options["trace"] is None) == (options["live"] is None):
        message = "name a trace, or --live SECONDS to read the commands of the nodes"
        raise CommandError(message)
    if options["live"] is not None and not 0 < options["live"] < math.inf:
        message = f"--live must be a number of seconds above 0, such as --live 30, not {options['live']:g}"
        raise CommandError(message)
    if not 0 < options["keep"] <= 100:
        message = f"--keep is a number above 0 and up to 100, not {options['keep']:g}"
        raise CommandError(message)
    if options["svg"] is not None:
        _check_writable(options["svg"])


def _trace(command: ReportCommand, options: dict[str, Any]) -> tuple[Trace, float | None]:
    """Return the requests to simulate, and the average size of an entry in bytes, if it is known.

    The requests come from a file, or from the nodes from now on.
    """
    if options["live"] is None:
        try:
            return read_trace(options["trace"]), None
        except TraceError as error:
            raise CommandError(str(error)) from error
    cache = ring_cache(options["alias"] or "default")
    command.say(f"listening for {options['live']:g} s; meanwhile each node sends a copy of every command")
    client = cache.client
    nodes = [client.nodes[index] for index in client.indexes if index < len(client.ring)]
    keys = read_keys(nodes, cache.pattern, options["live"])
    measured = list(dict.fromkeys(keys))[:MAX_MEASURED_KEYS]
    sizes = cache.client.run(protocol.telemetry.memory_usage(cache.client.context, measured))
    return Trace.of_reads(keys), round(sum(sizes) / len(sizes), 1) if sizes else None


def _sizes(text: str | None) -> list[int]:
    """Return the sizes that were given, the smallest first."""
    try:
        sizes = sorted({int(size) for size in (text or "").split(",") if size})
    except ValueError:
        sizes = [0]
    if sizes and sizes[0] < 1:
        message = f"--sizes are whole numbers from 1, with commas between, not {text!r}"
        raise CommandError(message)
    return sizes


def _check_writable(path: Path) -> None:
    try:
        path.touch()
    except OSError as error:
        message = f"--svg: {path} cannot be written: {error.strerror}"
        raise CommandError(message) from error
