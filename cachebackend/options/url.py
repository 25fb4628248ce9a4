"""The URL of a node: name and weight are for the ring, the rest for the connection."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from cachebackend.interrupts import raise_interrupt
from cachebackend.options.faults import Faults
from cachebackend.options.host import MAX_PART, host_text, is_database, is_host
from cachebackend.options.parameters import (
    CLUSTER_SCHEME,
    CLUSTER_TLS_SCHEME,
    masked_query,
    parameter_fault,
    url_parameters,
)
from cachebackend.options.rules import Password, is_encodable
from cachebackend.options.sentinel import SENTINEL_SCHEME, sentinel_address

__all__ = [
    "NodeAddress",
    "is_cluster",
    "parse_node",
    "parse_nodes",
    "split_urls",
    "url_text_fault",
    "with_password",
]

#: The ring gives a node 1000 points for each unit of weight; this range keeps a ring of 50 nodes quick
#: to build.
WEIGHT_RANGE = (0.1, 10.0)
#: The ring's table has one byte for each owner.
MAX_NODES = 255
_WEIGHT = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20}")
_NAME = re.compile(r"[A-Za-z0-9._:\[\]/@-]{1,100}")
_SCHEMES = ("redis", "rediss", "unix", SENTINEL_SCHEME)
_CLUSTER_SCHEMES = (CLUSTER_SCHEME, CLUSTER_TLS_SCHEME)
#: What separates URLs in one string. A comma between two sentinels is not followed by a scheme.
_BETWEEN_URLS = re.compile(r"[;\s]+|,\s*(?=[A-Za-z+]+://|$)")
_ENCODE = (
    "percent-encode '/', '?', '#' and '@' in a user name, a password or a name, as "
    "urllib.parse.quote(password, safe='') does"
)


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """The name, weight and URL of a node.

    Attributes:
        name: What the ring hashes: ``?name=``; without it host:port, the socket's path, or the service.
        weight: Share of the keys, relative to the other nodes; 1.0 unless ``?weight=`` says otherwise.
        url: The URL to connect to, without name and weight. May hold a password: never printed.
        password: The password if the URL has none, or a function that returns it. Never printed.
    """

    name: str
    weight: float
    url: str
    password: Password | None = None

    @property
    def endpoint(self) -> str:
        """The server and the database, without user or password; no two nodes have the same."""
        parts = urlsplit(self.url)
        path, database = unquote(parts.path), dict(parse_qsl(parts.query)).get("db", "")
        if parts.scheme == "unix":
            return f"{path}/{int(database or 0)}"
        if parts.scheme == SENTINEL_SCHEME:
            return sentinel_address(self.url).endpoint
        return f"{parts.hostname}:{parts.port or 6379}/{int(database or path.strip('/') or 0)}"

    @property
    def public_url(self) -> str:
        """The URL for logs and pages: user and passwords are masked."""
        base, separator, query = self.url.partition("?")
        return re.sub(r"//[^/]*@", "//***@", base) + separator + masked_query(parse_qsl(query))

    @property
    def setting(self) -> str:
        """The URL as settings have it, with name and weight; user and passwords are masked."""
        given = {"name": self.name} | ({} if self.weight == 1 else {"weight": f"{self.weight:g}"})
        url = self.public_url
        return f"{url}{'&' if '?' in url else '?'}{urlencode(given, safe='/:[]')}"

    def __repr__(self) -> str:
        return f"NodeAddress(name={self.name!r}, weight={self.weight:g}, url={self.public_url!r})"


def parse_node(url: object, key: object, faults: Faults) -> NodeAddress | None:
    """Return the address that a URL has; if the URL is not valid, add a fault under ``key`` and return None.

    No message repeats a part of the URL: a password that is not percent-encoded may be in any part.
    """
    if not isinstance(url, str):
        faults.add(key, f"must be a URL such as 'redis://host:6379/0?name=a', got a {type(url).__name__}")
        return None
    if fault := url_text_fault(url):
        faults.add(key, fault)
        return None
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()  # redis-py knows it in lower case only
    if fault := _scheme_fault(scheme):
        faults.add(key, fault)
        return None
    url = f"{scheme}://{rest}"
    if scheme == SENTINEL_SCHEME:
        try:
            service = sentinel_address(url).service
        except ValueError as error:
            raise_interrupt(error)
            faults.add(key, str(error))
            return None
        return _named(url, scheme, service, key, faults)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise_interrupt(error)
        faults.add(key, f"is not a URL: {_without_quotes(error)}")
        return None
    if scheme == "unix":
        default_name = unquote(parts.path)
        if not default_name or parts.netloc.rpartition("@")[2]:
            faults.add(key, "has no path of a socket; write unix:///path/to/socket")
            return None
    else:
        if fault := _host_fault(unquote(host)):
            faults.add(key, fault)
            return None
        if port == 0:
            faults.add(key, "the port must be from 1 to 65535, got 0")
            return None
        if not is_database(parts.path.strip("/") or "0"):
            faults.add(key, "the database must be a number")
            return None
        default_name = host_text(host, port or 6379)
    return _named(url, scheme, default_name, key, faults)


def _scheme_fault(scheme: str) -> str | None:
    """Return what is wrong with the scheme of a node's URL; None: nothing is."""
    if scheme in _CLUSTER_SCHEMES:
        return (
            "is a cluster; only LOCATION, 'joining' and 'leaving' of a cache alias, and 'nodes' of "
            "WRITE_BEHIND, can be one"
        )
    known = ", ".join(f"{each}://" for each in (*_SCHEMES, *_CLUSTER_SCHEMES))
    return None if scheme in _SCHEMES else f"must begin with one of {known}"


