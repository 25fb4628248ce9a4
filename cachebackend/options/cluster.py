"""The URL of a cluster: ``redis+cluster://user:password@host1:7000,host2:7000``, or ``rediss+cluster://``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlencode

from cachebackend.options.faults import Faults
from cachebackend.options.host import host_and_port, host_text
from cachebackend.options.parameters import (
    CLUSTER_SCHEME,
    CLUSTER_TLS_SCHEME,
    masked_query,
    parameter_fault,
    url_parameters,
)
from cachebackend.options.rules import Integer
from cachebackend.options.url import NodeAddress, is_cluster, parse_nodes, split_urls, url_text_fault

__all__ = ["WAIT_REPLICAS", "ClusterAddress", "cluster_faults", "parse_cluster", "parse_location"]

CLUSTER_PORT = 6379
#: How many replicas a write may wait for.
WAIT_REPLICAS = Integer(0, 5)
_ONE_URL = "a cluster has one URL, which may have several hosts: redis+cluster://host1:7000,host2:7000"
_HOST_FAULT = "each server must be host or host:port; write an IPv6 address in brackets"
_LOGIN_FAULT = (
    "write user and password once, before the first host: all servers have the same; percent-encode an '@' "
    "in them"
)
_DATABASE_FAULT = "a cluster has database 0 only; leave the number out"
#: Parameters of a node's URL that a cluster's URL may not have.
_OF_A_RING = {
    "weight": "the parameter 'weight' is for a ring of nodes; a cluster assigns its slots itself",
    "name": "the parameter 'name' is for a ring of nodes; a cluster names its servers itself",
}
#: Options that a cluster makes wrong, and what is done instead.
_NOT_WITH_CLUSTER = {
    "gutter": "is for a ring of nodes; a cluster promotes a replica when a primary fails",
    "hash_seed": "is for a ring of nodes; a cluster has its own hash, which has no seed",
}
_ONLY_WITH_CLUSTER = {"address_map": "is for a cluster; the URLs of nodes are used as they are"}


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """The servers of a cluster that are asked for all others, and the login of all of them.

    Attributes:
        hosts: Host and port of each server in the URL.
        username: The user; None: the default user.
        password: The password; None: the URL has none. Never printed.
        is_tls: Whether connections use TLS.
        query: The names and values of the TLS parameters. May hold a password: never printed.
    """

    hosts: tuple[tuple[str, int], ...]
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def endpoint(self) -> str:
        """The servers, in an order that does not depend on the URL."""
        return f"{','.join(sorted(host_text(*host) for host in self.hosts))}/cluster"

    def node_url(self, host: str, port: int) -> str:
        """Return the URL of one server of the cluster, with the login: ``redis://…`` or ``rediss://…``."""
        login = quote(self.username or "", safe="")
        if self.password is not None:
            login += f":{quote(self.password, safe='')}"
        query = urlencode(self.query)
        return (
            f"{'rediss' if self.is_tls else 'redis'}://{login}{'@' if login else ''}{host_text(host, port)}/0"
            f"{'?' if query else ''}{query}"
        )

    @property
    def login_url(self) -> str:
        """The URL of a server whose address is not known yet: host and port are placeholders."""
        return self.node_url("cluster", 1)

    @property
    def public_url(self) -> str:
        """The URL for logs and pages: user and passwords are masked."""
        scheme = CLUSTER_TLS_SCHEME if self.is_tls else CLUSTER_SCHEME
        login = "***@" if self.username or self.password is not None else ""
        query = masked_query(self.query)
        hosts = ",".join(host_text(*host) for host in self.hosts)
        return f"{scheme}://{login}{hosts}{'?' if query else ''}{query}"


def parse_location(urls: object, faults: Faults) -> tuple[tuple[NodeAddress, ...], ClusterAddress | None]:
    """Return the nodes that a list of URLs names, or the cluster if it is the one URL of a cluster.

    Args:
        urls: A list of URLs, or one string that holds several.
        faults: Where the faults of the URLs are added.
    """
    given = split_urls(urls, faults)
    clusters = [index for index, url in enumerate(given) if is_cluster(url)]
    if not clusters:
        return parse_nodes(given, faults), None
    if len(clusters) > 1:
        faults.add(clusters[1], f"is a second cluster; {_ONE_URL}")
    elif len(given) > 1:
        faults.add(clusters[0], "is a cluster, which cannot be one of several nodes; name it alone")
    else:
        return (), parse_cluster(str(given[0]), 0, faults)
    return (), None


def parse_cluster(url: str, key: object, faults: Faults) -> ClusterAddress | None:
    """Return the address that the URL of a cluster has; if it is not valid, add a fault and return None.

    No message repeats a part of the URL: a password that is not percent-encoded may be in any part.
    """
    if fault := url_text_fault(url):
        faults.add(key, fault)
        return None
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    rest, _, query_text = rest.partition("?")
    netloc, _, path = rest.partition("/")
    account, _, hosts_text = netloc.rpartition("@")
    hosts = [host_and_port(unquote(text), CLUSTER_PORT) for text in hosts_text.split(",")]
    query = url_parameters(query_text)
    texts = [_LOGIN_FAULT] if "@" in account else []
    texts += [_HOST_FAULT] if None in hosts else []
    texts += _part_faults(scheme, path, query)
    for text in texts:
        faults.add(key, text)
    username, separator, password = account.partition(":")
    return (
        None
        if texts
        else ClusterAddress(
            tuple(dict.fromkeys(host for host in hosts if host is not None)),
            unquote(username) or None,
            unquote(password) if separator else None,
            scheme == CLUSTER_TLS_SCHEME,
            tuple((name, value) for name, value in query if name != "db"),
        )
    )


def _part_faults(scheme: str, path: str, query: Sequence[tuple[str, str]]) -> list[str]:
    """Return what is wrong with the path and the query of a cluster's URL."""
    given = dict(query)
    databases = {path.strip("/") or "0"} | {value for name, value in query if name == "db"}
    texts = [] if databases == {"0"} else [_DATABASE_FAULT]
    texts += [text for name, text in _OF_A_RING.items() if name in given]
    rest = [(name, value) for name, value in query if name not in {"db", *_OF_A_RING}]
    fault = parameter_fault(scheme, rest)
    return texts if fault is None else [*texts, fault]


def cluster_faults(
    nodes: Sequence[NodeAddress],
    cluster: ClusterAddress | None,
    options: Mapping[str, object],
    faults: Faults,
) -> None:
    """Add a fault for each option that cannot be set together with a cluster, or with nodes instead of one.

    Args:
        nodes: The nodes, if any; while a ring changes, also those of the other ring.
        cluster: The cluster, if any. Without nodes and without a cluster, their URLs have faults.
        options: The options beside them.
        faults: Where the faults are added.
    """
    refused = _NOT_WITH_CLUSTER if cluster is not None else _ONLY_WITH_CLUSTER if nodes else {}
    for name, text in refused.items():
        is_of_nodes = name == "hash_seed" and nodes
        if options.get(name) not in (None, "", [], ()) and not is_of_nodes:
            faults.add(name, text)
