"""Publishing, and comparing the copies of counts: one alias does not hinder another one."""

from __future__ import annotations

import pytest

from cachebackend.clock import SYSTEM_CLOCK, RateLimit
from cachebackend.errors import ConfigurationError, NodeUnavailableError
from cachebackend.telemetry import publisher
from cachebackend.telemetry.publisher import level_all, publish_all


@pytest.fixture(autouse=True)
def two_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both nodes of the counts of the first one are away; the relay has not compared copies lately."""
    monkeypatch.setattr(publisher, "ring_aliases", lambda: ["away", "other"])
    monkeypatch.setattr(publisher, "_levels", RateLimit(SYSTEM_CLOCK, 60.0))
    monkeypatch.setattr(publisher, "has_write_behind", lambda: False)


def test_the_copies_of_other_aliases_are_compared_while_one_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At most once a minute. The breaker logs nodes that do not answer."""
    compared = []

    class Publication:
        def __init__(self, alias: str) -> None:
            self.alias = alias

        def level(self) -> None:
            compared.append(self.alias)
            if self.alias == "away":
                raise NodeUnavailableError

    monkeypatch.setattr(publisher, "_of_alias", Publication)
    monkeypatch.setattr(publisher, "total_query_counts", lambda alias: compared.append(f"queries of {alias}"))
    level_all()
    level_all()
    assert compared == ["away", "other", "queries of other"]
    assert caplog.records == []


def test_wrong_settings_are_not_logged_with_each_publication(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The checks report them. An unexpected error is logged, and the next alias is published."""
    published = []

    def publish(alias: str) -> None:
        published.append(alias)
        raise {"away": ValueError, "other": ConfigurationError}[alias](["CACHES['other']: no nodes"])

    monkeypatch.setattr(publisher, "publish_counts", publish)
    publish_all()
    assert published == ["away", "other"]
    assert [record.message for record in caplog.records] == ["the counts of 'away' could not be published"]
