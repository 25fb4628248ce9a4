"""The URL of a node that Sentinel keeps alive: ``redis+sentinel://h1,h2:26380/service/0``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from cachebackend.options.host import is_host

__all__ = ["SENTINEL_PARAMETERS", "SENTINEL_SCHEME", "SentinelAddress", "sentinel_address"]

SENTINEL_SCHEME = "redis+sentinel"
SENTINEL_PORT = 26379
#: What the query may say beside what any node's may.
SENTINEL_PARAMETERS = frozenset({"sentinel_password", "sentinel_username"})
#: One of the hosts: a name, an IPv4 address or a bracketed IPv6 one, and perhaps a port.
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:,]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Where the sentinels are, and what they are asked for.

    Attributes:
        hosts: The sentinels, each a host and a port.
        service: The name under which they know the primary.
        node_url: The primary's URL but for its address: user, password and database.
        username: The user that the sentinels ask for, if any.
        password: Its password. Never printed.
    """

    hosts: tuple[tuple[str, int], ...]
    service: str
    node_url: str
    username: str | None
    password: str | None

    @property
    def endpoint(self) -> str:
        """The service and the database."""
        hosts = ",".join(sorted(f"{host}:{port}" for host, port in self.hosts))
        return f"{hosts}/{self.service}/{self.node_url.rpartition('/')[2]}"

    def __repr__(self) -> str:
        return f"SentinelAddress(hosts={self.hosts!r}, service={self.service!r})"


def sentinel_address(url: str) -> SentinelAddress:
    """Take the URL of a node behind sentinels apart.

    Raises:
        ValueError: It cannot be; says why, and repeats nothing that may be a password.
    """
    rest, _, query = url.partition("://")[2].partition("?")
    netloc, _, path = rest.partition("/")
    account, at, hosts = netloc.rpartition("@")
    service, _, database = path.rstrip("/").partition("/")
    if not service:
        message = "names no service; write redis+sentinel://host1,host2/service"
        raise ValueError(message)
    if not (database or "0").isdigit():
        message = f"the database must be a number, got {database!r}"
        raise ValueError(message)
    given = dict(parse_qsl(query))
    return SentinelAddress(
        tuple(_host_and_port(text) for text in hosts.split(",")),
        unquote(service),
        f"redis://{account}{at}behind.sentinel/{given.get('db', database) or 0}",
        given.get("sentinel_username"),
        given.get("sentinel_password"),
    )


def _host_and_port(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    host, port = (found[1].strip("[]"), int(found[2] or SENTINEL_PORT)) if found else ("", 0)
    if not is_host(host) or not 0 < port < 65_536:
        message = "each sentinel must be a host, or host:port; an IPv6 address stands in brackets"
        raise ValueError(message)
    return host, port
