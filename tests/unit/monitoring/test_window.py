"""The minutes that rates are about."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cachebackend.monitoring import window


@pytest.mark.parametrize(("now", "seconds"), [(600.0, 240.0), (630.5, 270.5), (659.0, 299.0)])
def test_the_current_minute_counts_as_far_as_it_has_come(
    monkeypatch: pytest.MonkeyPatch, now: float, seconds: float
) -> None:
    """Else every rate would fall at the beginning of a minute."""
    monkeypatch.setattr(window, "time", SimpleNamespace(time=lambda: now))
    assert window.recent_seconds() == seconds
