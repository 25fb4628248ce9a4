"""The settings that all processes of a site must have in common, each as a hash and a text to show.

The hash is compared. The text is for people: it has no password and no secret, and may be shortened. Nodes
are compared by name and weight only, because two machines may have different addresses for one server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2s
from pathlib import PurePath
from typing import NamedTuple

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from cachebackend.conf import project_options, ring_aliases, ring_options, write_behind_options
from cachebackend.errors import ConfigurationError
from cachebackend.options import ClusterAddress, NodeAddress

__all__ = ["QUEUE", "AgreedSetting", "agreed_settings", "ring_change_settings", "site_name"]

#: Stands for the alias of the queue nodes.
QUEUE = "WRITE_BEHIND"
#: The most characters of a text that is shown.
MAX_TEXT = 200


class AgreedSetting(NamedTuple):
    """A setting as this process has it.

    Attributes:
        digest: Equal in two processes that have the same value.
        text: The value, as people may see it.
    """

    digest: str
    text: str


def site_name() -> str:
    """Return what the keys are named by under which the processes of this site report."""
    given = project_options().site
    database = PurePath(str(connections.settings[DEFAULT_DB_ALIAS].get("NAME", ""))).name
    name = given or f"{getattr(settings, 'ROOT_URLCONF', '').partition('.')[0]} {database}"
    return _digest(name)


def agreed_settings() -> dict[str, AgreedSetting]:
    """Return the settings by their paths; those that are not valid are left out."""
    found: dict[str, AgreedSetting] = {}
    for read in (*(_of_alias(alias) for alias in ring_aliases()), _of_queue(), _of_project()):
        try:
            found |= {path: AgreedSetting(_digest(value), text[:MAX_TEXT]) for path, value, text in read}
        except ConfigurationError:
            continue  # the checks report it, and nothing of it is used
    return found


def ring_change_settings(alias: str) -> tuple[str, str, str]:
    """Return the paths of LOCATION, ``joining`` and ``leaving`` of an alias."""
    block = f"CACHES[{alias!r}]"
    return f"{block}['LOCATION']", f"{block}['OPTIONS']['joining']", f"{block}['OPTIONS']['leaving']"


_Value = tuple[str, object, str]


def _of_alias(alias: str) -> Iterator[_Value]:
    options, block = ring_options(alias), settings.CACHES[alias]
    rings = (
        (options.nodes, options.cluster),
        (options.joining, options.joining_cluster),
        (options.leaving, options.leaving_cluster),
    )
    for path, (nodes, cluster) in zip(ring_change_settings(alias), rings, strict=True):
        yield _nodes(path, nodes, cluster)
    function = block.get("KEY_FUNCTION") or "default"
    yield from _plain(
        f"CACHES[{alias!r}]",
        (
            ("KEY_PREFIX", block.get("KEY_PREFIX", "")),
            ("VERSION", block.get("VERSION", 1)),
            ("KEY_FUNCTION", function if isinstance(function, str) else function.__qualname__),
        ),
    )
    yield f"CACHES[{alias!r}]['OPTIONS']['codec']", options.codec, repr(options.codec)
    seed = options.hash_seed
    yield f"CACHES[{alias!r}]['OPTIONS']['hash_seed']", seed, "none" if seed is None else "a secret"


def _of_queue() -> Iterator[_Value]:
    options = write_behind_options()
    yield _nodes(f"{QUEUE}['nodes']", options.nodes, options.cluster)
    if options.nodes or options.cluster:
        yield from _plain(QUEUE, (("prefix", options.prefix), ("partitions", options.partitions)))


def _of_project() -> Iterator[_Value]:
    yield from _plain("RINGCACHE", [("namespace", project_options().namespace)])


def _plain(block: str, values: Iterable[tuple[str, object]]) -> Iterator[_Value]:
    for name, value in values:
        yield f"{block}[{name!r}]", value, repr(value)


def _nodes(path: str, nodes: Sequence[NodeAddress], cluster: ClusterAddress | None) -> _Value:
    """Return a ring: what the owners of keys depend on, and its nodes as text."""
    if cluster is not None:  # its URL names any of its servers
        return path, "cluster", cluster.endpoint
    weights = ("" if node.weight == 1 else f" weight {node.weight:g}" for node in nodes)
    texts = [f"{node.name} = {node.endpoint}{weight}" for node, weight in zip(nodes, weights, strict=True)]
    return path, sorted((node.name, node.weight) for node in nodes), ", ".join(texts) or "none"


def _digest(value: object) -> str:
    """Return a short hash: too short to find a secret by it."""
    text = json.dumps(value, default=str)
    return blake2s(text.encode(), digest_size=4, person=b"ringproc").hexdigest()
