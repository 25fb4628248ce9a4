"""Mutants of replay, orphan leases and ring change: the explorer must find a wrong schedule with each.

Each removes one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cachebackend import protocol
from cachebackend.client import single
from cachebackend.effects import Operation, Reply, Send
from cachebackend.node import Breaker, Node
from cachebackend.protocol import Context, missed_deletes
from cachebackend.protocol.cache import lease as lease_module
from cachebackend.protocol.cache import load as load_module
from cachebackend.protocol.cache import warm as warm_module
from cachebackend.protocol.cache.compare_and_set import CompareAndSet
from cachebackend.protocol.missed_deletes import MissedDeletes, MissedKeys
from cachebackend.protocol.ring import clear as clear_module
from cachebackend.protocol.ring import node_deletes, ring_change
from cachebackend.protocol.ring import replay as replay_module
from tests.interleavings.outbox import Outbox
from tests.interleavings.readers import ReaderOfTwo
from tests.interleavings.scenario import Scenario
from tests.interleavings.search import explore
from tests.interleavings.test_schedules import FAILS, OLD, RELAY, SCENARIOS
from tests.interleavings.writers import Clearer, StrictStatement

Patch = pytest.MonkeyPatch


def nothing(*_: Any, **__: Any) -> Operation[list[bytes]]:
    return []
    yield


def a_delete_that_removes_a_quarantine(patch: Patch) -> None:
    """The relay deletes the key of a strict writer's intent by a plain DEL."""

    class Plain:
        @staticmethod
        def call(keys: Sequence[bytes]) -> tuple[Any, ...]:
            return (b"DEL", *keys)

    patch.setattr(node_deletes, "_DELETE", Plain)


def a_breaker_that_closes_without_replay(patch: Patch) -> None:
    """The breaker closes as soon as a probe is answered."""
    patch.setattr(replay_module, "_replay_keys", nothing)


def a_replay_of_this_process_missed_deletes_only(patch: Patch) -> None:
    """Missed deletes of other processes, which only the outbox has, are not replayed."""
    patch.setattr(Outbox, "missed_by", lambda *_: MissedKeys())


def a_breaker_that_closes_without_a_second_check(patch: Patch) -> None:
    """Deletes that the node missed during the replay are not sent before the breaker closes."""
    close = Breaker.close
    patch.setattr(Breaker, "close", lambda self, _: close(self))


def a_key_that_is_stored_in_the_outbox_once(patch: Patch) -> None:
    """A second missed delete of a key is never stored, although a relay may have settled the first one."""
    patch.setattr(missed_deletes, "SETTLING_SECONDS", float("inf"))


def a_missed_clear_that_is_not_stored(patch: Patch) -> None:
    """A missed clear is only in the memory of the process, not in the outbox."""
    add = MissedDeletes.add

    def without_everything(self: MissedDeletes, node: int, missed: MissedKeys) -> MissedKeys:
        new = add(self, node, missed)
        return MissedKeys() if new.is_all_keys else new

    patch.setattr(MissedDeletes, "add", without_everything)


def a_missed_clear_that_is_replayed_to_one_node_only(patch: Patch) -> None:
    """Values that were warmed from the node in the meantime stay at the new owner."""

    def alone(context: Context, pattern: bytes, nodes: Sequence[int]) -> Operation[bool]:
        return not (yield from clear_module.delete_matching(context, pattern, nodes)).failures

    patch.setattr(protocol, "clear_missed", alone)


def a_delete_to_the_current_owner_only(patch: Patch) -> None:
    """The other ring does not receive the delete."""
    patch.setattr(ring_change, "_delete_in_other_ring", nothing)


def a_write_without_the_delete_in_the_old_ring(patch: Patch) -> None:
    """A write does not begin with the delete in the old ring."""
    patch.setattr("cachebackend.protocol.ring.write.delete_in_old_ring", nothing)


