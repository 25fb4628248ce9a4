"""Which raw statements run in a transaction of their own."""

from __future__ import annotations

import pytest

from cachebackend.invalidation.raw_sql import changes_triggered_table


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE shop_author SET name = 'x'", True),
        ('  insert into "shop_author" (name) values (1)', True),
        ("WITH old AS (SELECT 1) DELETE FROM shop_poem", True),
        ("TRUNCATE shop_author", True),
        ("SELECT * FROM shop_author", False),
        ("UPDATE shop_review SET text = ''", False),
        ("VACUUM shop_author", False),
        ("/* x */ UPDATE shop_author SET name = 'x'", True),
        ("-- x\nUPDATE SHOP_AUTHOR SET name = 'x'", True),
        ("SET lock_timeout = 0; UPDATE shop_author SET name = 'x'", True),
        ("WITH one AS (SELECT 1) SELECT * FROM shop_poem", False),
        ("DO $$ BEGIN UPDATE shop_author SET name = 'x'; COMMIT; END $$", False),
        ("CALL rename(1, 'UPDATE shop_author')", False),
    ],
)
def test_statements_that_change_a_table_with_triggers(statement: str, expected: bool) -> None:
    """A statement that may not run in a transaction is never wrapped."""
    assert changes_triggered_table(statement) is expected
