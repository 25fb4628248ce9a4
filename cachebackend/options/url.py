"""A node's URL, taken apart: its name and weight for the ring, the rest for the connection."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from cachebackend.options.faults import Faults
from cachebackend.options.host import is_host
from cachebackend.options.sentinel import SENTINEL_PARAMETERS, SENTINEL_SCHEME, sentinel_address

__all__ = ["NodeAddress", "parse_node", "parse_nodes"]

#: A node owns 1000 points a unit of weight; this keeps a ring of 50 nodes quick to build.
WEIGHT_RANGE = (0.1, 10.0)
#: Owners are kept as one byte a slot.
MOST_NODES = 255
_NAME = re.compile(r"[A-Za-z0-9._:\[\]/@-]{1,100}")
_SCHEMES = ("redis", "rediss", "unix", SENTINEL_SCHEME)
#: Between URLs in one string; the comma between two sentinels is not followed by a scheme.
_BETWEEN_URLS = re.compile(r"[;\s]+|,\s*(?=[a-z+]+://|$)")
#: What the query of a URL may say; TLS' own for rediss:// alone.
_PARAMETERS = frozenset({"db", "name", "weight"})
_TLS_PARAMETERS = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
    | {"ssl_password"}
)
_MORE_PARAMETERS = {"rediss": _TLS_PARAMETERS, SENTINEL_SCHEME: SENTINEL_PARAMETERS}


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where a node is and what it is called.

    Attributes:
        name: What enters the ring's hash: ``?name=``, else host:port or the socket's path.
        weight: Share of the keys, relative to the other nodes; 1.0 unless ``?weight=`` says so.
        url: What to connect to, without name and weight. May hold a password: never printed.
    """

    name: str
    weight: float
    url: str

    @property
    def endpoint(self) -> str:
        """The server and the database, whoever logs in there and how: no two nodes share it."""
        parts = urlsplit(self.url)
        path, database = unquote(parts.path), dict(parse_qsl(parts.query)).get("db", "")
        if parts.scheme == "unix":
            return f"{path}/{int(database or 0)}"
        if parts.scheme == SENTINEL_SCHEME:
            return sentinel_address(self.url).endpoint
        return f"{parts.hostname}:{parts.port or 6379}/{int(database or path.strip('/') or 0)}"

    @property
    def public_url(self) -> str:
        """The URL without its user and password, fit for logs and pages."""
        where, mark, query = self.url.partition("?")
        masked = urlencode([(k, "***" if "password" in k else v) for k, v in parse_qsl(query)])
        return re.sub(r"//[^/]*@", "//***@", where) + mark + masked

    @property
    def setting(self) -> str:
        """The URL as a setting has it, with its name and weight, but without user and password."""
        given = {"name": self.name} | ({} if self.weight == 1 else {"weight": f"{self.weight:g}"})
        url = self.public_url
        return f"{url}{'&' if '?' in url else '?'}{urlencode(given, safe='/:@[]')}"

    def __repr__(self) -> str:
        return f"NodeAddress(name={self.name!r}, weight={self.weight:g}, url={self.public_url!r})"


def parse_node(url: object, key: object, faults: Faults) -> NodeAddress | None:
    """Take one URL apart; None, and a fault under ``key``, where it cannot be used.

    No message repeats the URL, for it may hold a password.
    """
    if not isinstance(url, str):
        faults.add(key, f"must be a URL such as 'redis://host:6379/0?name=a', got a {type(url).__name__}")
        return None
    if url.startswith(f"{SENTINEL_SCHEME}:"):
        try:
            service = sentinel_address(url).service
        except ValueError as error:
            faults.add(key, str(error))
            return None
        return _named(url, SENTINEL_SCHEME, service, key, faults)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        faults.add(key, f"is not a URL: {_without_quotes(error)}")
        return None
    if parts.scheme not in _SCHEMES:
        faults.add(
            key, f"must begin with one of {', '.join(s + '://' for s in _SCHEMES)}, got {parts.scheme!r}"
        )
        return None
    if parts.scheme == "unix":
        address = unquote(parts.path)
        if not address or parts.netloc.rpartition("@")[2]:
            faults.add(key, "names no socket; write unix:///path/to/socket")
            return None
    else:
        if fault := _host_fault(host):
            faults.add(key, fault)
            return None
        if port == 0:
            faults.add(key, "the port must be from 1 to 65535, got 0")
            return None
        if parts.path.strip("/") and not parts.path.strip("/").isdigit():
            faults.add(key, f"the database must be a number, got {parts.path.strip('/')!r}")
            return None
        address = f"[{host}]:{port or 6379}" if ":" in host else f"{host}:{port or 6379}"
    return _named(url, parts.scheme, address, key, faults)