def a_write_without_the_delete_in_the_new_ring(patch: Patch) -> None:
    """A write does not end with the delete in the new ring."""
    patch.setattr("cachebackend.protocol.ring.write.delete_in_new_ring", nothing)


def a_delete_in_both_rings_at_once(patch: Patch) -> None:
    """The delete at the new owner comes before the one at the old owner."""
    delete = ring_change._delete_in_other_ring

    def after(context: Context, keys: Sequence[bytes], *, in_outbox: bool) -> Any:
        if context.ring_change is None:
            return []
        return (yield from delete(context, keys, in_outbox))

    patch.setattr("cachebackend.protocol.ring.write.delete_in_old_ring", nothing)
    patch.setattr("cachebackend.protocol.ring.write.delete_in_new_ring", after)


def a_warm_read_without_a_lease(patch: Patch) -> None:
    """The value of the old owner is set at the new owner without comparing."""

    def take(_: Context, swaps: Sequence[CompareAndSet]) -> Operation[list[Reply]]:
        replies: list[Reply] = yield Send(
            [
                (swap.node, (b"SET", swap.key, swap.new, b"PX", b"%d" % max(swap.ttl_ms, 1000)))
                for swap in swaps
            ]
        )
        return replies

    patch.setattr(warm_module, "send_conditional", take)


def an_orphan_used_again(patch: Patch) -> None:
    """A reader asks for the lease with the token of a request that got no reply, and may arrive later."""
    begin_lease = lease_module.begin_lease

    def begin(context: Any, key: bytes) -> Any:
        lease, request = begin_lease(context, key)
        for _, record in context.orphans.of(lease.node):
            lease.token = record[1:]
            request = lease.conditional(context.lease_ms).request(context)
        return lease, request

    patch.setattr(load_module, "begin_lease", begin)
    patch.setattr(single, "begin_lease", begin)


MUTANTS: dict[Callable[[Patch], None], Scenario] = {
    # With the actors in this order the explorer finds the wrong schedule early; the schedules are the same
    a_delete_that_removes_a_quarantine: Scenario((StrictStatement, ReaderOfTwo), (), FAILS + RELAY),
    a_breaker_that_closes_without_replay: SCENARIOS["a node that fails: a reader of two, a writer"],
    a_replay_of_this_process_missed_deletes_only: SCENARIOS["a node that fails: a reader of two, a writer"],
    a_breaker_that_closes_without_a_second_check: SCENARIOS[
        "a node that fails: one process: a reader of two, a plain writer"
    ],
    a_key_that_is_stored_in_the_outbox_once: SCENARIOS["a node that fails: a reader, a plain writer of two"],
    a_missed_clear_that_is_not_stored: Scenario((Clearer,), OLD, FAILS),
    a_missed_clear_that_is_replayed_to_one_node_only: SCENARIOS[
        "a ring that changes: a node that fails, a clearer"
    ],
    a_delete_to_the_current_owner_only: SCENARIOS["a ring that changes: leaving and joining"],
    a_write_without_the_delete_in_the_old_ring: SCENARIOS["a ring that changes: leaving and leaving"],
    a_write_without_the_delete_in_the_new_ring: SCENARIOS["a ring that changes: leaving and joining"],
    a_delete_in_both_rings_at_once: SCENARIOS["a ring that changes: leaving and leaving"],
    a_warm_read_without_a_lease: SCENARIOS["a ring that changes: leaving and leaving"],
    an_orphan_used_again: SCENARIOS["a request that gets no reply: one process: two readers, a plain writer"],
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_explorer_catches_the_mutant(
    node: Node, spare: Node, mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """With the mutant a schedule is wrong; ``tests/interleavings`` proves that none is without it."""
    mutant(monkeypatch)
    assert explore((node, spare), MUTANTS[mutant], stop_at_first=True).wrong
    assert explore((node, spare), MUTANTS[mutant].read_directly(), stop_at_first=True).wrong
