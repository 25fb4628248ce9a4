"""Plans: the key of a statement's result, and the tags and shapes that it is stored under."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import django
from django.apps import apps
from django.conf import settings
from django.core.signals import setting_changed
from django.db import models
from django.db.models.signals import class_prepared, post_migrate
from django.db.models.sql.datastructures import Join

from cachebackend import protocol
from cachebackend.backend import RingCache
from cachebackend.backend.query_names import shard_names
from cachebackend.backend.scope import scope_of
from cachebackend.invalidation.catalogue import catalogue_of
from cachebackend.invalidation.tables import table_name, watched_tables
from cachebackend.protocol import ShapeEntry
from cachebackend.queries.binding import Values
from cachebackend.queries.counting import cached_form
from cachebackend.queries.dependencies import Dependency, compiled_query, unchanged
from cachebackend.queries.not_cached import NotCached
from cachebackend.queries.options import QueryOptions
from cachebackend.queries.params import text_of_params
from cachebackend.queries.relations import Path
from cachebackend.queries.tables import Rules
from cachebackend.query_counts import QueryForm
from cachebackend.ring import ClusterRing, Ring
from cachebackend.shapes import Shape

__all__ = ["Equalities", "Plan", "key_of_result", "plan_of", "refuse", "shard_of_result"]

#: The most plans that a process remembers, and the most values in them with which rows are compared: one of
#: these takes a hundred bytes.
_MAX_PLANS, _MAX_VALUES = 10_000, 200_000
#: The most tags and shapes of one result.
_MAX_NAMES = 200
#: How many keys are tried for each node of the ring until one has the owner of the tags.
_MAX_TRIES_A_NODE = 8
_plans: dict[tuple[Any, ...], Plan | NotCached] = {}
_values = 0  # in these plans


#: The canonical texts that a field may have.
Equalities: TypeAlias = "Mapping[models.Field[Any, Any], frozenset[str | None]]"


class Plan(NamedTuple):
    """How the result of a statement is cached.

    Attributes:
        name: What the process remembers it by.
        key: The key of the result.
        dependencies: What it depends on.
        tables: The tables that it depends on, as ``invalidation`` names them.
        tags: The keys of its tags.
        entries: The shape of each dependency.
        shapes: Its shapes, each once.
        equalities: The values to which the query binds fields of the rows that it returns, and of the rows
            to which their foreign keys lead, by the path to these.
        counted_as: The form of the query under which reads of the result are counted.
    """

    name: tuple[Any, ...]
    key: bytes
    dependencies: tuple[Dependency, ...]
    tables: frozenset[str]
    tags: tuple[bytes, ...]
    entries: tuple[ShapeEntry, ...]
    shapes: tuple[ShapeEntry, ...]
    equalities: Mapping[Path, Equalities]
    counted_as: QueryForm


def plan_of(compiler: Any, kind: str, options: QueryOptions, cache: RingCache) -> Plan | None:
    """Return how the result of a compiler's statement is cached.

    Args:
        compiler: Django's compiler of the query.
        kind: The form of the result: one row or all rows.
        options: How results are cached.
        cache: The cache that stores them.

    Returns:
        None: the result is known to be empty.

    Raises:
        NotCached: The result cannot be kept right.
    """
    with unchanged(compiler.query):
        sql, params = compiler.as_sql()
    if not sql:
        return None
    scope = scope_of(compiler.using)
    release = f"{django.get_version()} {settings.USE_TZ}"  # with USE_TZ times are aware, without it naive
    text = "\0".join([scope, sql, text_of_params(params), kind, release, str(options.timeout)])
    digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
    model = compiler.query.model  # two models of one table have the same SQL, and other fields
    name = (cache.key_prefix, cache.version, options.alias, options.depends_on, model, digest)
    plan = _plans.get(name)
    if plan is None:
        try:
            plan = _new_plan(compiler, name, scope, kind=kind, options=options, cache=cache)
        except NotCached as not_cached:
            plan = not_cached
        _remember(name, plan)
    if isinstance(plan, NotCached):
        raise NotCached(plan.reason)
    context = cache.client.context
    if context.full_shards and any(protocol.is_full(context, each.shard) for each in plan.shapes):
        return _general(plan, compiler.query, kind, scope, cache)
    return plan


def _remember(name: tuple[Any, ...], plan: Plan | NotCached) -> None:
    global _values  # noqa: PLW0603  # there is one count for a process
    if len(_plans) >= _MAX_PLANS or _values >= _MAX_VALUES:
        _forget()
    _plans[name] = plan
    if isinstance(plan, Plan):
        _values += sum(len(texts) for each in plan.equalities.values() for texts in each.values())


def refuse(plan: Plan, reason: str) -> None:
    """Let this process cache the result of a statement no more."""
    _plans[plan.name] = NotCached(reason)


def _general(plan: Plan, query: Any, kind: str, scope: str, cache: RingCache) -> Plan:
    """Return a plan that has the general shape in place of those for which the registry has no room."""
    context, general = cache.client.context, Shape([], None)
    dependencies = tuple(
        replace(each, shape=general, values={}) if protocol.is_full(context, entry.shard) else each
        for each, entry in zip(plan.dependencies, plan.entries, strict=True)
    )
    names = [name for each in dependencies for name in each.tag_names(scope)]
    entries = tuple(
        ShapeEntry(entry.shard, each.shape.id, each.shape.description, each.shape == general)
        for each, entry in zip(dependencies, plan.entries, strict=True)
    )
    return plan._replace(
        key=plan.key + b":general",
        dependencies=dependencies,
        tags=tuple(dict.fromkeys(cache.many_tag_bytes(names))),
        entries=entries,
        shapes=tuple(dict.fromkeys(entries)),
        counted_as=cached_form(query, kind, dependencies),
    )


def _new_plan(
    compiler: Any, name: tuple[Any, ...], scope: str, *, kind: str, options: QueryOptions, cache: RingCache
) -> Plan:
    rules = Rules(lambda table: any(options.alias in each.result_aliases for each in watched_tables(table)))
    depends_on = [apps.get_model(label) for label in options.depends_on]
    compiled = compiled_query(compiler.query, compiler.using, rules=rules, depends_on=depends_on)
    # A process that was started before a migration has another catalogue, and reads other dependencies from
    # it. It finds no result of the newer processes, nor they one of it
    facts = [catalogue_of(each.model._meta.db_table, compiler.using).text for each in compiled.dependencies]
    digest = sha256(name[-1] + "\0".join(facts).encode()).digest()
    ring = cache.client.context.ring
    of_each = [cache.many_tag_bytes(each.tag_names(scope)) for each in compiled.dependencies]
    bound = [
        tag for each, tags in zip(compiled.dependencies, of_each, strict=True) if each.values for tag in tags
    ]
    key = key_of_result(digest, bound, ring, cache.key_bytes)
    entries: list[ShapeEntry] = []
    for each in compiled.dependencies:
        shards = cache.many_tag_bytes(shard_names(scope, each.table))
        shard = shard_of_result(key, shards, digest, ring)
        is_general = each.shape == Shape([], None)
        entries.append(ShapeEntry(shard, each.shape.id, each.shape.description, is_general))
    tags, shapes = tuple(dict.fromkeys(chain.from_iterable(of_each))), tuple(dict.fromkeys(entries))
    if len(tags) + len(shapes) > _MAX_NAMES:
        raise NotCached(
            f"the result depends on {len(tags)} tags of {len(shapes)} shapes, more than {_MAX_NAMES}"
        )
    return Plan(
        name,
        key,
        tuple(compiled.dependencies),
        frozenset(each.table for each in compiled.dependencies),
        tags,
        tuple(entries),
        shapes,
        _equalities(compiler.query, compiled.equalities),
        cached_form(compiler.query, kind, compiled.dependencies),
    )


def key_of_result(
    digest: bytes, tags: Sequence[bytes], ring: Ring | ClusterRing, key_bytes: Callable[[str], bytes]
) -> bytes:
    """Return the key of a result: if possible, one whose owner has most of its tags, too.

    So a hit asks fewer nodes. Keys are made from the digest until one has that owner. Two processes whose
    rings differ may choose differently, and then each of them has a copy of the result: both copies are
    right, because both record the tokens of the same tags. In a cluster, where owners change while
    processes run, the first key is taken.

    Args:
        digest: The digest of the statement.
        tags: The keys of the tags whose shape binds columns. Without them all results of a table have one
            tag, and would be on one node.
        ring: The ring.
        key_bytes: Makes the key of a name.
    """
    first = key = key_bytes(f"result:{digest.hex()}")
    if ring.keys_move or not tags:
        return first
    [(wanted, _)] = Counter(map(ring.owner, tags)).most_common(1)
    for _ in range(_MAX_TRIES_A_NODE * len(ring)):
        if ring.owner(key) == wanted:
            return key
        digest = sha256(digest).digest()
        key = key_bytes(f"result:{digest.hex()}")
    return first


def shard_of_result(key: bytes, shards: Sequence[bytes], digest: bytes, ring: Ring | ClusterRing) -> bytes:
    """Return the shard in which a result registers a shape: if possible, one on the node of the result.

    So a hit asks one node less. Writers read all shards. Two processes whose rings differ may choose
    differently, and then each of them loads the result again that the other one has stored, until both
    have the same ring. The owners in a cluster differ too often for that.

    Args:
        key: The key of the result.
        shards: The keys of all shards of the table.
        digest: The digest of the statement.
        ring: The ring.
    """
    node = ring.owner(key)
    beside = [] if ring.keys_move else [shard for shard in shards if ring.owner(shard) == node]
    found = beside or shards
    return found[digest[0] % len(found)]


def _equalities(query: Any, by_alias: Mapping[str, Values]) -> Mapping[Path, Equalities]:
    """Return the values that the query binds fields to, by the path from its base table to theirs."""
    found: dict[Path, dict[Any, frozenset[str | None]]] = {}
    for alias, values in by_alias.items():
        reached = _reached(query, alias) if values else None
        if reached is None:
            continue
        path, model = reached
        table = table_name(query.alias_map[alias].table_name)
        fields = {
            field.column: field
            for field in model._meta.concrete_fields
            if table_name(field.model._meta.db_table) == table
        }
        bound = {fields[column]: frozenset(texts) for column, texts in values.items() if column in fields}
        found[path] = {**found.get(path, {}), **bound}
    return found


def _reached(query: Any, alias: str) -> tuple[Path, type[models.Model]] | None:
    """Return the foreign keys that lead to the rows of an alias, and their model; None: others lead there.

    A row of a child model has the columns of its parents.
    """
    if alias == query.base_table:
        return (), query.get_meta().model
    join = query.alias_map.get(alias)
    if not isinstance(join, Join) or join.filtered_relation is not None:
        return None
    field: Any = join.join_field
    owner = _reached(query, str(join.parent_alias)) if isinstance(field, models.ForeignKey) else None
    if owner is None or field.remote_field.parent_link:
        return owner
    return (*owner[0], field.name), field.remote_field.model


def _forget(**_: Any) -> None:
    global _values  # noqa: PLW0603  # see ``_remember``
    _plans.clear()
    _values = 0


for _signal in (class_prepared, post_migrate, setting_changed):
    _signal.connect(_forget, dispatch_uid="ringcache:plans")
