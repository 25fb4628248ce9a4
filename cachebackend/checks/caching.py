"""Checks of ring caches, cached models and invalidation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's name
from django.db import connections, models, router

from cachebackend.backend import find_ring_cache
from cachebackend.backend.collations import inexact_collation
from cachebackend.backend.engine_names import engine_name
from cachebackend.checks.migrated import lacks_outbox
from cachebackend.conf import (
    namespace_function,
    project_options,
    ring_aliases,
    ring_options,
)
from cachebackend.decorators import aliases_of_functions
from cachebackend.errors import ConfigurationError
from cachebackend.invalidation.compilers import is_installed
from cachebackend.invalidation.outbox_databases import outbox_databases
from cachebackend.invalidation.outbox_table import may_have_outbox
from cachebackend.invalidation.trigger_rows import triggered_models
from cachebackend.invalidation.watched import all_dependents, dependents_of, watched_models
from cachebackend.managers import CachedManager
from cachebackend.managers.audit import cached_managers
from cachebackend.models import OutboxRow
from cachebackend.options.other_backends import GLOBAL_SETTINGS
from cachebackend.writebehind.queue import behind_models

__all__ = [
    "check_aliases",
    "check_columns_of_codecs",
    "check_engines",
    "check_lookup_collations",
    "check_namespace",
    "check_namespace_of_writers",
    "check_outbox",
    "check_outbox_of_writers",
    "check_outbox_tables",
    "check_peer_settings",
    "check_ring_settings",
    "check_tenant_schemas",
    "check_trigger_databases",
    "check_triggers_app",
    "settings_faults",
]

#: The fields whose values a codec refuses, beside ranges.
_REFUSED: Mapping[str, tuple[type[Any], ...]] = {
    "json": (
        models.BinaryField,
        models.DateField,
        models.DecimalField,
        models.DurationField,
        models.TimeField,
        models.UUIDField,
    ),
    "msgpack": (),
}


def check_ring_settings(**_: Any) -> list[CheckMessage]:
    """ringcache.E001: a ring cache in ``CACHES`` has a fault."""
    return [
        message
        for alias in ring_aliases()
        for message in settings_faults(lambda alias=alias: ring_options(alias), "ringcache.E001")  # type: ignore[misc]
    ]


def check_namespace(**_: Any) -> list[CheckMessage]:
    """ringcache.E010: ``RINGCACHE["namespace"]`` does not name a function."""
    try:
        is_function = namespace_function() is None or callable(namespace_function())
    except ImportError:
        is_function = False
    if is_function:
        return []
    return [
        Error(
            f"RINGCACHE['namespace']: there is no function {project_options().namespace!r}.",
            hint="Name a function without arguments that returns a text.",
            id="ringcache.E010",
        )
    ]


def check_outbox(**_: Any) -> list[CheckMessage]:
    """ringcache.W003: there is no outbox to store the deletes that a node misses."""
    using = router.db_for_write(OutboxRow)
    if not ring_aliases() or may_have_outbox(using):
        return []
    return [
        Warning(
            f"Database {using!r} has no outbox: deletes that a node misses are lost when the process ends.",
            hint="Configure a database in DATABASES, and let the routers migrate cachebackend there.",
            id="ringcache.W003",
        )
    ]


def check_outbox_tables(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """ringcache.W015: the routers let a database have an outbox, and it has no table for it."""
    return [
        Warning(
            f"Database {using!r} has no table {OutboxRow._meta.db_table}: writes there have no outbox, and "
            "each probe of a node asks the database for it.",
            hint=f"Run migrate --database {using}, or let the routers keep cachebackend out of it.",
            id="ringcache.W015",
        )
        for using in outbox_databases()
        if ring_aliases() and using in (databases or ()) and lacks_outbox(using)
    ]


def check_outbox_of_writers(**_: Any) -> list[CheckMessage]:
    """ringcache.W011: a cached model is written to a database that has no outbox."""
    return [
        Warning(
            f"{model._meta.label} is written to database {using!r}, which has no outbox: a delete that a "
            "crash or a node failure prevents after the commit is lost.",
            hint="Let the routers migrate cachebackend there too: the outbox's row is in the transaction of "
            "the write.",
            obj=model,
            id="ringcache.W011",
        )
        for model in watched_models()
        for using in [router.db_for_write(model)]
        if not may_have_outbox(using)
        and any(each.cache_alias in ring_aliases() for _, each in dependents_of(model))
    ]


def check_columns_of_codecs(**_: Any) -> list[CheckMessage]:
    """ringcache.E016: a cached model has a column that the alias' codec cannot hold."""
    return [
        Error(
            f"{model._meta.label}.{dependent.name} is cached by CACHES[{dependent.cache_alias!r}], whose "
            f"codec {codec!r} cannot hold {', '.join(names)}: every read that fills would fail.",
            hint="Use the codec 'msgpack', which also never pickles, or 'signed-pickle' for ranges.",
            obj=model,
            id="ringcache.E016",
        )
        for model, dependent in all_dependents()
        if isinstance(dependent, CachedManager) and (codec := _codec_of(dependent.cache_alias)) in _REFUSED
        if (names := [each.name for each in model._meta.concrete_fields if not _can_hold(codec, each)])
    ]