def url_text_fault(url: str) -> str | None:
    """Return what is wrong with the characters of a URL; None: nothing is."""
    if not url.isprintable() or not is_encodable(url):
        return "has a character that cannot be printed; percent-encode it"
    if " " in url:
        return "has a space; percent-encode it"
    if "#" in url:
        return f"has a '#'; {_ENCODE}"
    rest = url.partition("://")[2]
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :] and not url.startswith("unix:"):
        return f"has an '@' after the host; {_ENCODE}"
    if "@" in unquote(authority.rpartition("@")[2]):
        return "the host has a percent-encoded '@'; write the '@' between a password and the host as it is"
    return None


def _host_fault(host: str) -> str | None:
    """Return what is wrong with the host of a URL; None: nothing is."""
    if not host:
        return "has no host; write redis://host:6379/0"
    if "," in host:
        return "has several hosts; write one URL for each node, or redis+sentinel://"
    return (
        None if is_host(host) else f"the host has a part that is empty or longer than {MAX_PART} characters"
    )


def _named(url: str, scheme: str, default_name: str, key: object, faults: Faults) -> NodeAddress | None:
    """Return the address of a URL whose host is valid, with the name and weight of its query."""
    base, _, query_text = url.partition("?")
    query = url_parameters(query_text)
    given = dict(query)
    name, weight = given.get("name", default_name), _weight(given.get("weight", "1"))
    if not _NAME.fullmatch(name):
        faults.add(key, "the name must be 1 to 100 letters, digits or ._:-/@")
        return None
    if weight is None:
        low, high = WEIGHT_RANGE
        faults.add(key, f"the weight must be a number from {low:g} to {high:g}")
        return None
    if fault := parameter_fault(scheme, query):
        faults.add(key, fault)
        return None
    rest = urlencode([(k, v) for k, v in query if k not in {"name", "weight"}])
    return NodeAddress(name, weight, base + (f"?{rest}" if rest else ""))


def parse_nodes(urls: object, faults: Faults) -> tuple[NodeAddress, ...]:
    """Return the addresses of a list of URLs, or of one string that holds several.

    Two nodes of the same name are a fault, and so are two of the same endpoint.
    """
    given = split_urls(urls, faults)
    nodes: dict[str, NodeAddress] = {}
    names: dict[str, str] = {}
    for index, url in enumerate(given):
        node = parse_node(url, index, faults)
        if node is None:
            continue
        if node.name in nodes:
            faults.add(index, f"a second node is named {node.name!r}; give each its own ?name=")
        elif twin := names.get(node.endpoint):
            faults.add(index, f"is the same server and database as node {twin!r}; list it once")
        nodes[node.name] = node
        names.setdefault(node.endpoint, node.name)
    if len(given) > MAX_NODES:
        faults.add(None, f"has {len(given)} nodes; a ring may have at most {MAX_NODES}")
    return tuple(nodes.values())


def split_urls(urls: object, faults: Faults) -> Sequence[object]:
    """Return the members of a list of URLs, or the URLs that one string holds."""
    if isinstance(urls, str):
        return [part for part in _BETWEEN_URLS.split(urls) if part]
    if isinstance(urls, Sequence):
        return urls
    faults.add(None, f"must be a URL or a list of URLs, got a {type(urls).__name__}")
    return ()


def is_cluster(url: object) -> bool:
    """Return whether a URL has the scheme of a cluster."""
    return isinstance(url, str) and url.partition("://")[0].lower() in _CLUSTER_SCHEMES


def with_password(nodes: tuple[NodeAddress, ...], password: Password | None) -> tuple[NodeAddress, ...]:
    """Return addresses with the password for nodes whose URL has none."""
    return nodes if password is None else tuple(replace(node, password=password) for node in nodes)


def _weight(text: str) -> float | None:
    weight = float(text) if _WEIGHT.fullmatch(text) else 0.0
    return weight if WEIGHT_RANGE[0] <= weight <= WEIGHT_RANGE[1] else None


def _without_quotes(error: ValueError) -> str:
    """Return urllib's message without the part of the URL that it quotes, which may be a password."""
    return re.sub(r"['\"].*", "", str(error)).strip() or "it cannot be parsed"
