"""Mutants of a node's return: each removes one line that it depends on, and a named test must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachebackend import RingCache
from cachebackend.invalidation.outbox import ClientOutbox
from cachebackend.node.breaker import Breaker
from cachebackend.protocol.missed_deletes import MissedDeletes, MissedKeys
from cacheproject.services import Services
from tests.integration import test_failures
from tests.integration.held_node import Probes, cache, dead, probes  # noqa: F401  # fixtures of those tests
from tests.mutations.test_mutants import is_caught

pytestmark = [
    pytest.mark.hangs,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
Patch = pytest.MonkeyPatch


def closes_without_replay(cache: RingCache, patch: Patch) -> None:  # noqa: F811
    """The breaker closes as soon as a probe is answered."""
    for node in cache.client.nodes:
        patch.setattr(node, "replay", None)


def replays_nothing(cache: RingCache, patch: Patch) -> None:  # noqa: F811
    """Neither the outbox nor the memory is read before the breaker closes."""
    patch.setattr(MissedDeletes, "take", lambda *_: MissedKeys())
    patch.setattr(MissedDeletes, "count", lambda *_: 0)
    patch.setattr(ClientOutbox, "missed_by", lambda *_: MissedKeys())


def forgets_what_was_missed(cache: RingCache, patch: Patch) -> None:  # noqa: F811
    """A delete that a node did not confirm is recorded nowhere."""
    patch.setattr(MissedDeletes, "add", lambda *_: MissedKeys())


MUTANTS: list[Callable[[RingCache, Patch], None]] = [
    closes_without_replay,
    replays_nothing,
    forgets_what_was_missed,
]


@pytest.fixture(params=MUTANTS, ids=lambda mutant: mutant.__name__)
def mutated(request: pytest.FixtureRequest, cache: RingCache, monkeypatch: Patch) -> RingCache:  # noqa: F811
    """The cache with a line removed."""
    request.param(cache, monkeypatch)
    return cache


def test_a_delete_that_was_missed(
    mutated: RingCache,
    dead: list[str],  # noqa: F811
    services: Services,
    probes: Probes,  # noqa: F811
) -> None:
    """The deleted value is served when the node is back."""
    test: Callable[..., None] = test_failures.test_a_node_that_returns_serves_no_deleted_value
    assert is_caught(test, mutated, dead, services, probes, "delete")


def test_a_delete_of_another_process(
    cache: RingCache,  # noqa: F811
    dead: list[str],  # noqa: F811
    services: Services,
    probes: Probes,  # noqa: F811
    monkeypatch: Patch,
) -> None:
    """The replay reads the memory of this process only."""
    monkeypatch.setattr(ClientOutbox, "missed_by", lambda *_: MissedKeys())
    test: Callable[..., None] = test_failures.test_missed_deletes_of_another_process_are_replayed_too
    assert is_caught(test, cache, dead, services, probes)


def test_a_replay_that_failed(
    cache: RingCache,  # noqa: F811
    dead: list[str],  # noqa: F811
    services: Services,
    probes: Probes,  # noqa: F811
    monkeypatch: Patch,
) -> None:
    """A failed replay counts as finished."""

    def close(self: Breaker, _: Any) -> None:
        self.close()

    monkeypatch.setattr(Breaker, "probe_failed", close)
    test: Callable[..., None] = test_failures.test_a_node_serves_no_reads_while_the_replay_fails
    assert is_caught(test, cache, dead, services, probes, monkeypatch)
