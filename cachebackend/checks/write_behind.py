"""Checks of write-behind: its settings, its models, its workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's name
from django.db import models, router

from cachebackend.checks.caching import settings_faults
from cachebackend.conf import write_behind_options
from cachebackend.errors import ConfigurationError
from cachebackend.writebehind import WriteBehindManager
from cachebackend.writebehind.engines import engine_fault
from cachebackend.writebehind.exact_keys import key_fault
from cachebackend.writebehind.queue import behind_models

__all__ = [
    "check_write_behind_engines",
    "check_write_behind_fallback",
    "check_write_behind_fields",
    "check_write_behind_keys",
    "check_write_behind_settings",
]


def check_write_behind_settings(**_: Any) -> list[CheckMessage]:
    """ringcache.E002: ``WRITE_BEHIND`` has a fault."""
    return settings_faults(write_behind_options, "ringcache.E002")


def check_write_behind_fields(**_: Any) -> list[CheckMessage]:
    """ringcache.E005: a ``WriteBehindManager`` has a field, or a primary key, that it cannot write."""
    return [
        Error(
            fault,
            hint="WriteBehindManager(fields=[…]) names columns of the model's own table. "
            "The primary key is one column.",
            obj=model,
            id="ringcache.E005",
        )
        for model, manager in _managers()
        for fault in manager.rows.faults()
    ]


def check_write_behind_fallback(**_: Any) -> list[CheckMessage]:
    """ringcache.W016: counters are never written through, because their manager may create or delete rows."""
    try:
        is_through = write_behind_options().on_unavailable == "write_through"
    except ConfigurationError:  # ringcache.E002 reports it
        return []
    return [
        Warning(
            f"{model._meta.label}.{manager.name}: on_unavailable='write_through' does not apply to its "
            "counters, because a queued creation or deletion of the row could undo the write.",
            hint="Add updates_only=True to the WriteBehindManager, which then refuses create() and delete().",
            obj=model,
            id="ringcache.W016",
        )
        for model, manager in _managers()
        if is_through and manager.counters and not manager.updates_only
    ]


def check_write_behind_keys(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """ringcache.E013: a ``WriteBehindManager`` is on a model whose key holds different texts equal."""
    return [
        Error(
            fault,
            hint="The queue compares keys byte by byte, and the database does not.",
            obj=model,
            id="ringcache.E013",
        )
        for model in behind_models()
        for using in [router.db_for_write(model)]
        if using in (databases or ())
        if (fault := key_fault(model, using)) is not None
    ]


def check_write_behind_engines(**_: Any) -> list[CheckMessage]:
    """ringcache.E014: a ``WriteBehindManager`` is on a model outside of Postgres, or psycopg 3 is missing."""
    return [
        Error(
            fault,
            hint="Let the routers write the model to a Postgres database, or remove the WriteBehindManager.",
            obj=model,
            id="ringcache.E014",
        )
        for model in behind_models()
        if (fault := engine_fault(model, router.db_for_write(model))) is not None
    ]


def _managers() -> Iterator[tuple[type[models.Model], WriteBehindManager[Any]]]:
    for model in behind_models():
        for value in vars(model).values():
            if isinstance(value, WriteBehindManager):
                yield model, value
