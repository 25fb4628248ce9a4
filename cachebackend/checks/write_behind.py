"""Checks of write-behind: its settings, its models, its workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.db import router

from cachebackend.checks.caching import settings_faults
from cachebackend.conf import write_behind_options
from cachebackend.writebehind import WriteBehindManager
from cachebackend.writebehind.engines import engine_fault
from cachebackend.writebehind.exact_keys import key_fault
from cachebackend.writebehind.queue import behind_models

__all__ = [
    "check_write_behind_engines",
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
        for model in behind_models()
        for manager in vars(model).values()
        if isinstance(manager, WriteBehindManager)
        for fault in manager.rows.faults()
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
    """ringcache.E014: a ``WriteBehindManager`` is on a model whose database is not Postgres."""
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
