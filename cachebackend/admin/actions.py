"""What the page can delete: asked for, confirmed, done, and told as it came out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django import forms
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.http import HttpRequest

from cachebackend import protocol
from cachebackend.backend import RingCache, ring_cache
from cachebackend.conf import ring_aliases
from cachebackend.errors import NodeUnavailableError

__all__ = ["ActionForm", "log_action"]

_OWED = "its node does not answer; it is owed, and made when the node is back"


class ActionForm(forms.Form):
    """What to delete; posted twice, the second time with ``confirmed``."""

    action = forms.ChoiceField()
    alias = forms.ChoiceField()
    target = forms.CharField(strip=False)
    version = forms.IntegerField(required=False, min_value=0)
    confirmed = forms.BooleanField(required=False)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for name, choices in (("action", _ACTIONS), ("alias", ring_aliases())):
            field = self.fields[name]
            assert isinstance(field, forms.ChoiceField)  # noqa: S101  # it stands above
            field.choices = [(choice, choice) for choice in choices]

    def clean(self) -> dict[str, Any]:
        """Refuse a node that the alias has not."""
        asked = self.cleaned_data
        if asked.get("action") == "clear_node" and {"alias", "target"} <= asked.keys():
            names = ring_cache(asked["alias"]).client.ring.names
            if asked["target"] not in names:
                message = f"{asked['alias']!r} has no node {asked['target']!r}; it has {', '.join(names)}."
                raise forms.ValidationError(message)
        return asked

    @property
    def fault(self) -> str:
        """Why nothing can be done, in a sentence."""
        return str(next(iter(self.non_field_errors()), "That is nothing the page can do."))

    @property
    def words(self) -> str:
        """What is asked for, as "delete …"."""
        return _WORDS[self.cleaned_data["action"]].format(**self.cleaned_data)

    def act(self) -> str:
        """Do what is asked for; return what came of it, in words.

        Raises:
            RingCacheError: Nothing, or not all, was done, and nobody will see to the rest.
        """
        asked = self.cleaned_data
        return _ACTIONS[asked["action"]](ring_cache(asked["alias"]), asked)


def log_action(request: HttpRequest, model: type[models.Model], words: str) -> None:
    """Keep in Django's admin log what a user had done."""
    LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=ContentType.objects.get_for_model(model),
        object_repr=words[:200],
        action_flag=CHANGE,
        change_message=words,
    )


def _delete(cache: RingCache, key: bytes) -> str:
    client = cache.client
    with suppress(NodeUnavailableError):  # noted as missed, which is told
        client.run(protocol.delete(client.context, key))
    holders = (node for node in range(len(client.nodes)) if client.context.may_hold(node, key))
    return _OWED if any(client.context.missed.count(node) != 0 for node in holders) else "done"


def _delete_key(cache: RingCache, asked: dict[str, Any]) -> str:
    return _delete(cache, cache.key_bytes(asked["target"], asked["version"]))


def _delete_tag(cache: RingCache, asked: dict[str, Any]) -> str:
    return _delete(cache, cache.tag_bytes(asked["target"]))


def _clear_node(cache: RingCache, asked: dict[str, Any]) -> str:
    client = cache.client
    node = client.ring.names.index(asked["target"])
    deleted = client.run(protocol.clear(client.context, cache.pattern, [node]))
    if client.context.missed.count(node) is None:
        message = (
            f"node {asked['target']!r} does not answer: {deleted} entries were deleted; the rest will be "
            "when it is back, unless this process has ended by then"
        )
        raise NodeUnavailableError(message)
    return f"{deleted} entries were deleted"


_WORDS = {
    "delete_key": "delete the key {target!r} of {alias!r}",
    "delete_tag": "delete the tag {target!r} of {alias!r}, and so all that was loaded under it",
    "clear_node": "delete the entries of {alias!r} on node {target!r}",
}
_ACTIONS: dict[str, Callable[[RingCache, dict[str, Any]], str]] = {
    "delete_key": _delete_key,
    "delete_tag": _delete_tag,
    "clear_node": _clear_node,
}