def _codec_of(alias: str) -> str:
    """Return the name of an alias' codec; empty: it has none that is known."""
    try:
        return ring_options(alias).codec if alias in ring_aliases() else ""
    except ConfigurationError:  # check_ring_settings reports it
        return ""


def _can_hold(codec: str, field: Any) -> bool:
    """Return whether a codec holds the values of a field: for a key or an array, those of another field."""
    while isinstance(field, models.ForeignKey):
        field = field.target_field
    if isinstance(field, models.GeneratedField):
        field = field.output_field
    is_range = hasattr(field, "range_type")  # of Postgres; psycopg may be missing
    if is_range or isinstance(field, _REFUSED[codec]):
        return False
    base = getattr(field, "base_field", None)
    return base is None or _can_hold(codec, base)


def check_aliases(**_: Any) -> list[CheckMessage]:
    """ringcache.W005: a manager or a cached function uses an alias that is not a ring cache."""
    users: dict[str, list[str]] = {}
    for model, dependent in all_dependents():
        if isinstance(dependent, CachedManager):
            users.setdefault(dependent.cache_alias, []).append(f"{model._meta.label}.{dependent.name}")
    for alias in aliases_of_functions():
        users.setdefault(alias, []).append("functions with @cached")
    return [
        Warning(
            f"CACHES[{alias!r}] is not a ring cache, so nothing is cached by {', '.join(names)}.",
            hint="Every read goes to the database, which is right for development and tests. "
            "In production the alias needs the BACKEND 'cachebackend.RingCache'.",
            id="ringcache.W005",
        )
        for alias, names in sorted(users.items())
        if find_ring_cache(alias) is None
    ]


def check_peer_settings(**_: Any) -> list[CheckMessage]:
    """ringcache.W004: the settings have an option of django-redis, which nothing reads any more."""
    used = {str(block.get("BACKEND")).partition(".")[0] for block in settings.CACHES.values()}
    if not ring_aliases() or "django_redis" in used:
        return []
    return [
        Warning(f"{name} is a setting of django-redis.", hint=f"Here {text}.", id="ringcache.W004")
        for name, text in GLOBAL_SETTINGS.items()
        if hasattr(settings, name)
    ]


def check_engines(**_: Any) -> list[CheckMessage]:
    """ringcache.E006: the database engine has SQL compilers of its own, so nothing sees the writes."""
    if not watched_models():
        return []
    return [
        Error(
            f"The engine of database {using!r} replaces Django's SQL compilers: no write invalidates.",
            hint="Use an engine whose compilers inherit execute_sql() from Django's.",
            id="ringcache.E006",
        )
        for using in connections
        if may_have_outbox(using) and not is_installed(connections[using])
    ]


def check_tenant_schemas(**_: Any) -> list[CheckMessage]:
    """ringcache.E007: a database connection switches between schemas, which the outbox does not follow."""
    return [
        Error(
            f"Database {using!r} has a schema for each tenant, which django-ringcache does not support: "
            "pending deletes are lost in a tenant's schema, and a node is cleared of one tenant's keys only.",
            hint="Use another cache backend, or keep tenants apart by a column or by a database each.",
            id="ringcache.E007",
        )
        for using in connections
        if ring_aliases() and hasattr(connections[using], "set_schema")
    ]


