"""The URL of a node behind Sentinel: ``redis+sentinel://host1,host2:26380/service/0``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from cachebackend.options.host import host_and_port, is_database

__all__ = ["SENTINEL_PARAMETERS", "SENTINEL_SCHEME", "SentinelAddress", "sentinel_address"]

SENTINEL_SCHEME = "redis+sentinel"
SENTINEL_PORT = 26379
#: Parameters of the URL's query, beside those of every node's URL.
SENTINEL_PARAMETERS = frozenset({"sentinel_password", "sentinel_username"})


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """The sentinels of a node, and the name of the service that they watch.

    Attributes:
        hosts: Host and port of each sentinel.
        service: The name under which the sentinels know the primary.
        node_url: The primary's URL, with user, password and database; its host is a placeholder.
        username: The user that the sentinels ask for, if they do.
        password: The password of this user. Never printed.
    """

    hosts: tuple[tuple[str, int], ...]
    service: str
    node_url: str
    username: str | None
    password: str | None

    @property
    def endpoint(self) -> str:
        """The sentinels, the service and the database."""
        hosts = ",".join(sorted(f"{host}:{port}" for host, port in self.hosts))
        return f"{hosts}/{self.service}/{self.node_url.rpartition('/')[2]}"

    def __repr__(self) -> str:
        return f"SentinelAddress(hosts={self.hosts!r}, service={self.service!r})"


def sentinel_address(url: str) -> SentinelAddress:
    """Return the parts of the URL of a node behind Sentinel.

    Raises:
        ValueError: The URL is not valid. The message says why, and repeats no part of the URL that may
            be a password.
    """
    rest, _, query = url.partition("://")[2].partition("?")
    netloc, _, path = rest.partition("/")
    account, separator, hosts = netloc.rpartition("@")
    service, _, database = path.rstrip("/").partition("/")
    if not service:
        message = "has no service; write redis+sentinel://host1,host2/service"
        raise ValueError(message)
    if not is_database(database or "0"):
        message = "the database must be a number"
        raise ValueError(message)
    given = dict(parse_qsl(query))
    return SentinelAddress(
        tuple(_host_and_port(text) for text in hosts.split(",")),
        unquote(service),
        f"redis://{account}{separator}behind.sentinel/{given.get('db', database) or 0}",
        given.get("sentinel_username"),
        given.get("sentinel_password"),
    )


def _host_and_port(text: str) -> tuple[str, int]:
    found = host_and_port(text, SENTINEL_PORT)
    if found is None:
        message = "each sentinel must be host or host:port; write an IPv6 address in brackets"
        raise ValueError(message)
    return found
