"""Django's system checks: one function for each message. The ids never change their meaning.

``caching`` has those of ring caches, cached models and invalidation, ``cached_models`` those of models that
settings name, ``failovers`` those of strict models on nodes with a failover, ``listening`` that of the
relay's connection, ``write_behind`` those of the models of write-behind, ``drains`` those of what drains
them.
May import everything below ``monitoring``. A check never changes anything, and asks no server except with
``check --database``.
"""

from __future__ import annotations

from django.core.checks import Tags, register

from cachebackend.checks.cached_models import (
    check_configured_managers,
    check_ignored_fields,
    check_model_labels,
    check_query_caches,
)
from cachebackend.checks.caching import (
    check_aliases,
    check_columns_of_codecs,
    check_engines,
    check_lookup_collations,
    check_lookups,
    check_namespace,
    check_namespace_of_writers,
    check_outbox,
    check_outbox_of_writers,
    check_outbox_tables,
    check_peer_settings,
    check_primary_keys,
    check_ring_settings,
    check_tenant_schemas,
    check_trigger_databases,
    check_triggers_app,
)
from cachebackend.checks.drains import (
    check_write_behind_connections,
    check_write_behind_migrations,
    check_write_behind_nodes,
    check_write_behind_ring,
    check_write_behind_schedule,
    check_write_behind_workers,
)
from cachebackend.checks.failovers import check_lost_quarantines, check_strict_failovers
from cachebackend.checks.listening import check_notifications
from cachebackend.checks.write_behind import (
    check_write_behind_engines,
    check_write_behind_fallback,
    check_write_behind_fields,
    check_write_behind_keys,
    check_write_behind_settings,
)

__all__ = [
    "check_aliases",
    "check_columns_of_codecs",
    "check_configured_managers",
    "check_engines",
    "check_ignored_fields",
    "check_lookup_collations",
    "check_lookups",
    "check_lost_quarantines",
    "check_model_labels",
    "check_namespace",
    "check_namespace_of_writers",
    "check_notifications",
    "check_outbox",
    "check_outbox_of_writers",
    "check_outbox_tables",
    "check_peer_settings",
    "check_primary_keys",
    "check_query_caches",
    "check_ring_settings",
    "check_strict_failovers",
    "check_tenant_schemas",
    "check_trigger_databases",
    "check_triggers_app",
    "check_write_behind_connections",
    "check_write_behind_engines",
    "check_write_behind_fallback",
    "check_write_behind_fields",
    "check_write_behind_keys",
    "check_write_behind_migrations",
    "check_write_behind_nodes",
    "check_write_behind_ring",
    "check_write_behind_schedule",
    "check_write_behind_settings",
    "check_write_behind_workers",
    "register_checks",
]


def register_checks() -> None:
    """Register every check with Django."""
    register(Tags.caches)(check_ring_settings)
    register(Tags.caches)(check_write_behind_settings)
    register(Tags.caches)(check_namespace)
    register(Tags.caches)(check_outbox)
    register(Tags.caches)(check_aliases)
    register(Tags.caches)(check_peer_settings)
    register(Tags.models)(check_engines)
    register(Tags.caches)(check_tenant_schemas)
    register(Tags.models)(check_strict_failovers)
    register(Tags.models)(check_lost_quarantines)
    register(Tags.models)(check_triggers_app)
    register(Tags.models)(check_trigger_databases)
    register(Tags.models)(check_namespace_of_writers)
    register(Tags.models)(check_outbox_of_writers)
    register(Tags.models)(check_columns_of_codecs)
    register(Tags.models)(check_lookups)
    register(Tags.models)(check_model_labels)
    register(Tags.models)(check_configured_managers)
    register(Tags.models)(check_ignored_fields)
    register(Tags.models)(check_query_caches)
    register(Tags.models)(check_primary_keys)
    register(Tags.models)(check_write_behind_fields)
    register(Tags.models)(check_write_behind_engines)
    register(Tags.database)(check_outbox_tables)
    register(Tags.models)(check_write_behind_fallback)
    register(Tags.database)(check_lookup_collations)
    register(Tags.database)(check_notifications)
    register(Tags.database)(check_write_behind_keys)
    register(Tags.caches)(check_write_behind_connections)
    register(Tags.database)(check_write_behind_migrations)
    register(Tags.caches)(check_write_behind_nodes)
    register(Tags.caches)(check_write_behind_ring)
    register(Tags.caches)(check_write_behind_schedule)
    register(Tags.database)(check_write_behind_workers)
