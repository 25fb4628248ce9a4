"""What a transaction does with its keys: quarantines, deletes, the ends of quarantines."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.watched import KeysByAlias
from tests.unit.invalidation.fix_client import Client, client

__all__ = ["client"]

ROW, OTHER_ROW, TAG = b"row", b"other row", b"tag\xff"


def pending(keys: KeysByAlias, strict: KeysByAlias | None = None) -> PendingDeletes:
    made = PendingDeletes("default")
    made.keys, made.strict_keys = keys, strict or {}
    return made


def test_tags_are_deleted_although_a_value_is_not_confirmed(client: Client) -> None:
    """What was made from the old row before is stale in any case."""
    client.refused = {ROW}
    assert pending({"default": {ROW, TAG}}).delete() == {"default": {ROW}}
    assert client.ran == [("delete_many", {ROW}), ("delete_many", {TAG})]


def test_quarantines_end_before_tags_are_deleted(client: Client) -> None:
    """A quarantined key is not deleted besides."""
    writing = pending({"default": {ROW, OTHER_ROW, TAG}}, {"default": {ROW}})
    writing.quarantine()
    assert writing.delete() == {}
    assert client.ran == [
        ("quarantine", {ROW}),
        ("delete_many", {OTHER_ROW}),
        ("unquarantine", {ROW}),
        ("delete_many", {TAG}),
    ]


def test_all_strict_keys_are_quarantined_in_one_scatter(client: Client) -> None:
    """A second call places only those that were added since."""
    writing = pending({}, {"default": {ROW, OTHER_ROW}})
    writing.quarantine()
    writing.strict_keys["default"].add(b"third")
    writing.quarantine()
    assert client.ran == [("quarantine", {ROW, OTHER_ROW}), ("quarantine", {b"third"})]


def test_a_quarantine_that_is_not_confirmed_ends_those_that_were_placed(client: Client) -> None:
    """The one whose reply is missing too: its node may have placed it. The rollback then ends none again."""
    client.refused = {OTHER_ROW}
    writing = pending({}, {"default": {ROW}, "other": {OTHER_ROW}})
    with pytest.raises(NodeUnavailableError):
        writing.quarantine()
    assert client.ran[2:] == [("unquarantine", {ROW}), ("unquarantine", {OTHER_ROW})]
    assert writing.end_quarantines() == {}
    assert len(client.ran) == 4


def test_quarantines_can_be_left_to_expire(client: Client) -> None:
    """If the result of a commit is not known, nothing ends them."""
    writing = pending({"default": {ROW}}, {"default": {ROW}})
    writing.quarantine()
    writing.leave_quarantines()
    assert writing.end_quarantines() == {}
    assert client.ran == [("quarantine", {ROW})]


class Through:
    """A dependent that writes through."""

    def __init__(self) -> None:
        self.refilled: list[set[Any]] = []

    def refill(self, keys: Any) -> None:
        self.refilled.append(set(keys))


def test_pending_deletes_take_in_others(client: Client) -> None:
    """Their keys, their strict keys, and the rows to load again, each once."""
    dependent: Any = Through()
    one, other = pending({"default": {ROW}}), pending({"default": {OTHER_ROW}}, {"default": {OTHER_ROW}})
    one._refills = {id(dependent): (dependent, {1})}
    other._refills = {id(dependent): (dependent, {1, 2})}
    one.add(other)
    one.refill()
    assert (one.keys, one.strict_keys) == ({"default": {ROW, OTHER_ROW}}, {"default": {OTHER_ROW}})
    assert dependent.refilled == [{1, 2}]
