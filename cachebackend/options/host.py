"""What a host may be called."""

from __future__ import annotations

__all__ = ["is_host"]


def is_host(text: str) -> bool:
    """Return whether an address can be looked up for a host: no part of its name is empty or too long.

    Where it cannot be encoded, ``getaddrinfo`` raises UnicodeError, which says nothing of a node.
    """
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return bool(text)
