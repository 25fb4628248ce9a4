"""Mutants of redirections and moving slots: each breaks one rule, and the explorer must find it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cachebackend.cluster import Cluster, redirections
from cachebackend.effects import Reply
from cachebackend.errors import RedirectedError
from cachebackend.node import Node
from tests.interleavings.moving import (
    LeapingMover,
    Mover,
    MovingReader,
    MovingReaderOfTwo,
    MovingScenario,
    MovingWriter,
    PlainMovingWriter,
)
from tests.interleavings.search import explore
from tests.interleavings.test_schedules import LOSE, OLD

Patch = pytest.MonkeyPatch


def ask_without_asking(patch: Patch) -> None:
    """A command follows ASK without ASKING, so the new owner sends it back."""
    batch, put = redirections._batch, redirections._put
    patch.setattr(redirections, "_batch", lambda *given, is_ask: batch(*given, is_ask=False))
    patch.setattr(redirections, "_put", lambda *given, is_ask: put(*given, is_ask=False))


def moved_does_not_change_the_table(patch: Patch) -> None:
    """Each command asks the old owner first, for ever."""
    patch.setattr(Cluster, "note_moved", lambda *_: None)


def only_the_first_redirection_is_followed(patch: Patch) -> None:
    """A delete of several keys ends at the first one that has moved; the others count as deleted."""
    groups = redirections._groups

    def first(table: Any, commands: Any, asked: Any, replies: list[Reply]) -> Any:
        redirected = [n for n, reply in enumerate(replies) if isinstance(reply, RedirectedError)]
        for position in redirected[1:]:
            replies[position] = 0
        return groups(table, commands, asked, replies)

    patch.setattr(redirections, "_groups", first)


def missed_deletes_stay_with_the_old_owner(patch: Patch) -> None:
    """A slot moves, and the delete that its old owner missed does not go with it."""
    patch.setattr(Cluster, "_rehome", lambda *_: None)


def a_new_server_is_not_asked(patch: Patch) -> None:
    """A server that gets its first slot is not in the table yet."""
    patch.setattr(Cluster, "add_target", lambda *_: None)


def asks_the_old_owner_only(patch: Patch) -> None:
    """A key that has moved already counts as missing, so a delete of it is confirmed by the wrong server."""

    def follow(*given: Any) -> Any:
        replies: Sequence[Reply] = given[3]
        is_asked = [isinstance(reply, RedirectedError) and not reply.is_moved for reply in replies]
        replies = [0 if ask else reply for ask, reply in zip(is_asked, replies, strict=True)]
        return real(*given[:3], replies, *given[4:])

    real = redirections.follow
    patch.setattr("cachebackend.cluster.cluster.follow", follow)


WRITES = MovingScenario((MovingWriter, Mover), OLD)
EXPLORED: dict[Callable[[Patch], None], MovingScenario] = {
    ask_without_asking: WRITES,
    moved_does_not_change_the_table: MovingScenario((MovingReaderOfTwo, LeapingMover), OLD),
    only_the_first_redirection_is_followed: WRITES,
    missed_deletes_stay_with_the_old_owner: MovingScenario(
        (MovingReader, PlainMovingWriter, LeapingMover), OLD, LOSE, is_one_process=True
    ),
    a_new_server_is_not_asked: MovingScenario((MovingWriter, Mover), OLD, is_new=True),
    asks_the_old_owner_only: WRITES,
}


@pytest.mark.parametrize("mutant", EXPLORED, ids=lambda mutant: mutant.__name__)
def test_the_explorer_catches_the_mutant(
    node: Node, spare: Node, mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """With the mutant at least one schedule is wrong; ``test_moving_schedules`` shows that else none is."""
    for each in (node, spare):
        each.call((b"FLUSHDB",))
    mutant(monkeypatch)
    assert explore((node, spare), EXPLORED[mutant], stop_at_first=True).wrong