def _host_fault(host: str) -> str | None:
    """Return what is wrong with the host of a URL, or None."""
    if not host:
        return "names no host"
    if "," in host:
        return "names several hosts; write a URL for each, or redis+sentinel://"
    return None if is_host(host) else "names a host with a part that is empty or too long"


def _named(url: str, scheme: str, address: str, key: object, faults: Faults) -> NodeAddress | None:
    """Take the query of a URL apart, by which a node is told from others."""
    where, _, query_text = url.partition("#")[0].partition("?")
    query = parse_qsl(query_text, keep_blank_values=True)
    given = dict(query)
    name, weight = given.get("name", address), _weight(given.get("weight", "1"))
    if not _NAME.fullmatch(name):
        faults.add(key, f"the name must be 1 to 100 letters, digits or ._:-/@, got {name!r}")
        return None
    if weight is None:
        low, high = WEIGHT_RANGE
        faults.add(key, f"the weight must be a number from {low:g} to {high:g}, got {given['weight']!r}")
        return None
    if fault := _query_fault(scheme, given):
        faults.add(key, fault)
        return None
    rest = urlencode([(k, v) for k, v in query if k not in {"name", "weight"}])
    return NodeAddress(name, weight, where + (f"?{rest}" if rest else ""))


def _query_fault(scheme: str, given: dict[str, str]) -> str | None:
    """Return what is wrong with the query of a URL, or None."""
    known = _PARAMETERS | _MORE_PARAMETERS.get(scheme, frozenset())
    if unknown := sorted(set(given) - known):
        return f"the parameter {unknown[0]!r} is not known; known are {', '.join(sorted(known))}"
    if not given.get("db", "0").isdigit():
        return f"the database must be a number, got {given['db']!r}"
    return None


def parse_nodes(urls: object, faults: Faults) -> tuple[NodeAddress, ...]:
    """Take a list of URLs apart; two of one name are a fault, and two of one place."""
    if isinstance(urls, str):
        urls = [part for part in _BETWEEN_URLS.split(urls) if part]
    if not isinstance(urls, Sequence):
        faults.add(None, f"must be a URL or a list of URLs, got a {type(urls).__name__}")
        return ()
    nodes: dict[str, NodeAddress] = {}
    for index, url in enumerate(urls):
        node = parse_node(url, index, faults)
        if node is None:
            continue
        if node.name in nodes:
            faults.add(index, f"a second node is named {node.name!r}; give each its own ?name=")
        elif twin := next((other.name for other in nodes.values() if other.endpoint == node.endpoint), None):
            faults.add(index, f"is where {twin!r} is: a server's database is one node, under one name")
        nodes[node.name] = node
    if len(urls) > MOST_NODES:
        faults.add(None, f"names {len(urls)} nodes; a ring holds at most {MOST_NODES}")
    return tuple(nodes.values())


def _weight(text: str) -> float | None:
    try:
        weight = float(text)
    except ValueError:
        return None
    return weight if WEIGHT_RANGE[0] <= weight <= WEIGHT_RANGE[1] else None


def _without_quotes(error: ValueError) -> str:
    """Drop what urllib quotes from the URL: it may be a piece of a password."""
    return re.sub(r"['\"].*", "", str(error)).strip() or "it cannot be taken apart"
