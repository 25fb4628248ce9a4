"""The queries of URLs."""

from __future__ import annotations

import pytest

from cachebackend.options.parameters import masked_query, parameter_fault, url_parameters


def test_names_are_not_decoded() -> None:
    """A filter that masks passwords looks for their names."""
    assert url_parameters("ssl_password=a%26b&d%62=1") == [("ssl_password", "a&b"), ("d%62", "1")]


def test_passwords_are_masked() -> None:
    """All others are shown."""
    assert masked_query([("db", "1"), ("ssl_password", "hunter2")]) == "db=1&ssl_password=%2A%2A%2A"


@pytest.mark.parametrize(
    ("scheme", "query", "says"),
    [
        ("redis", "db=1&weight=2", None),
        ("redis", "ssl_password=x", "parameter 1 of the query is not known"),
        ("rediss", "name=a&ssl_password=x", None),
        ("rediss", "ssl_passwords=x", "parameter 1 of the query is not known; did you mean 'ssl_password'?"),
        ("redis+cluster", "name=a", "parameter 1 of the query is not known; known are db"),
        ("rediss+cluster", "db=0&ssl_ca_path=x", None),
        ("unix", "db=1&db=1", "the parameter 'db' is given twice"),
        ("unix", "db=one", "the database must be a number"),
    ],
)
def test_each_scheme_has_its_parameters(scheme: str, query: str, says: str | None) -> None:
    """Another parameter, and one that is given twice, is a fault."""
    fault = parameter_fault(scheme, url_parameters(query))
    assert fault is None if says is None else says in str(fault)
