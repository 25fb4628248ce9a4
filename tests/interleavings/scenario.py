"""A scenario: who acts, what the nodes hold at first, and which accidents may happen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cachebackend.codec import Codec, Refresh
from cachebackend.protocol import FillOptions
from tests.interleavings.clocks import NOW
from tests.interleavings.readers import DirectReader, DirectReaderOfTwo, Reader, ReaderOfTwo
from tests.interleavings.world import KEY, TAG
from tests.interleavings.writers import StrictWriter, Writer

__all__ = ["Scenario", "values"]

MINUTE = FillOptions(60_000)


@dataclass(frozen=True)
class Scenario:
    """Who acts, what stands at first, and what may happen besides.

    Attributes:
        actors: Made anew for each schedule.
        before: Commands that make the first node what it is at first.
        accidents: How often each may happen: ``lapse``, ``evict``, ``flush``, ``fail0``, ``fail1``
            (who failed returns), and ``relay``: that it moves while others may.
        keep: How readers keep what they load.
        by_tag: Writers delete the tag instead of the key.
        has_gutter: The second node is the gutter.
        deploys: What each actor's settings say of the change of the ring; none: there is no change.
        relay: What the relay's say.
        is_one_process: All actors are threads of one process.
        replay_limit: How many keys a node is told one by one.
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

    def read_directly(self) -> Scenario:
        """Return the same scenario, with readers that call the client's own methods."""
        instead: dict[type[Reader] | type[Writer], type[Reader]] = {
            Reader: DirectReader,
            ReaderOfTwo: DirectReaderOfTwo,
        }
        return replace(self, actors=tuple(instead.get(actor, actor) for actor in self.actors))

    @property
    def target(self) -> bytes:
        """What writers delete."""
        return TAG if self.by_tag else KEY

    @property
    def has_two_nodes(self) -> bool:
        """Whether the second node is there, too."""
        return self.has_gutter or bool(self.deploys)

    @property
    def is_strict(self) -> bool:
        """Whether all writers are."""
        return all(issubclass(actor, StrictWriter | Reader) for actor in self.actors)

    def load(self, reader: Reader) -> int:
        """Return the row's version, as a reader's database shows it to it."""
        snapshot = getattr(reader, "snapshot", None)
        return reader.world.committed if snapshot is None else snapshot


def values(version: int, fill_options: FillOptions, *, fresh: bool = False) -> Iterator[tuple[Any, ...]]:
    """Yield the commands that make a loaded value stand, past its time already or fresh."""
    record = Codec("auto").encode(version, Refresh(NOW + 60 if fresh else NOW - 1, 0.1))
    yield (b"SET", KEY, record, b"PX", (fill_options.ttl_ms or 0) + fill_options.stale_ms)
