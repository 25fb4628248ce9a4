"""The minutes over which rates are computed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cachebackend.monitoring import window


@pytest.mark.parametrize(("now", "seconds"), [(600.0, 240.0), (630.5, 270.5), (659.0, 299.0)])
def test_the_current_minute_counts_with_its_elapsed_seconds(
    monkeypatch: pytest.MonkeyPatch, now: float, seconds: float
) -> None:
    """Otherwise every rate would fall at the beginning of a minute."""
    monkeypatch.setattr(window, "time", SimpleNamespace(time=lambda: now))
    assert window.recent_seconds() == seconds
