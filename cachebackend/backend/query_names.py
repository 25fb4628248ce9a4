"""The names of the tags of query results, and of the registry of shapes.

Both are in the key space of tags, which no user's key can reach. They begin with the scope and the table,
as the names of models' tags do.
"""

from __future__ import annotations

from cachebackend.backend.scope import part_of_table

__all__ = [
    "SHARDS",
    "is_shard_name",
    "prefixes_of_queries",
    "shape_tag_name",
    "shard_names",
    "table_of_shard",
]

#: The parts of the registry of a table. A result registers its shapes in one of them (``queries.plans``), so
#: a table that is read often does not make one node busy.
SHARDS = 8


def shape_tag_name(scope: str, table: str, tag: str) -> str:
    """Return the name of a shape's tag, given its last part (``Shape.tag``)."""
    return f"queries:{scope}:{part_of_table(table)}:{tag}"


def shard_names(scope: str, table: str) -> list[str]:
    """Return the names of all shards of a table."""
    part = part_of_table(table)
    return [f"shapes:{scope}:{part}:{number}" for number in range(SHARDS)]


def is_shard_name(name: str) -> bool:
    """Return whether the name of a tag is that of a shard."""
    return name.startswith("shapes:")


def table_of_shard(name: str) -> str:
    """Return the table whose shapes a shard holds, given its name or key; "" if a damaged name has none."""
    return name.rpartition(":")[0].rpartition(":")[2]


def prefixes_of_queries(database: str, table: str) -> tuple[str, str]:
    """Return what the names of all shards of a table begin with; a namespace may be between the two."""
    return f"shapes:{database}", f":{part_of_table(table)}:"
