"""``make matrix``: the versions that it finds, and the page that it writes."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests import matrix, matrix_software

OURS = Path(sys.executable)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server on the path, and no registry."""
    monkeypatch.setattr(matrix, "PYTHONS", (f"{sys.version_info.major}.{sys.version_info.minor}", "2.9"))
    monkeypatch.setattr(matrix, "lowest_interpreter", lambda: OURS)
    monkeypatch.setattr(matrix, "pgbouncer_binary", lambda: None)
    monkeypatch.setattr(matrix_software, "mariadb_binary", lambda *_: None)
    monkeypatch.setattr(matrix_software, "NODE_PACKAGES", ())
    monkeypatch.setattr(matrix_software, "POSTGRES_PACKAGES", ())
    monkeypatch.setattr(matrix_software.shutil, "which", lambda name: None)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))


@pytest.mark.usefixtures("nothing_installed")
def test_installed_versions_are_cells_and_missing_ones_are_named() -> None:
    """Each installed Python, the lowest versions, a pool, prepared statements, SQLite. Nothing is made."""
    left_out: list[str] = []
    cells = list(matrix.cells(left_out))
    assert cells[0].python == OURS
    assert cells[0].arguments == matrix.LIBRARY
    assert "lowest versions" in cells[1].name
    assert [each.environment for each in cells[-3:]] == [
        {"DATABASE_POOL": "1"},
        {"PREPARED": "1"},
        {"DATABASE_URL": "sqlite://:memory:"},
    ]
    assert left_out[:2] == ["Python 2.9: not installed", "Redis: no `redis-server` on the path"]
    assert left_out[-2:] == ["pgbouncer: not installed", "MariaDB: no `mariadbd` and `mariadb-install-db`"]


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(("version", "queues"), [("7.0.15", False), ("7.2.6", True), ("8.2.3", True)])
def test_a_named_server_is_a_cell_and_a_queue_node_if_it_can_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, queues: bool
) -> None:
    """Redis has WAITAOF since 7.2."""
    server = script(tmp_path, f"Redis server v={version} sha=0")
    monkeypatch.setenv("MATRIX_SERVERS", str(server))
    [environment] = [cell.environment for cell in matrix.cells([]) if cell.nodes == f"Redis {version}"]
    assert environment["RING_SERVER"] == str(server)
    assert (environment.get("VALKEY_SERVER") == str(server)) is queues


@pytest.mark.usefixtures("nothing_installed")
def test_mariadb_is_a_cell_with_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its version is that of the server's own line."""
    server = script(tmp_path, "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64")
    monkeypatch.setattr(matrix_software, "mariadb_binary", lambda *_: server)
    monkeypatch.setattr(matrix, "pymysql_folder", lambda: tmp_path)
    cell = list(matrix.cells([]))[-1]
    assert (cell.database, cell.arguments) == ("MariaDB 10.11.19", matrix.WITHOUT_POSTGRES)
    assert cell.environment == {"MARIADB": "1", "PYTHONPATH": str(tmp_path)}


def test_the_lowest_versions_are_those_of_the_library() -> None:
    """Those of the tools of the tests are the locked ones."""
    lowest = matrix_software.lowest_requirements()
    assert "redis[hiredis]==7.2" in lowest
    assert any(each.startswith("celery[redis]==") for each in lowest)
    assert not any(each.startswith(("furo", "gunicorn")) for each in lowest)


def test_the_page_lists_failed_tests_and_missing_versions() -> None:
    """A row for each cell, and a line for each failure, reason to skip, and missing version."""
    name = matrix.Cell(OURS, "Valkey 9.1", "Postgres 18", matrix.LIBRARY).name
    outcome = matrix.Outcome(7, ["tests.unit::test_x"], {"needs luck": 2}, "51 passed", "2026-01-02")
    page = matrix.page({name: outcome}, ["Python 2.9: not installed"])
    assert "| Valkey 9.1 | Postgres 18 | 7 | 1 | 2 | 51 passed | 2026-01-02 |" in page
    assert f"- failed: `tests.unit::test_x` on {name}" in page
    assert f"- skipped: needs luck (2 on {name})" in page
    assert "- left out: Python 2.9: not installed" in page


