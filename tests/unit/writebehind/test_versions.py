"""The tables of other versions of the code, as far as no database is needed."""

from __future__ import annotations

import pytest

from cachebackend.writebehind.batch import RowGroup
from cachebackend.writebehind.versions import _code, require_same_version
from tests.shop.models import Meter


@pytest.mark.parametrize(
    ("type_name", "modifier", "code"),
    [
        ("numeric", (12 << 16 | 4) + 4, "n4"),
        ("numeric", -1, None),
        ("int4", -1, "i"),
        ("varchar", 54, "s"),
        ("money", -1, None),
    ],
)
def test_a_type_of_postgres_has_the_code_of_its_columns_encoding(
    type_name: str, modifier: int, code: str | None
) -> None:
    """A type that write-behind does not write has none."""
    assert _code(type_name, modifier) == code


def test_a_batch_of_known_columns_does_not_ask_the_database() -> None:
    """The usual case costs no query; this test has no database."""
    group = RowGroup(b"", (("level", b"d"), ("total", b"p")), [1], [[b"5"], [b"=1"]])
    require_same_version(Meter, "default", [group])
