"""Whether the host and the database in a URL can be used."""

from __future__ import annotations

import re

__all__ = ["MAX_PART", "is_database", "is_host"]

#: The most characters between two dots of a host name.
MAX_PART = 63
_DATABASE = re.compile(r"[0-9]{1,9}")


def is_host(text: str) -> bool:
    """Return whether ``getaddrinfo`` can look up a host: no part between dots is empty or too long.

    For any other text ``getaddrinfo`` raises UnicodeError or ValueError, whose message does not name the
    node.
    """
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return bool(text) and text.isprintable() and " " not in text


def is_database(text: str) -> bool:
    """Return whether a text is the number of a database."""
    return _DATABASE.fullmatch(text) is not None
