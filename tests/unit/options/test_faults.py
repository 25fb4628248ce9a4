"""The faults of a settings block."""

from __future__ import annotations

import pytest

from cachebackend.errors import ConfigurationError
from cachebackend.options.faults import Faults


def test_every_fault_is_raised_at_once_with_its_path() -> None:
    """In the order in which they were found."""
    faults = Faults("CACHES['default']")
    faults.add("TIMEOUT", "must be a number")
    faults.below("OPTIONS").below("near").add("policy", "unknown")
    faults.below("LOCATION").add(1, "has no host")
    faults.add(None, "is not a dict")
    with pytest.raises(ConfigurationError) as raised:
        faults.raise_any()
    assert raised.value.faults == (
        "CACHES['default']['TIMEOUT']: must be a number",
        "CACHES['default']['OPTIONS']['near']['policy']: unknown",
        "CACHES['default']['LOCATION'][1]: has no host",
        "CACHES['default']: is not a dict",
    )


def test_without_a_fault_nothing_is_raised() -> None:
    """The usual case."""
    Faults("CACHES").raise_any()
