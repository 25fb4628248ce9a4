"""Django's settings, read into options."""

from __future__ import annotations

import platform
from typing import Any

import pytest
from django.test import override_settings

from cachebackend.conf import (
    alias_of,
    current_namespace,
    project_options,
    ring_aliases,
    ring_options,
    write_behind_options,
)
from cachebackend.errors import ConfigurationError

RING = {"BACKEND": "cachebackend.RingCache", "LOCATION": "redis://h?name=a"}
LOCAL = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


def test_ring_aliases_are_those_of_our_backend_under_either_path() -> None:
    """Caches of other backends are not included."""
    other = RING | {"BACKEND": "cachebackend.backend.RingCache"}
    with override_settings(CACHES={"default": LOCAL, "one": RING, "two": other}):
        assert ring_aliases() == ["one", "two"]


def test_an_alias_is_known_by_its_location_and_options() -> None:
    """Django does not pass the alias to a backend."""
    with override_settings(CACHES={"default": LOCAL, "one": RING, "two": RING | {"OPTIONS": {"warm": True}}}):
        assert alias_of("redis://h?name=a", {}) == "one"
        assert alias_of("redis://h?name=a", {"warm": True}) == "two"
        assert alias_of("redis://elsewhere", {}) == "…"


def test_the_options_of_an_alias_are_read() -> None:
    """A block with nothing but its location is complete."""
    with override_settings(CACHES={"default": RING | {"TIMEOUT": None, "VERSION": 3}}):
        assert [node.name for node in ring_options("default").nodes] == ["a"]


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ({"TIMEOUT": "5"}, r"CACHES\['default'\]\['TIMEOUT'\]: must be a number"),
        ({"VERSION": -1}, r"CACHES\['default'\]\['VERSION'\]: must be a whole number"),
        ({"OPTION": {}}, r"CACHES\['default'\]\['OPTION'\]: unknown setting"),
        ({"REVERSE_KEY_FUNCTION": "x"}, r"\['REVERSE_KEY_FUNCTION'\]: is a setting of django-redis"),
    ],
)
def test_a_setting_that_django_would_ignore_is_a_fault(setting: dict[str, Any], path: str) -> None:
    """Django checks none of them."""
    with override_settings(CACHES={"default": RING | setting}), pytest.raises(ConfigurationError, match=path):
        ring_options("default")


def test_write_behind_follows_the_settings() -> None:
    """It is off without the setting."""
    with override_settings(WRITE_BEHIND={"nodes": ["redis://h?name=q"], "partitions": 3}):
        assert write_behind_options().partitions == 3
    with override_settings(WRITE_BEHIND={}):
        assert write_behind_options().nodes == ()


def test_the_namespace_follows_the_settings() -> None:
    """It is empty without the setting."""
    assert current_namespace() == ""
    with override_settings(RINGCACHE={"namespace": "platform.system", "models": {"auth.User": {}}}):
        assert current_namespace() == platform.system()
        assert list(project_options().models) == ["auth.User"]
    assert current_namespace() == ""
