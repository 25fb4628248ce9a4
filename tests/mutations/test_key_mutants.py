"""Mutants of the rules of keys: each removes one of them, and a named test must fail."""

from __future__ import annotations

import pytest

from cachebackend import RingCache
from cachebackend.backend import canonical, tag_names
from cachebackend.backend import keys as backend_keys
from cachebackend.backend.canonical import key_part
from cachebackend.managers import by_key, keys, lookups
from tests.integration import test_keys
from tests.zoo.models import Handle

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
Patch = pytest.MonkeyPatch
#: A test that fails raises one of these.
FAILED = (AssertionError, pytest.fail.Exception)


def test_a_row_must_be_compared_with_the_value(monkeypatch: Patch, ring_cache: RingCache) -> None:
    """Else the row that the key holds is returned for any value."""
    monkeypatch.setattr(lookups.Lookup, "are_equal", lambda *_: True)
    with pytest.raises(FAILED):
        test_keys.test_a_value_of_another_row_is_never_returned(ring_cache)


def test_one_query_must_decide_in_the_end(monkeypatch: Patch) -> None:
    """Else a row that is renamed all the time is returned under another name."""
    monkeypatch.setattr(lookups.Lookup, "are_equal", lambda *_: True)
    with pytest.raises(FAILED):
        test_keys.test_a_row_that_is_renamed_between_two_reads_is_not_returned()


def test_a_text_that_looks_like_a_hash_must_be_hashed(monkeypatch: Patch) -> None:
    """Else it is the key of the text that has this hash, and the two rows replace each other."""
    monkeypatch.setattr(keys, "key_part", lambda text: text if text.startswith("#") else key_part(text))
    monkeypatch.setattr(lookups.Lookup, "are_equal", lambda *_: True)
    with pytest.raises(FAILED):
        test_keys.test_the_hash_of_a_text_is_not_the_key_of_another_row()


def test_a_tag_must_be_outside_the_keys_of_callers(monkeypatch: Patch, ring_cache: RingCache) -> None:
    """Else a caller's key replaces its token."""
    monkeypatch.setattr(backend_keys, "_TAG_END", b"")
    with pytest.raises(FAILED):
        test_keys.test_tags_are_not_among_the_keys_of_callers(ring_cache)


def test_a_write_must_delete_under_each_alias_of_its_database(monkeypatch: Patch) -> None:
    """Else what is cached of the other alias stays."""
    monkeypatch.setattr(by_key, "scopes_of_write", lambda using: [by_key.scope_of(using)])
    with pytest.raises(FAILED):
        test_keys.test_another_alias_of_one_database_invalidates_too(monkeypatch)


def test_a_model_that_nothing_watches_must_be_refused(monkeypatch: Patch, ring_cache: RingCache) -> None:
    """Else its tag is inert."""
    monkeypatch.setattr(tag_names, "_check", lambda _: None)
    with pytest.raises(FAILED):
        test_keys.test_a_model_that_nothing_watches_is_refused_as_a_tag(ring_cache)


def test_a_field_that_decides_itself_must_have_no_keys(monkeypatch: Patch) -> None:
    """Else the absence of a value outlives the insert of an equal one."""
    monkeypatch.setattr(canonical, "_decides_as_django", lambda _: True)
    monkeypatch.setitem(vars(Handle.cached._keys), "exist", True)  # the manager may remember the answer
    with pytest.raises((*FAILED, Handle.DoesNotExist)):
        test_keys.test_rows_of_in_bulk_without_keys_are_read_from_the_database()


def test_an_expression_must_have_no_key(monkeypatch: Patch) -> None:
    """Else its text is taken for its value."""
    monkeypatch.setattr(canonical, "hasattr", lambda *_: False, raising=False)
    with pytest.raises(FAILED):
        test_keys.test_an_expression_is_asked_of_the_database()
