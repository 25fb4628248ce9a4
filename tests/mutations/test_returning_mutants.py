"""Each line that a node's return, or a change of the ring, rests on, taken out: the explorer must notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cachebackend import protocol
from cachebackend.effects import Operation, Reply, Send
from cachebackend.node import Breaker, Node
from cachebackend.protocol import Context, missed_deletes
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


def a_delete_that_takes_a_quarantine(patch: Patch) -> None:
    """The relay acts on the intent of a strict writer by a plain DEL."""

    class Plain:
        @staticmethod
        def call(keys: Sequence[bytes]) -> tuple[Any, ...]:
            return (b"DEL", *keys)

    patch.setattr(node_deletes, "_DELETE", Plain)


def a_breaker_that_closes_without_replay(patch: Patch) -> None:
    """A probe that is answered is enough."""
    patch.setattr(replay_module, "_replay_keys", nothing)


def a_replay_of_what_this_process_noted_alone(patch: Patch) -> None:
    """What others owe, the outbox only knows."""
    patch.setattr(Outbox, "missed_by", lambda *_: MissedKeys())


def a_breaker_that_closes_without_another_look(patch: Patch) -> None:
    """What is missed while the node is told is told later."""
    close = Breaker.close
    patch.setattr(Breaker, "close", lambda self, _: close(self))


def a_key_that_is_handed_to_the_outbox_once(patch: Patch) -> None:
    """However long ago."""
    patch.setattr(missed_deletes, "SETTLING_SECONDS", float("inf"))


def a_clear_that_the_memory_alone_has(patch: Patch) -> None:
    """Everything that a node owes is not kept in the outbox."""
    add = MissedDeletes.add

    def without_everything(self: MissedDeletes, node: int, owed: MissedKeys) -> MissedKeys:
        new = add(self, node, owed)
        return MissedKeys() if new.is_all_keys else new

    patch.setattr(MissedDeletes, "add", without_everything)


def a_clear_that_was_missed_and_is_made_there_alone(patch: Patch) -> None:
    """What was warmed from the node meanwhile stays."""

    def alone(context: Context, pattern: bytes, nodes: Sequence[int]) -> Operation[bool]:
        return not (yield from clear_module.delete_matching(context, pattern, nodes)).failures

    patch.setattr(protocol, "clear_missed", alone)


def a_delete_to_the_current_owner_only(patch: Patch) -> None:
    """The other ring is not told."""
    patch.setattr(ring_change, "_delete_in_other_ring", nothing)


def a_write_without_the_delete_in_the_old_ring(patch: Patch) -> None:
    """The bracket of writes lacks its first half."""
    patch.setattr("cachebackend.protocol.ring.write.delete_in_old_ring", nothing)


def a_write_without_the_delete_in_the_new_ring(patch: Patch) -> None:
    """The bracket of writes lacks its last half."""
    patch.setattr("cachebackend.protocol.ring.write.delete_in_new_ring", nothing)


def a_delete_in_both_rings_at_once(patch: Patch) -> None:
    """The one at the new owner comes first."""
    delete = ring_change._delete_in_other_ring

    def after(context: Context, keys: Sequence[bytes], *, in_outbox: bool) -> Any:
        if context.ring_change is None:
            return []
        return (yield from delete(context, keys, in_outbox))

    patch.setattr("cachebackend.protocol.ring.write.delete_in_old_ring", nothing)
    patch.setattr("cachebackend.protocol.ring.write.delete_in_new_ring", after)


def a_warm_read_without_a_lease(patch: Patch) -> None:
    """What stood at the old owner is set at the new one, whatever stands there by now."""

    def take(_: Context, swaps: Sequence[CompareAndSet]) -> Operation[list[Reply]]:
        replies: list[Reply] = yield Send(
            [(swap.node, (b"SET", swap.key, swap.new, b"PX", max(swap.ttl_ms, 1000))) for swap in swaps]
        )
        return replies

    patch.setattr(warm_module, "send_conditional", take)


MUTANTS: dict[Callable[[Patch], None], Scenario] = {
    # In this order of the actors the wrong schedule comes early; the schedules are the same ones
    a_delete_that_takes_a_quarantine: Scenario((StrictStatement, ReaderOfTwo), (), FAILS + RELAY),
    a_breaker_that_closes_without_replay: SCENARIOS["a node that fails: a reader of two, a writer"],
    a_replay_of_what_this_process_noted_alone: SCENARIOS["a node that fails: a reader of two, a writer"],
    a_breaker_that_closes_without_another_look: SCENARIOS[
        "a node that fails: one process: a reader of two, a plain writer"
    ],
    a_key_that_is_handed_to_the_outbox_once: SCENARIOS["a node that fails: a reader, a plain writer of two"],
    a_clear_that_the_memory_alone_has: Scenario((Clearer,), OLD, FAILS),
    a_clear_that_was_missed_and_is_made_there_alone: SCENARIOS[
        "a ring that changes: a node that fails, who clears"
    ],
    a_delete_to_the_current_owner_only: SCENARIOS["a ring that changes: leaving and joining"],
    a_write_without_the_delete_in_the_old_ring: SCENARIOS["a ring that changes: leaving and leaving"],
    a_write_without_the_delete_in_the_new_ring: SCENARIOS["a ring that changes: leaving and joining"],
    a_delete_in_both_rings_at_once: SCENARIOS["a ring that changes: leaving and leaving"],
    a_warm_read_without_a_lease: SCENARIOS["a ring that changes: leaving and leaving"],
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_explorer_notices(
    node: Node, spare: Node, mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """A schedule that is right, as ``tests/interleavings`` shows, is wrong with the mutant."""
    mutant(monkeypatch)
    assert explore((node, spare), MUTANTS[mutant], stop_at_first=True).wrong
    assert explore((node, spare), MUTANTS[mutant].read_directly(), stop_at_first=True).wrong
