"""Where time and memory go: the hottest and the biggest keys, and what the commands of each node take.

All of it is asked for when a person looks: a limited number of commands, and none that slows a node down.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from cachebackend import protocol
from cachebackend.backend import ring_cache
from cachebackend.client import RingClient
from cachebackend.errors import RingCacheError
from cachebackend.key_counts import group_of
from cachebackend.telemetry.publisher import publish_counts
from cachebackend.telemetry.query_counts import hottest_keys

__all__ = ["CommandFigures", "GroupSize", "KeySize", "UsageFigures", "commands_of", "usage_figures"]

#: The random keys of each node whose memory is read.
SAMPLES = 200
#: The most keys, groups and commands of a node that are returned.
MAX_KEYS, MAX_GROUPS, MAX_COMMANDS = 20, 20, 12
#: The hours over which gets are summed, the present one included.
HOURS = 2
_CALLS = re.compile(r"calls=(\d+)")
_PERCENTILE = re.compile(r"p(50|99)=(\d+\.\d+)(?![\d.])")


class KeySize(NamedTuple):
    """A key that was sampled.

    Attributes:
        key: The key as the node stores it.
        node: The node's name.
        size: The bytes that it takes.
    """

    key: str
    node: str
    size: int


class GroupSize(NamedTuple):
    """A group of keys in a sample.

    Attributes:
        group: The group; empty for results of queries.
        keys: How many keys of it were sampled.
        share: Its share of the memory of all sampled keys, 0 to 1.
        mean_bytes: The mean of the bytes that a key takes.
    """

    group: str
    keys: int
    share: float
    mean_bytes: float


class CommandFigures(NamedTuple):
    """A command of a node, since the node was started.

    Attributes:
        node: The node's name.
        command: The command.
        calls: How often it ran, for any client.
        p50_seconds: The median of the time that the node took; None if it is not reported.
        p99_seconds: The 99th percentile.
    """

    node: str
    command: str
    calls: int
    p50_seconds: float | None
    p99_seconds: float | None

    @property
    def times_text(self) -> tuple[str, str]:
        """Both as text, in microseconds."""
        times = (self.p50_seconds, self.p99_seconds)
        p50, p99 = ("unknown" if time is None else f"{1_000_000 * time:,.0f} µs" for time in times)
        return p50, p99


class UsageFigures(NamedTuple):
    """Where the time and the memory of an alias' nodes go.

    Attributes:
        alias: The alias.
        hottest: About how often each of the hottest keys was read, the most frequent first.
        biggest: The biggest of the sampled keys.
        groups: The groups of the sampled keys, those with the most memory first.
        sampled: How many keys were sampled.
        commands: The commands of each node, the most frequent first.
        error: Why the hottest keys are not known; empty if they are.
        unanswered: The nodes that did not answer, each with its error: their keys and commands are not known.
    """

    alias: str
    hottest: dict[str, int]
    biggest: list[KeySize]
    groups: list[GroupSize]
    sampled: int
    commands: list[CommandFigures]
    error: str = ""
    unanswered: Mapping[str, str] = {}


def usage_figures(alias: str, samples: int = SAMPLES) -> UsageFigures:
    """Return where the time and the memory of an alias' nodes go; a node that does not answer is named.

    Args:
        alias: The cache alias.
        samples: The random keys of each node whose memory is read.
    """
    publish_counts(alias)
    client = ring_cache(alias).client
    hottest, error = {}, ""
    try:
        hottest = dict(list(hottest_keys(alias, HOURS).items())[:MAX_KEYS])
    except RingCacheError as unread:
        error = str(unread)
    sizes = {
        client.nodes[index].name: client.run(
            protocol.telemetry.random_key_sizes(client.context, index, samples)
        )
        for index in client.indexes
    }
    found = [
        KeySize(key.decode(errors="backslashreplace"), name, size)
        for name, own in sizes.items()
        for key, size in own.items()
    ]
    biggest = sorted(found, key=lambda each: -each.size)[:MAX_KEYS]
    infos = _command_infos(client)
    errors = {name: str(info) for name, info in infos.items() if isinstance(info, RingCacheError)}
    commands = [
        each
        for name, info in infos.items()
        if not isinstance(info, RingCacheError)
        for each in commands_of(name, info)
    ]
    return UsageFigures(alias, hottest, biggest, _groups(sizes), len(found), commands, error, errors)


def _groups(sizes: Mapping[str, Mapping[bytes, int]]) -> list[GroupSize]:
    keys: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    for own in sizes.values():
        for key, size in own.items():
            keys[group_of(key)] += 1
            memory[group_of(key)] += size
    total = sum(memory.values())
    return [
        GroupSize(group, keys[group], size / total if total else 0.0, size / keys[group])
        for group, size in memory.most_common(MAX_GROUPS)
    ]


def _command_infos(client: RingClient) -> dict[str, dict[str, str] | RingCacheError]:
    """Return what each node reports of its commands, or its error."""
    indexes = client.indexes
    infos = client.run(protocol.telemetry.command_infos(client.context, indexes))
    return {client.nodes[index].name: info for index, info in zip(indexes, infos, strict=True)}


def commands_of(node: str, info: Mapping[str, str]) -> list[CommandFigures]:
    """Return the most frequent commands of a node, from its ``INFO commandstats latencystats``."""
    found = []
    for name, text in info.items():
        if name.startswith("cmdstat_") and (calls := _CALLS.search(text)):
            command = name.removeprefix("cmdstat_")
            times = dict(_PERCENTILE.findall(info.get(f"latency_percentiles_usec_{command}", "")))
            p50, p99 = (_seconds(times.get(each)) for each in ("50", "99"))
            found.append(CommandFigures(node, command.replace("|", " "), int(calls[1]), p50, p99))
    return sorted(found, key=lambda each: -each.calls)[:MAX_COMMANDS]


def _seconds(micros: str | None) -> float | None:
    return None if micros is None else float(micros) / 1_000_000
