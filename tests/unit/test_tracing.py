"""Spans without a tracer provider."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from opentelemetry import trace

from cachebackend.tracing import begin, span


@pytest.fixture(autouse=True)
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)


def test_without_a_provider_a_span_is_nothing() -> None:
    """It can be entered, and creates no object of OpenTelemetry."""
    with span("ringcache.load", key="k") as entered:
        assert entered is None


def test_without_a_provider_nothing_begins() -> None:
    """Ending it is allowed, too."""
    assert begin("ringcache.fill_wait")() is None


def test_while_another_thread_imports_the_api_there_is_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is known before its names are."""
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))
    with span("ringcache.load", key="k") as entered:
        assert entered is None
    assert begin("ringcache.fill_wait")() is None
