"""The options of the project."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.errors import ConfigurationError
from cachebackend.options import ProjectOptions


def test_the_options_have_defaults() -> None:
    """One namespace, and no models of other apps."""
    assert ProjectOptions.read({}) == ProjectOptions(namespace="", models={})
    options = ProjectOptions.read({"namespace": "site.tenants.current", "models": {"auth.User": {}}})
    assert (options.namespace, list(options.models)) == ("site.tenants.current", ["auth.User"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "RINGCACHE: must be a dict, got a list"),
        ({"namespace": len}, r"RINGCACHE\['namespace'\]: must be a dotted path"),
        ({"namespace": "current"}, r"RINGCACHE\['namespace'\]: must be a dotted path"),
        ({"namespaces": "a.b"}, "did you mean 'namespace'"),
        ({"models": ["auth.User"]}, r"RINGCACHE\['models'\]: must be a dict such as"),
        ({"models": {"User": {}}}, r"RINGCACHE\['models'\]\['User'\]: must be the label of a model"),
        ({"models": {"auth.User": {"time": 5}}}, r"RINGCACHE\['models'\]\['auth.User'\]\['time'\]: unknown"),
        ({"listen": "10.0.0.1"}, r"RINGCACHE\['listen'\]: must be a dict such as"),
        (
            {"listen": {"default": {"ENGINE": "x"}}},
            "must have a dict of some of HOST, NAME, .* for 'default'",
        ),
    ],
)
def test_faults_have_their_path(given: Any, says: str) -> None:
    """As those of the other settings."""
    with pytest.raises(ConfigurationError, match=says):
        ProjectOptions.read(given)
