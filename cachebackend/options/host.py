"""Whether a host name can be looked up."""

from __future__ import annotations

__all__ = ["MAX_PART", "is_host"]

#: The most characters between two dots of a host name.
MAX_PART = 63


def is_host(text: str) -> bool:
    """Return whether ``getaddrinfo`` can look up a host: no part between dots is empty or too long.

    For any other text ``getaddrinfo`` raises UnicodeError, whose message does not name the node.
    """
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return bool(text)
