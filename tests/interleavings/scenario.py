"""A scenario: the actors, the first contents of the nodes, and the accidents that may happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from cachebackend.codec import Codec, Refresh
from cachebackend.node import Node
from cachebackend.protocol import MISSING, FillOptions
from tests.interleavings.clocks import NOW
from tests.interleavings.readers import DirectReader, DirectReaderOfTwo, Reader, ReaderOfTwo
from tests.interleavings.world import KEY, TAG, World
from tests.interleavings.writers import StrictWriter, Writer

__all__ = ["Scenario", "values"]

MINUTE = FillOptions(60_000)


@dataclass(frozen=True)
class Scenario:
    """The actors, the first contents of the nodes, and the accidents that may happen.

    Attributes:
        actors: Their classes; each schedule creates new ones.
        before: Commands that the first node receives before the schedule.
        accidents: How many times each may happen: ``lapse``, ``evict``, ``flush``, ``fail0``, ``fail1``
            (a node that failed returns later), ``lose``: a request for a lease gets no reply, and arrives
            later; and ``relay``: the relay runs while actors can still move.
        fill_options: The options with which readers fill.
        by_tag: Writers delete the tag instead of the key.
        has_gutter: The second node is the gutter.
        deploys: For each actor the deploy of the ring change that its process runs; empty if the ring does
            not change.
        relay: The deploy that the relay runs.
        is_one_process: All actors are threads of one process.
        replay_limit: The largest number of keys that are replayed to a node one by one.
        is_absent_at_first: The row does not exist before the first commit, and its absence is not cached.
    """

    actors: tuple[type[Reader] | type[Writer], ...]
    before: tuple[tuple[Any, ...], ...] = ()
    accidents: tuple[tuple[str, int], ...] = ()
    fill_options: FillOptions = MINUTE
    by_tag: bool = False
    has_gutter: bool = False
    deploys: tuple[str, ...] = ()
    relay: str = "old"
    is_one_process: bool = False
    replay_limit: int = 10_000
    is_absent_at_first: bool = False

    def world(self, nodes: tuple[Node, Node]) -> World:
        """Return the world in which a schedule begins."""
        return World(nodes, self)

    def stepped_code(self) -> AbstractContextManager[Any]:
        """Return a context in which code that blocks in production is stepped."""
        return nullcontext()

    def read_directly(self) -> Scenario:
        """Return the same scenario, with readers that call the client's own methods."""
        instead: dict[type[Reader] | type[Writer], type[Reader]] = {
            Reader: DirectReader,
            ReaderOfTwo: DirectReaderOfTwo,
        }
        return replace(self, actors=tuple(instead.get(actor, actor) for actor in self.actors))

    @property
    def target(self) -> bytes:
        """The key that writers delete."""
        return TAG if self.by_tag else KEY

    @property
    def has_two_nodes(self) -> bool:
        """Whether the scenario uses the second node."""
        return self.has_gutter or bool(self.deploys)

    @property
    def is_strict(self) -> bool:
        """Whether all writers are strict."""
        return all(issubclass(actor, StrictWriter | Reader) for actor in self.actors)

    def load(self, reader: Reader) -> Any:
        """Return the version of the row that a reader sees in the database; MISSING if there is no row."""
        snapshot = getattr(reader, "snapshot", None)
        version = reader.world.committed if snapshot is None else snapshot
        return MISSING if self.is_absent_at_first and version == 0 else version


def values(version: int, fill_options: FillOptions, *, fresh: bool = False) -> Iterator[tuple[Any, ...]]:
    """Yield the commands that store a loaded value, either fresh or past its ``fresh_until``."""
    record = Codec("auto").encode(version, KEY, Refresh(NOW + 60 if fresh else NOW - 1, 0.1))
    life_ms = (fill_options.ttl_ms or 0) + fill_options.stale_ms
    yield (b"SET", KEY, record, b"PX", b"%d" % life_ms)
