"""Mutants of methods that need a value: the explorer, or the named test, must find a mistake with each.

Each removes one line, of Python or of a script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cachebackend import RingCache
from cachebackend.codec import lease_record
from cachebackend.effects import Operation, Reply, Send
from cachebackend.node import Node
from cachebackend.protocol import Context
from cachebackend.protocol.cache import move as move_module
from cachebackend.protocol.cache import scan as scan_module
from cachebackend.protocol.cache import set as set_module
from cachebackend.protocol.cache.compare_and_set import CompareAndSet
from tests.integration import test_backend, test_tags
from tests.interleavings.callers import Expirer
from tests.interleavings.readers import ReaderOfTwo
from tests.interleavings.scenario import Scenario
from tests.interleavings.search import explore
from tests.interleavings.test_schedules import FAILS, SCENARIOS
from tests.interleavings.writers import StrictWriter
from tests.mutations.scripts import change_script
from tests.mutations.test_mutants import is_caught

Call = Callable[..., Any]
Patch = pytest.MonkeyPatch


def a_touch_that_removes_a_quarantine(patch: Patch) -> None:
    """The value of a strict row in flight is expired, and its quarantine with it."""
    change_script(patch, set_module, "_TOUCH", b"'^[LQ]'", b"'^[L]'")


def an_addition_without_comparing(patch: Patch) -> None:
    """The sum replaces any record, also one that was stored meanwhile."""

    def replace_any(_: Context, swaps: Sequence[CompareAndSet]) -> Operation[list[Reply]]:
        replies: list[Reply] = yield Send([(swap.node, (b"SET", swap.key, swap.new)) for swap in swaps])
        return replies

    patch.setattr(set_module, "send_conditional", replace_any)


def an_addition_that_drops_tags(patch: Patch) -> None:
    """The sum is stored without the tags of the integer."""
    stored_of = set_module.stored_of
    patch.setattr(set_module, "stored_of", lambda record: stored_of(record)._replace(tag_block=b""))


def a_move_that_drops_tags(patch: Patch) -> None:
    """The value is stored under the other key without its tags."""
    begin_set = move_module.begin_set

    def begin(context: Context, key: bytes, record: bytes, ttl_ms: int | None) -> Any:
        return begin_set(context, key, context.codec.encode(context.codec.decode(record, key), key), ttl_ms)

    patch.setattr(move_module, "begin_set", begin)


EXPLORED: dict[Callable[[Patch], None], Scenario] = {
    # With the actors in this order the explorer finds the wrong schedule early; without the mutant it takes
    # long, so only EXPLORE=all explores it
    a_touch_that_removes_a_quarantine: Scenario((StrictWriter, Expirer, ReaderOfTwo), (), FAILS),
    an_addition_without_comparing: SCENARIOS["refresh: a reader, a writer, a version that is added to"],
    an_addition_that_drops_tags: SCENARIOS["tags: a reader, a writer, a version that is added to"],
    a_move_that_drops_tags: SCENARIOS["tags: a reader, a writer, a version that is moved"],
}


@pytest.mark.parametrize("mutant", EXPLORED, ids=lambda mutant: mutant.__name__)
def test_the_explorer_catches_the_mutant(
    node: Node, spare: Node, mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """With the mutant a schedule is wrong; ``tests/interleavings`` proves that none is without it."""
    mutant(monkeypatch)
    assert explore((node, spare), EXPLORED[mutant], stop_at_first=True).wrong


# Mutants that a named test must catch


def test_a_touch_that_removes_a_lease(ring_cache: RingCache, call: Call, monkeypatch: Patch) -> None:
    """The value that is being loaded would not be stored."""
    change_script(monkeypatch, set_module, "_TOUCH", b"'^[LQ]'", b"'^[Q]'")
    test = test_backend.test_a_lease_or_quarantine_is_a_miss_to_every_method
    assert is_caught(test, ring_cache, call, lease_record(bytes(16)))


@pytest.mark.parametrize("name", ["add", "touch"])
def test_a_verdict_that_holds_for_any_tags(ring_cache: RingCache, monkeypatch: Patch, name: str) -> None:
    """A value that is loaded while the tags of the old one are checked is taken for the old one."""
    change_script(
        monkeypatch, set_module, f"_{name.upper()}", b"string.sub(verdict, 2) ~= tags", b"verdict == ''"
    )
    test = test_tags.test_a_value_that_is_loaded_while_tags_are_checked_is_checked_too
    assert is_caught(test, ring_cache, void_key(ring_cache), name)


def test_keys_without_a_check_of_tags(ring_cache: RingCache, call: Call, monkeypatch: Patch) -> None:
    """Values whose tag is gone are listed."""

    def none_changed(*_: Any) -> Operation[set[bytes]]:
        return set()
        yield

    monkeypatch.setattr(scan_module, "_with_changed_tags", none_changed)
    test = test_tags.test_keys_lists_only_values_whose_tags_are_valid
    assert is_caught(test, ring_cache, call, void_key(ring_cache))


def void_key(cache: RingCache) -> str:
    """Return the key of a value whose tag is gone."""
    cache.get_or_set("k", "old", 60, tags=["t", "u"])
    cache.invalidate_tags("t")
    return "k"
