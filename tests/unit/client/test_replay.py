"""A replay uses the connection of the probe that the node answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cachebackend.client import RingClient
from cachebackend.client.replay import Replay
from cachebackend.errors import NodeUnavailableError
from cachebackend.options import RingOptions
from cachebackend.protocol.missed_deletes import MissedKeys


@pytest.fixture
def client() -> RingClient:
    """A client that is never connected."""
    return RingClient(RingOptions.read("redis://unused?name=a", {}, "CACHES"))


def test_a_script_is_sent_with_its_source(client: RingClient) -> None:
    """A restarted node has cached no scripts, and the probe has one attempt."""
    sent: list[Any] = []

    def exchange(commands: Sequence[Any]) -> list[Any]:
        sent.extend(commands)
        return [1] * len(commands)

    replay = Replay(client.context, 0, "unused:6379/0", lambda: None)
    client.context.missed.add(0, MissedKeys((b"k",)))
    assert not replay.is_complete()
    replay.replay_all(exchange)
    [command] = sent
    assert (command[0], command[2:]) == (b"EVAL", (b"1", b"k"))
    assert replay.is_complete()


def test_a_replay_that_fails_is_raised_and_recorded_again(client: RingClient) -> None:
    """So the breaker stays open, and the next probe replays the keys."""

    def exchange(_: Sequence[Any]) -> list[Any]:
        raise NodeUnavailableError

    client.context.missed.add(0, MissedKeys((b"k",)))
    replay = Replay(client.context, 0, "unused:6379/0", lambda: None)
    with pytest.raises(NodeUnavailableError):
        replay.replay_rest(exchange)
    assert not replay.is_complete()