def check_triggers_app(**_: Any) -> list[CheckMessage]:
    """ringcache.E003: a manager has ``triggers=True``, but migrations cannot create them."""
    messages: list[CheckMessage] = []
    for model in triggered_models():
        if not apps.is_installed("pgtrigger"):
            fault = "pgtrigger is not installed"
            hint = "Add 'pgtrigger' to INSTALLED_APPS, and run makemigrations and migrate."
        elif not model._meta.managed:
            fault = "its table is not managed by Django, so no migration creates the triggers"
            hint = "Create them with manage.py pgtrigger install, and silence this check."
        else:
            continue
        text = f"{model._meta.label} has a CachedManager with triggers=True, but {fault}."
        messages.append(Error(text, hint=hint, obj=model, id="ringcache.E003"))
    return messages


def check_trigger_databases(**_: Any) -> list[CheckMessage]:
    """ringcache.E004: a manager has ``triggers=True``, but its database has no triggers or no outbox."""
    return [
        Error(
            f"{model._meta.label} has a CachedManager with triggers=True; its database {using!r} {fault}.",
            hint="Remove triggers=True, or have the model and the outbox in one Postgres database.",
            obj=model,
            id="ringcache.E004",
        )
        for model in triggered_models()
        for using in [router.db_for_write(model)]
        for fault in [_trigger_fault(using)]
        if fault
    ]


def check_namespace_of_writers(**_: Any) -> list[CheckMessage]:
    """ringcache.E011: rows are written outside their namespace, by triggers or by write-behind."""
    if not project_options().namespace:
        return []
    cached_models = {manager.model for manager in cached_managers()}
    writers = [(model, "a CachedManager with triggers=True") for model in triggered_models()]
    writers += [(model, "a WriteBehindManager") for model in behind_models() if model in cached_models]
    return [
        Error(
            f"{model._meta.label} has {writer}, which writes without a namespace; RINGCACHE has one.",
            hint="What is cached of the rows in a namespace would not be invalidated. Remove one of the two.",
            obj=model,
            id="ringcache.E011",
        )
        for model, writer in writers
    ]


def check_lookups(**_: Any) -> list[CheckMessage]:
    """ringcache.E017: a ``CachedManager`` has a lookup by which rows cannot be cached."""
    return [
        Error(f"{fault}.", hint="Remove it from lookups=[…].", obj=manager.model, id="ringcache.E017")
        for manager in cached_managers()
        for fault in manager.faults
    ]


def check_primary_keys(**_: Any) -> list[CheckMessage]:
    """ringcache.W013: rows are not cached, because their primary key is not one of Django's fields."""
    return [
        Warning(
            f"{manager.model._meta.label} has a CachedManager, but its rows are not cached: the database may "
            f"hold values of a {type(manager.model._meta.pk).__name__} equal that Python holds different.",
            hint="Use a field of Django as the primary key, or remove the manager.",
            obj=manager.model,
            id="ringcache.W013",
        )
        for manager in cached_managers()
        if not manager.has_keys
    ]


def check_lookup_collations(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """ringcache.E012: a ``CachedManager`` has a lookup whose column holds different texts equal."""
    return [
        Error(
            f"{manager.model._meta.label}: texts of the lookup {field.name!r} are equal by {reason}.",
            hint="Remove it from lookups=[…], or give the column a deterministic collation.",
            obj=manager.model,
            id="ringcache.E012",
        )
        for manager in cached_managers()
        for using in [router.db_for_write(manager.model)]
        if using in (databases or ())
        for field in manager.lookup_fields
        if (reason := inexact_collation(field, using)) is not None
    ]


def _trigger_fault(using: str) -> str:
    if connections[using].vendor != "postgresql":
        return f"is {engine_name(using)}, not Postgres"
    return "" if may_have_outbox(using) else "has no outbox table"


def settings_faults(read: Callable[[], object], identifier: str) -> list[CheckMessage]:
    """Return an error for each fault of a settings block, with the text of its exception."""
    try:
        read()
    except ConfigurationError as error:
        return [Error(fault, id=identifier) for fault in error.faults]
    return []
