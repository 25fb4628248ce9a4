"""Keys that cannot be equal, by their type alone."""

from __future__ import annotations

import pytest
from django.db import models

from cachebackend.writebehind.exact_keys import key_fault, key_fault_if_known
from tests.shop.models import Meter


def test_a_key_that_is_not_a_text_is_exact() -> None:
    """The database is not asked; this test has none."""
    assert key_fault(Meter, "default") is None
    assert key_fault_if_known(Meter) == (None, True)


def test_a_json_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts of JSON may be one key."""
    monkeypatch.setattr(Meter._meta, "pk", models.JSONField(primary_key=True))
    assert "different texts of JSON are equal" in str(key_fault(Meter, "default"))
