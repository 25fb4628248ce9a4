"""The rows of one statement."""

from __future__ import annotations

from cachebackend.conf import write_behind_options
from cachebackend.writebehind.statement_sizes import StatementSizes
from tests.shop.models import Meter, Tag


def test_a_statement_that_was_too_slow_is_halved_and_remembered() -> None:
    """Down to one row; tables and databases are apart."""
    sizes = StatementSizes()
    most = write_behind_options().batch_rows
    assert sizes.rows(Meter, "default") == most
    sizes.halve(Meter, "default", 10)
    assert sizes.rows(Meter, "default") == 5
    sizes.halve(Meter, "default", 10)
    assert sizes.rows(Meter, "default") == 2
    for _ in range(3):
        sizes.halve(Meter, "default", 1)
    assert sizes.rows(Meter, "default") == 1
    assert (sizes.rows(Tag, "default"), sizes.rows(Meter, "lite")) == (most, most)
