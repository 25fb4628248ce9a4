"""The bound on how often a node is asked again."""

from __future__ import annotations

from itertools import count, cycle

import pytest

from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol import rounds
from cachebackend.protocol.rounds import MAX_TRIES, Cursor, endless, node_failure


def test_a_scan_ends_with_its_node() -> None:
    """Each page names the next one, and ``0`` the end."""
    cursor = Cursor()
    assert [cursor.move(text, node_failure, 0) for text in (b"9", b"5", b"7")] == [True] * 3
    assert cursor.text == b"7"
    assert not cursor.move(b"0", node_failure, 0)


@pytest.mark.parametrize("texts", [[b"5"], [b"1", b"2", b"3"], [b"%d" % number for number in range(1, 500)]])
def test_a_cursor_that_comes_twice_is_found(texts: list[bytes]) -> None:
    """After a bounded number of pages, for a cycle of any length."""
    cursor, pages = Cursor(), 0
    with pytest.raises(NodeUnavailableError, match="node 3 scans the same keys again"):
        for text in cycle(texts):
            pages += 1
            cursor.move(text, node_failure, 3)
    assert pages <= 4 * len(texts) + 1


def test_a_scan_has_a_last_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if no cursor comes twice."""
    monkeypatch.setattr(rounds, "MAX_PAGES", 50)
    cursor, numbers = Cursor(), count(1)
    with pytest.raises(NodeUnavailableError):
        while cursor.move(b"%d" % next(numbers), node_failure, 0):
            pass
    assert next(numbers) == 51


def test_the_failure_says_how_often_the_node_was_asked() -> None:
    """The client records it, and names the node."""
    recorded: list[tuple[int, str]] = []

    def fail_node(node: int, reason: str) -> NodeUnavailableError:
        recorded.append((node, reason))
        return node_failure(node, reason)

    error = endless(fail_node, 2)
    assert recorded == [(2, str(error).removeprefix("node 2 "))]
    assert str(MAX_TRIES) in str(error)
