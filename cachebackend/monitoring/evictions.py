"""Evictions: how many keys a node evicts in a second, beside how many are usual for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.errors import RingCacheError

__all__ = ["MIN_RATE_SECONDS", "Evictions", "evictions_of", "look_first"]

#: A rate over a shorter time than this number of seconds says nothing.
MIN_RATE_SECONDS = 1.0
#: The most runs of servers that are remembered.
MAX_RUNS = 500
#: More evictions per second than this number, and this number of times the usual ones, are unusual.
UNUSUAL_RATE, UNUSUAL_TIMES = 1.0, 10.0


class Evictions(NamedTuple):
    """The evictions of a node.

    Attributes:
        per_second: Keys evicted per second between the last two looks of this process.
        usual: The same from the start of the node to the first of these looks.
    """

    per_second: float
    usual: float

    @property
    def are_unusual(self) -> bool:
        """Whether the node evicts many more keys than usual."""
        return self.per_second > UNUSUAL_RATE + UNUSUAL_TIMES * self.usual


class _Look(NamedTuple):
    """A look at a run of a server: when it was, what the run had evicted then, and what was found."""

    at: float
    evicted: int
    found: Evictions | None = None


#: The last look at each run of a server.
_looks: dict[str, _Look] = {}


def evictions_of(info: Mapping[str, str], now: float | None = None) -> Evictions | None:
    """Return the evictions of a node since this process last looked; None at its first look.

    A look that comes too soon after the last one returns what the last one found.

    Args:
        info: The node's ``INFO``.
        now: The time by a monotonic clock; None: the present one.
    """
    run, evicted = info.get("run_id"), protocol.telemetry.number_of(info, "evicted_keys")
    uptime = protocol.telemetry.number_of(info, "uptime_in_seconds")
    if not run or evicted is None or uptime is None:
        return None
    at = time.monotonic() if now is None else now
    last = _looks.get(run)
    if last is not None and at - last.at < MIN_RATE_SECONDS:
        return last.found
    if len(_looks) > MAX_RUNS:
        _looks.clear()
    found = None
    if last is not None:
        seconds = max(at - last.at, MIN_RATE_SECONDS)
        found = Evictions((evicted - last.evicted) / seconds, last.evicted / max(uptime - seconds, 1.0))
    _looks[run] = _Look(at, evicted, found)
    return found


def look_first(clients: Iterable[RingClient]) -> bool:
    """Look at the nodes of some clients; return whether a later look may find that one evicts keys."""
    has_evicted = False
    for client in clients:
        for info in client.run(protocol.telemetry.node_infos(client.context, client.indexes)):
            if not isinstance(info, RingCacheError):
                evictions_of(info)
                has_evicted |= bool(protocol.telemetry.number_of(info, "evicted_keys"))
    return has_evicted