def test_a_run_of_some_cells_keeps_the_results_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that was never run is listed as left out; one that no longer exists is dropped."""
    cells = [matrix.Cell(OURS, nodes, "Postgres 18", ()) for nodes in ("Redis 8", "Valkey 9")]
    stored = {
        each: asdict(matrix.Outcome(1, [], {}, "not run", "2026-01-02")) for each in ("gone", cells[1].name)
    }
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "matrix.md")
    monkeypatch.setattr(matrix, "RESULTS", tmp_path / "matrix.json")
    monkeypatch.setattr(matrix, "cells", lambda _: cells)
    monkeypatch.setattr(matrix, "run", lambda _: matrix.Outcome(5, [], {}, "not run", "2026-01-03"))
    matrix.RESULTS.write_text(json.dumps(stored))
    monkeypatch.setattr("sys.argv", ["matrix", "--only", "redis"])
    with pytest.raises(SystemExit, match="False"):
        matrix.main()
    kept = json.loads(matrix.RESULTS.read_text())
    assert {name: (each["passed"], each["date"]) for name, each in kept.items()} == {
        cells[0].name: (5, "2026-01-03"),
        cells[1].name: (1, "2026-01-02"),
    }
    assert "gone" not in matrix.PAGE.read_text()


def test_a_run_that_is_interrupted_keeps_the_cells_that_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them take hours."""
    cells = [matrix.Cell(OURS, nodes, "Postgres 18", ()) for nodes in ("Redis 8", "Valkey 9")]

    def run(cell: matrix.Cell) -> matrix.Outcome:
        if cell is cells[1]:
            raise KeyboardInterrupt
        return matrix.Outcome(5, [], {}, "not run", "2026-01-03")

    monkeypatch.setattr(matrix, "PAGE", tmp_path / "matrix.md")
    monkeypatch.setattr(matrix, "RESULTS", tmp_path / "matrix.json")
    monkeypatch.setattr(matrix, "cells", lambda _: cells)
    monkeypatch.setattr(matrix, "run", run)
    monkeypatch.setattr("sys.argv", ["matrix"])
    with pytest.raises(KeyboardInterrupt):
        matrix.main()
    assert list(json.loads(matrix.RESULTS.read_text())) == [cells[0].name]
    assert f"- left out: {cells[1].name}: not run yet" in matrix.PAGE.read_text()


def test_the_outcome_of_a_cell_can_be_stored(tmp_path: Path) -> None:
    """Also if tests were skipped, each with a reason."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\ndef test_one(): pytest.skip('needs luck')\n\ndef test_two(): pass\n"
    )
    alone = ("-c", os.devnull, f"--rootdir={tmp_path}", str(tmp_path))
    outcome = matrix.run(matrix.Cell(OURS, "Valkey 9", "Postgres 18", alone, conforms=False))
    assert json.loads(json.dumps(asdict(outcome)))["skipped"] == {"needs luck": 1}
    assert (outcome.passed, outcome.failed) == (1, [])


def test_a_word_that_is_in_no_name_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an error that lists the cells; the page stays as it is."""
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "matrix.md")
    monkeypatch.setattr(matrix, "RESULTS", tmp_path / "matrix.json")
    monkeypatch.setattr(matrix, "cells", lambda _: [matrix.Cell(OURS, "Redis 8", "Postgres 18", ())])
    monkeypatch.setattr("sys.argv", ["matrix", "--only", "rediss"])
    with pytest.raises(SystemExit, match="2"):
        matrix.main()
    assert "no cell has 'rediss' in its name; there are:\nPython" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_known_by_its_own_name(tmp_path: Path) -> None:
    """Debian's ``redis-server`` may be a Valkey; a file that is not a server has no name."""
    assert matrix.node_version(script(tmp_path, "Valkey server v=8.0.1 sha=0 bits=64")) == "Valkey 8.0.1"
    assert matrix.node_version(tmp_path / "none") == ""


def script(folder: Path, line: str) -> Path:
    """Return a program that prints a line."""
    server = folder / "redis-server"
    server.write_text(f"#!/bin/sh\necho '{line}'\n")
    server.chmod(0o755)
    return server
