"""``make matrix``: the versions that it finds, and the page that it writes."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import matrix

OURS = Path(sys.executable)


def test_installed_versions_are_cells_and_missing_ones_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each installed Python, Redis and Postgres, and SQLite; no environment is made for this."""
    monkeypatch.setattr(matrix, "PYTHONS", (f"{sys.version_info.major}.{sys.version_info.minor}", "2.9"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(matrix.shutil, "which", lambda name: None)
    left_out: list[str] = []
    cells = list(matrix.cells(left_out))
    assert cells[0].python == OURS
    assert cells[0].arguments == matrix.LIBRARY
    assert cells[-1].environment == {"DATABASE_URL": "sqlite://:memory:"}
    assert left_out[:2] == ["Python 2.9: not installed", "Redis: no `redis-server` on the path"]


def test_the_page_lists_failed_tests_and_missing_versions() -> None:
    """A row for each cell, and a line for each failure, reason to skip, and missing version."""
    cell = matrix.Cell(OURS, "Valkey 9.1", "Postgres 18", matrix.LIBRARY)
    outcome = matrix.Outcome(7, ["tests.unit::test_x"], Counter({"needs luck": 2}), "51 passed")
    page = matrix.page([(cell, outcome)], ["Python 2.9: not installed"])
    assert "| Valkey 9.1 | Postgres 18 | 7 | 1 | 2 | 51 passed |" in page
    assert "- failed: `tests.unit::test_x` on Valkey 9.1, Postgres 18" in page
    assert "- skipped: needs luck (2 on Valkey 9.1, Postgres 18)" in page
    assert "- left out: Python 2.9: not installed" in page


def test_a_server_is_known_by_its_own_name(tmp_path: Path) -> None:
    """Debian's ``redis-server`` may be a Valkey; a file that is not a server has no name."""
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\necho 'Valkey server v=8.0.1 sha=0 bits=64'\n")
    server.chmod(0o755)
    assert matrix.node_version(server) == "Valkey 8.0.1"
    assert matrix.node_version(tmp_path / "none") == ""
