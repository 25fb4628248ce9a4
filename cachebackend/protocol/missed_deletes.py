"""Missed deletes: keys that a node may still hold although they were deleted, because it did not answer.

They are recorded in this process, which replays them to the node before it reads it again. They
are also handed to an outbox, where a crash does not lose them and every process sees them. A key
that was handed over a moment ago is not handed over again. Later it must be, although it is still
recorded here:

    1. process A  has ejected the node, and deletes the key: an outbox row
    2. relay      has not: deletes the key there, and deletes the row
    3. process B  fills the key
    4. process A  deletes the key again

No relay acts on a row that is younger than ``SETTLING_SECONDS``. So if 4 comes within half of that
time after 1, then 2 comes after 4, and one row is enough for both.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cachebackend.clock import Clock

__all__ = ["ALL_KEYS", "SETTLING_SECONDS", "MissedDeletes", "MissedKeys", "Outbox"]

#: Seconds for which a new outbox row is left to the process that wrote it.
SETTLING_SECONDS = 1.0
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class MissedKeys:
    """The keys whose delete a node missed.

    Attributes:
        keys: The keys.
        is_all_keys: Whether it missed the delete of every key of the aliases that share the client.
    """

    keys: tuple[bytes, ...] = ()
    is_all_keys: bool = False

    def __bool__(self) -> bool:
        return self.is_all_keys or bool(self.keys)


ALL_KEYS = MissedKeys(is_all_keys=True)


class Outbox(Protocol):
    """Stores missed deletes where all processes see them, and where they survive the process."""

    def keep(self, node: str, missed: MissedKeys) -> bool:
        """Store what a node missed, by its endpoint; return whether it is committed. Never raises."""
        ...

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        """Return what a node missed from any process; ALL_KEYS if that is more than ``limit`` keys."""
        ...


class MissedDeletes:
    """The deletes that nodes missed, for one alias in one process.

    Args:
        limit: The most keys that are recorded for a node. A node that missed more is cleared of all
            its keys.
        clock: The clock.
    """

    def __init__(self, limit: float, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        #: By node: each key it missed (None: all keys), and when an outbox was last known to store it.
        self._recorded: dict[int, dict[bytes | None, float]] = {}
        #: What is being replayed to nodes.
        self._replaying: dict[int, MissedKeys] = {}
        #: The keys whose deletes no node of a cluster can confirm now, each with a node of that cluster; and
        #: the number that the last of its deletes has.
        self._postponed: dict[tuple[int, bytes], int] = {}
        self._next_number = itertools.count().__next__

    def add(self, node: int, missed: MissedKeys) -> MissedKeys:
        """Record what a node missed; return the part that an outbox must store."""
        with self._lock:
            recorded = self._recorded.setdefault(node, {})
            names: Sequence[bytes | None] = missed.keys
            for name in names:
                recorded.setdefault(name, _NEVER)
            if missed.is_all_keys or None in recorded or len(recorded) > self.limit:
                recorded = self._recorded[node] = {None: recorded.get(None, _NEVER)}
                names = [None]
            recent = self._clock.monotonic() - SETTLING_SECONDS / 2
            return _missed_keys(name for name in names if recorded[name] < recent)

    def kept(self, node: int, missed: MissedKeys, since: float) -> None:
        """Record that an outbox has stored what a node missed, at a (monotonic) time in seconds."""
        with self._lock:
            recorded = self._recorded.get(node, {})
            for name in [None] if missed.is_all_keys else missed.keys:
                if name in recorded:
                    recorded[name] = since

    def take(self, node: int) -> MissedKeys:
        """Return what a node missed, and forget it; call ``replayed`` when its replay has ended.

        If it is ALL_KEYS, slots that leave the node take it along until then: a key that the clear has not
        found yet may move with them.
        """
        with self._lock:
            missed = _missed_keys(self._recorded.get(node, ()))
            if missed:
                self._replaying[node] = missed  # first: a fork may come in between
                del self._recorded[node]
            return missed

    def replayed(self, node: int) -> None:
        """Record that a replay to a node has ended."""
        with self._lock:
            self._replaying.pop(node, None)

    def postpone(self, node: int, keys: Iterable[bytes]) -> bool:
        """Record deletes that no node can confirm now, because a cluster is changing.

        They are tried again with the next replay to the owners of the keys, and when slots get other owners.

        Args:
            node: The node that had the keys before.
            keys: The keys.

        Returns:
            Whether they are recorded: there may be too many.
        """
        with self._lock:
            postponed = self._postponed | {(node, key): self._next_number() for key in keys}
            if len(postponed) > self.limit:
                return False
            self._postponed = postponed
            return True

    def postponed(self, members: Collection[int]) -> list[tuple[bytes, int]]:
        """Return the keys whose deletes were postponed, and which one of some nodes had before.

        Each has the number of its last delete, which is another one if the key was deleted again.
        """
        with self._lock:
            return [(key, number) for (node, key), number in self._postponed.items() if node in members]

    @property
    def has_postponed(self) -> bool:
        """Whether deletes are postponed."""
        return bool(self._postponed)

    def holders_of_postponed(self, holder: Callable[[int, bytes], int | None]) -> set[int]:
        """Return the nodes that now have keys whose deletes were postponed.

        ``holder`` returns the node that has a key now, if a node had it before; None: no server has its slot.
        """
        with self._lock:
            holders = {holder(*each) for each in self._postponed}
        return {each for each in holders if each is not None}

    def resume(self, node: int, holder: Callable[[int, bytes], int | None]) -> None:
        """Record for a node the deletes that were postponed and concern it.

        Args:
            node: The index of the node.
            holder: Returns the node that has a key now, if a node had it before; None: no server has its
                slot, and the delete stays postponed.
        """
        with self._lock:
            for former, key in [each for each in self._postponed if holder(*each) == node]:
                self._recorded.setdefault(node, {}).setdefault(key, _NEVER)
                del self._postponed[former, key]

    def rehome(
        self, owner: Callable[[bytes], int], moves: Collection[tuple[int, int]], members: Collection[int]
    ) -> set[int]:
        """Record missed deletes for the present owners of the keys; return the nodes that got some.

        Args:
            owner: Returns the owner of a key, by its index.
            moves: The old and the new owner of the slots that move. A node that missed the delete of all its
                keys leaves that to the new owners.
            members: The nodes of the cluster; what other nodes missed, or had before, stays as it is.
        """
        with self._lock:
            recorded, rehomed = self._recorded, dict[int, dict[bytes | None, float]]()
            for node, names in recorded.items():
                for name, since in names.items():
                    new = node if name is None or node not in members else owner(name)
                    rehomed.setdefault(new, {})[name] = since
            postponed = [each for each in self._postponed if each[0] in members]
            kept = {each: number for each, number in self._postponed.items() if each[0] not in members}
            for _, key in postponed:
                rehomed.setdefault(owner(key), {}).setdefault(key, _NEVER)
            for old, new in moves:
                if None in recorded.get(old, {}) or self._replaying.get(old) == ALL_KEYS:
                    rehomed[new] = {None: _NEVER}
            # In one step: a signal handler may raise before it
            self._recorded, self._postponed = rehomed, kept
            return {node for node, names in rehomed.items() if names.keys() - recorded.get(node, {}).keys()}

    def count(self, node: int) -> int | None:
        """Return how many deletes a node missed; None: it missed the delete of all its keys."""
        with self._lock:
            recorded = self._recorded.get(node, {})
            return None if None in recorded else len(recorded)

    def has_missed(self, node: int, key: bytes) -> bool:
        """Return whether a node missed the delete of a key."""
        with self._lock:
            recorded = self._recorded.get(node, {})
            return key in recorded or None in recorded

    def after_fork(self) -> None:
        """Forget the parent's replays, in a forked child: the child does not have the threads that run them.

        The lock is new, because another thread of the parent may have held the old one.
        """
        self._lock = threading.Lock()
        replaying, self._replaying = self._replaying, {}
        for node, missed in replaying.items():
            self.add(node, missed)


def _missed_keys(names: Iterable[bytes | None]) -> MissedKeys:
    keys = list(names)
    return ALL_KEYS if None in keys else MissedKeys(tuple(key for key in keys if key is not None))
