"""The options of models that get a manager by settings."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

from cachebackend import CachedManager
from cachebackend.options.cached_models import CachedModelOptions, ModelLabels, check_models
from cachebackend.options.faults import Faults


def faults_of(models: Any) -> list[str]:
    faults = Faults("RINGCACHE")
    check_models(models, faults)
    return faults.messages


def test_the_options_are_the_arguments_of_the_manager() -> None:
    """All of them, and no others."""
    assert {each.name for each in fields(CachedModelOptions)} == set(
        inspect.signature(CachedManager.__init__).parameters
    ) - {"self"}


def test_every_option_can_be_given() -> None:
    """Lists of lookups may hold tuples, or lists as in JSON."""
    options = {
        "lookups": ["slug", ("shop", "sku"), ["a", "b"]],
        "timeout": None,
        "alias": "other",
        "consistency": "strict",
        "write": "through",
        "missing_timeout": 5,
        "stale_for": 1.5,
        "triggers": True,
        "base_manager": "objects",
        "ignore": ("views",),
    }
    assert faults_of({"auth.User": options, "auth.*": {}}) == []


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ({"User": {}}, "['User']: must be the label of a model"),
        ({"*.*": {}}, "['*.*']: must be the label of a model"),
        ({"a.b.C": {}}, "['a.b.C']: must be the label of a model"),
        ({3: {}}, "[3]: must be the label of a model"),
        ({"auth.User": None}, "['auth.User']: must be a dict of options, got None"),
        ({"auth.User": {"timeOut": 5}}, "['auth.User']['timeOut']: unknown option; did you mean 'timeout'?"),
        ({"auth.User": {"timeout": "5"}}, "['auth.User']['timeout']: must be a number seconds, got '5'"),
        ({"auth.User": {"lookups": "name"}}, "['auth.User']['lookups']: must be a list of names of fields"),
        ({"auth.User": {"lookups": [()]}}, "['auth.User']['lookups']: must have names of fields, got ()"),
        ({"auth.User": {"ignore": [("a",)]}}, "['auth.User']['ignore']: must have names of fields"),
        ({"auth.User": {"alias": ""}}, "['auth.User']['alias']: must be a text"),
        ({"auth.User": {"write": "back"}}, "['auth.User']['write']: must be one of invalidate, through"),
    ],
)
def test_a_fault_names_its_key(models: Any, says: str) -> None:
    """The label, and the option."""
    [fault] = faults_of(models)
    assert says in fault


def test_each_wrong_key_is_a_fault() -> None:
    """One error names all of them."""
    assert len(faults_of({"auth.User": {"a": 1, "b": 2}, "auth": {}})) == 3


def test_labels_are_keys_of_a_dict() -> None:
    """A list of models has no options."""
    assert ModelLabels().fault({}) is None
    assert ModelLabels().fault(["auth.User"]) == 'must be a dict such as {"auth.User": {}}, got a list'
