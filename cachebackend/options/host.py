"""Whether the hosts, ports and databases in a URL can be used."""

from __future__ import annotations

import encodings.idna  # noqa: F401  # the codec would import it later, beside forks (see ``imports``)
import re

__all__ = ["MAX_PART", "host_and_port", "host_text", "is_database", "is_host"]

#: The most characters between two dots of a host name.
MAX_PART = 63
_DATABASE = re.compile(r"[0-9]{1,9}")
#: One host: a name, an IPv4 address or an IPv6 address in brackets; and a port, which may be left out.
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:,]+)(?::([0-9]{1,5}))?")


def host_and_port(text: str, default_port: int | None) -> tuple[str, int] | None:
    """Return the host and the port of a text such as ``host:port`` or ``[::1]:port``; None: it has neither.

    Args:
        text: The text.
        default_port: The port if the text has none; None: it must have one.
    """
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    host, port = match[1].strip("[]"), int(match[2] or default_port or 0)
    return (host, port) if is_host(host) and 0 < port < 65_536 else None


def host_text(host: str, port: int) -> str:
    """Return ``host:port``, or ``[host]:port`` for an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
