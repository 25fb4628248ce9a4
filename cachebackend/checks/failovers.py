"""Checks of strict models whose nodes may be failed over: a promoted replica may lack a quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's name
from django.db import models

from cachebackend.conf import ring_aliases, ring_options
from cachebackend.errors import ConfigurationError
from cachebackend.invalidation.watched import dependents_of, watched_models
from cachebackend.options import SENTINEL_SCHEME, RingOptions

__all__ = ["check_lost_quarantines", "check_strict_failovers"]


def check_strict_failovers(**_: Any) -> list[CheckMessage]:
    """ringcache.E020: a strict manager's node may be failed over, and the settings do not accept that."""
    return [
        Error(
            f"{model._meta.label} is cached strictly by CACHES[{alias!r}], but {replicated}: after a "
            "failover a reader may get a value older than an acknowledged commit.",
            hint="Use nodes without failover, or accept it by OPTIONS['strict_on_failover'] = 'accept'.",
            obj=model,
            id="ringcache.E020",
        )
        for model, alias, options, replicated in _strict_models()
        if options.strict_on_failover == "refuse"
    ]


def check_lost_quarantines(**_: Any) -> list[CheckMessage]:
    """ringcache.W002: a strict manager's node can lose confirmed quarantines in a failover."""
    return [
        Warning(
            f"{model._meta.label} is cached strictly by CACHES[{alias!r}], but {replicated}: a replica that "
            "is promoted may lack the latest quarantines and deletes.",
            hint="Set OPTIONS['wait_replicas'] = 1. Then only a primary that is cut off from the others can "
            "answer with an old value, until it knows.",
            obj=model,
            id="ringcache.W002",
        )
        for model, alias, options, replicated in _strict_models()
        if options.strict_on_failover == "accept" and not options.wait_replicas
    ]


def _strict_models() -> Iterator[tuple[type[models.Model], str, RingOptions, str]]:
    """Return each strict model on nodes with a failover, its alias, its options and a text that says so."""
    for model in watched_models():
        for alias in sorted({each.cache_alias for _, each in dependents_of(model) if each.is_strict}):
            options = _options_of(alias)
            if options is not None and (replicated := _failover_of(options)):
                yield model, alias, options, replicated


def _options_of(alias: str) -> RingOptions | None:
    try:
        return ring_options(alias) if alias in ring_aliases() else None
    except ConfigurationError:  # ringcache.E001 reports it
        return None


def _failover_of(options: RingOptions) -> str:
    """Return which nodes may be failed over, as a clause; an empty text: none of them."""
    if options.cluster is not None:
        return "LOCATION is a cluster"
    names = [repr(node.name) for node in options.nodes if node.url.startswith(f"{SENTINEL_SCHEME}:")]
    return (
        f"{', '.join(names)} of its nodes {'is' if len(names) == 1 else 'are'} behind Sentinel"
        if names
        else ""
    )
