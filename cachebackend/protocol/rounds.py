"""The bound on how often an operation asks a node again because of the node's replies.

A node could give the same valid reply for ever, and so keep a call in a loop. Each loop of an operation
that ends only when a node replies otherwise counts its rounds here. Past the bound the node has failed, like
a node that does not answer.
"""

from __future__ import annotations

from typing import Protocol

from cachebackend.errors import NodeUnavailableError

__all__ = ["MAX_TRIES", "Cursor", "FailNode", "endless", "node_failure"]

#: How many times in a row an operation asks for a key at once again, because other processes may have changed
#: the key between its question and its next command.
MAX_TRIES = 100
#: The most pages of one scan: with a thousand keys each, more keys than a node has memory for.
MAX_PAGES = 1_000_000


class FailNode(Protocol):
    """Records that a node has failed, by its index, and returns the error that is its reply from now on."""

    def __call__(self, node: int, reason: str) -> NodeUnavailableError:
        """Record the failure."""
        ...


def node_failure(node: int, reason: str) -> NodeUnavailableError:
    """Return the error of a node that has failed, without recording it: for operations without a client."""
    return NodeUnavailableError(f"node {node} {reason}")


def endless(fail_node: FailNode, node: int) -> NodeUnavailableError:
    """Return the error of a node whose replies made an operation ask again too often."""
    return fail_node(node, f"gave replies that ask for another try {MAX_TRIES} times, and again")


class Cursor:
    """The place in a scan of one node: the cursor for the next page, until the scan ends.

    Attributes:
        text: The cursor, as the node returned it.
    """

    __slots__ = ("_mark", "_pages", "text")

    def __init__(self, text: bytes = b"0") -> None:
        self.text = text
        self._pages = 0
        self._mark = text

    def move(self, text: bytes, fail_node: FailNode, node: int) -> bool:
        """Go to the cursor that a node returned with a page; return whether there is a next page.

        No scan returns a cursor twice. One cursor is remembered, and another one after twice as many pages,
        which finds every repetition without remembering all cursors.

        Raises:
            NodeUnavailableError: The node returned a cursor twice, or too many pages.

        Source: Brent, "An improved Monte Carlo factorization algorithm", BIT 20 (1980), section 2.
        """
        if text == b"0":
            return False
        self._pages += 1
        if text == self._mark or self._pages >= MAX_PAGES:
            raise fail_node(node, "scans the same keys again and again")
        if not self._pages & (self._pages - 1):
            self._mark = text
        self.text = text
        return True
