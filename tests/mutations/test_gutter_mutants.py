"""Each line that the gutter rests on, taken out: a named test must notice."""

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
def test_no_delete_in_the_gutter(spared: Spared, monkeypatch: Patch, way: str) -> None:  # noqa: F811
    """Only the owner is told."""
    monkeypatch.setattr(write_module, "delete_in_gutter", nothing)
    test = test_gutter.test_a_write_of_a_process_that_sees_the_owner_reaches_the_gutter
    assert is_caught(test, spared, way)


def test_no_end_to_what_it_keeps(spared: Spared, monkeypatch: Patch) -> None:  # noqa: F811
    """Values live there for as long as their caller said."""
    monkeypatch.setattr(Context, "ttl_at", lambda _, __, ttl_ms: ttl_ms)
    assert is_caught(test_gutter.test_what_is_loaded_meanwhile_is_kept_for_a_while, spared)


def test_strict_rows_in_it(spared: Spared, monkeypatch: Patch) -> None:  # noqa: F811
    """Where no quarantine is."""
    monkeypatch.setattr(Context, "for_strict", lambda context: context)
    assert is_caught(test_gutter.test_strict_rows_are_never_there, spared, monkeypatch)


def test_the_owner_is_owed_nothing(spared: Spared, monkeypatch: Patch) -> None:  # noqa: F811
    """What stood at the owner before a set is read again when it is back."""
    monkeypatch.setattr(write_module, "_record_older", lambda *_: None)
    assert is_caught(test_gutter.test_what_is_set_meanwhile_is_kept_for_a_while, spared)
