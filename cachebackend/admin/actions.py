"""What the page can delete: a key, a tag, or the keys on a node; each after a confirmation."""

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
from cachebackend.backend.tag_names import names_of_text
from cachebackend.conf import ring_aliases
from cachebackend.errors import NodeUnavailableError
from cachebackend.monitoring.events import record_event

__all__ = ["ActionForm", "log_action"]

_PENDING = "its node does not answer; the delete is pending, and is sent when the node is back"


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
            assert isinstance(field, forms.ChoiceField)  # noqa: S101  # it is defined above
            field.choices = [(choice, choice) for choice in choices]

    def clean(self) -> dict[str, Any]:
        """Refuse a node that is not one of the alias'."""
        data = self.cleaned_data
        if data.get("action") == "clear_node" and {"alias", "target"} <= data.keys():
            names = ring_cache(data["alias"]).client.ring.names
            if data["target"] not in names:
                message = f"{data['alias']!r} has no node {data['target']!r}; it has {', '.join(names)}."
                raise forms.ValidationError(message)
        return data

    @property
    def fault(self) -> str:
        """Why the form is refused, in a sentence."""
        if errors := self.non_field_errors():
            return str(errors[0])
        if {"action", "alias"} & self.errors.keys():
            return "The page has no such action."
        if "target" in self.errors:
            target = _TARGETS[self.cleaned_data["action"]]
            return f"The {target} is missing: enter the {target}."
        return f"The version is wrong: {self.errors['version'][0]}"

    @property
    def description(self) -> str:
        """What the form asks for, as "delete …"."""
        return _DESCRIPTIONS[self.cleaned_data["action"]].format(**self.cleaned_data)

    def act(self) -> str:
        """Delete; return the outcome in a few words.

        Raises:
            RingCacheError: Not everything was deleted, and the rest may never be.
        """
        data = self.cleaned_data
        return _ACTIONS[data["action"]](ring_cache(data["alias"]), data)


def log_action(request: HttpRequest, model: type[models.Model], message: str) -> None:
    """Write to Django's admin log and to the timeline what a user did."""
    LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=ContentType.objects.get_for_model(model),
        object_repr=message[:200],
        action_flag=CHANGE,
        change_message=message,
    )
    record_event("action", request.user.get_username(), message)


def _delete(cache: RingCache, key: bytes) -> str:
    client = cache.client
    with suppress(NodeUnavailableError):  # recorded as a missed delete, which the outcome says
        client.run(protocol.delete(client.context, key))
    holders = (node for node in client.indexes if client.context.may_hold(node, key))
    return _PENDING if any(client.context.missed.count(node) != 0 for node in holders) else "done"


def _delete_key(cache: RingCache, data: dict[str, Any]) -> str:
    return _delete(cache, cache.key_bytes(data["target"], data["version"]))


def _delete_tag(cache: RingCache, data: dict[str, Any]) -> str:
    """Delete the tag that is this text, and that of the model or row that it names."""
    outcomes = {_delete(cache, key) for key in cache.many_tag_bytes(names_of_text(data["target"]))}
    return _PENDING if _PENDING in outcomes else "done"


def _clear_node(cache: RingCache, data: dict[str, Any]) -> str:
    client = cache.client
    node = client.ring.names.index(data["target"])
    deleted = client.run(protocol.clear(client.context, cache.pattern, [node]))
    if client.context.missed.count(node) is None:
        message = (
            f"node {data['target']!r} does not answer: {deleted} keys were deleted; the others are deleted "
            "when it is back, unless this process has ended by then"
        )
        raise NodeUnavailableError(message)
    return f"{deleted} keys were deleted"


_DESCRIPTIONS = {
    "delete_key": "delete the key {target!r} of {alias!r}",
    "delete_tag": "delete the tag {target!r} of {alias!r}, and so every value that was stored under it",
    "clear_node": "delete the keys of {alias!r} on node {target!r}",
}
_TARGETS = {"delete_key": "key", "delete_tag": "tag", "clear_node": "node's name"}
_ACTIONS: dict[str, Callable[[RingCache, dict[str, Any]], str]] = {
    "delete_key": _delete_key,
    "delete_tag": _delete_tag,
    "clear_node": _clear_node,
}
