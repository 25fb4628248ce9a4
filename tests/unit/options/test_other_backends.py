"""Options of other cache backends, with what to use here."""

from __future__ import annotations

import pytest

from cachebackend.options.other_backends import ALIAS_SETTINGS, GLOBAL_SETTINGS, other_backend_option


@pytest.mark.parametrize(
    ("name", "backend", "here"),
    [
        ("COMPRESSOR", "django-redis", "'compressor'"),
        ("IGNORE_EXCEPTIONS", "django-redis", "'on_node_failure'"),
        ("serializer", "Django's RedisCache", "'codec'"),
        ("db", "Django's RedisCache", "the node's URL"),
    ],
)
def test_an_option_of_another_backend_says_whose_it_is_and_what_to_use(
    name: str, backend: str, here: str
) -> None:
    """A user who changes backends reads more than that the option is unknown."""
    text = other_backend_option(name)
    assert text is not None
    assert backend in text
    assert here in text


@pytest.mark.parametrize("name", ["lease_timeout", "no-such", 5])
def test_any_other_name_is_of_no_backend(name: object) -> None:
    """One of ours, or a misspelt one."""
    assert other_backend_option(name) is None


def test_settings_outside_of_options_are_known_too() -> None:
    """Of an alias, and of the project."""
    assert "REVERSE_KEY_FUNCTION" in ALIAS_SETTINGS
    assert all(name.startswith("DJANGO_REDIS_") for name in GLOBAL_SETTINGS)
