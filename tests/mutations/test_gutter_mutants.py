"""Mutants of the gutter: each removes one line that it depends on, and a named test must fail."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.effects import Operation
from cachebackend.protocol import Context
from cachebackend.protocol.ring import write as write_module
from tests.integration import test_gutter
from tests.integration.test_gutter import Spared, spared  # noqa: F401  # a fixture of those tests
from tests.mutations.test_mutants import is_caught

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_nodes"),
]
Patch = pytest.MonkeyPatch


def nothing(*_: Any, **__: Any) -> Operation[list[bytes]]:
    return []
    yield


@pytest.mark.parametrize("way", ["delete", "set", "invalidate"])
def test_gutter_without_deletes(spared: Spared, monkeypatch: Patch, way: str) -> None:  # noqa: F811
    """Only the owner receives the delete."""
    monkeypatch.setattr(write_module, "delete_in_gutter", nothing)
    test = test_gutter.test_a_write_by_a_process_that_reaches_the_owner_is_deleted_in_the_gutter
    assert is_caught(test, spared, way)


def test_gutter_without_a_short_timeout(spared: Spared, monkeypatch: Patch) -> None:  # noqa: F811
    """Values are stored there for the timeout of the caller."""
    monkeypatch.setattr(Context, "ttl_at", lambda _, __, ttl_ms: ttl_ms)
    assert is_caught(
        test_gutter.test_a_value_loaded_while_the_owner_is_ejected_is_stored_for_a_short_time, spared
    )


def test_strict_rows_in_the_gutter(spared: Spared, monkeypatch: Patch) -> None:  # noqa: F811
    """No quarantine guards them there."""
    monkeypatch.setattr(Context, "for_strict", lambda context: context)
    assert is_caught(test_gutter.test_strict_rows_are_never_stored_in_the_gutter, spared, monkeypatch)


def test_set_without_a_missed_delete_for_the_owner(spared: Spared, monkeypatch: Patch) -> None:  # noqa: F811
    """The value that the owner had before the set is read again when the owner is back."""
    monkeypatch.setattr(write_module, "_record_older", lambda *_: None)
    assert is_caught(
        test_gutter.test_a_value_set_while_the_owner_is_ejected_is_stored_for_a_short_time, spared
    )
