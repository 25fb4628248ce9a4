"""The order of deletes: values, then tags."""

from __future__ import annotations

from cachebackend.invalidation.deletes import delete_keys, values_and_tags
from tests.unit.invalidation.fix_client import Client, client

__all__ = ["client"]

ROW, OTHER_ROW, TAG, OTHER_TAG = b"row", b"other row", b"tag\xff", b"other tag\xff"


def test_keys_are_values_or_tags() -> None:
    """An alias without keys of a kind is left out."""
    keys = {"default": {ROW, TAG}, "pages": {OTHER_TAG}}
    assert values_and_tags(keys) == ({"default": {ROW}}, {"default": {TAG}, "pages": {OTHER_TAG}})


def test_the_values_of_all_aliases_are_deleted_before_any_tag(client: Client) -> None:
    """A page of one alias may be made from a row of another alias."""
    assert delete_keys({"pages": {TAG}, "default": {ROW, OTHER_TAG}, "other": {OTHER_ROW}}) == {}
    kinds = [[key.endswith(b"\xff") for key in keys] for _, keys in client.ran]
    assert sorted(kinds) == kinds == [[False], [False], [True], [True]]
