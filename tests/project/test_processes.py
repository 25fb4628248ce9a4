"""What a command starts: the services that the environment does not name."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from cacheproject import processes

STARTED = {"RING_NODES": "redis://started", "CELERY_BROKER_URL": "redis://started/1"}
SCRIPT = """
import json, os, sys
with open(sys.argv[1], "w") as file:
    json.dump({name: os.environ.get(name) for name in ("RING_NODES", "CELERY_BROKER_URL")}, file)
"""


def test_an_empty_variable_names_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs again with the service that was started for it, and starts no further one."""
    command, found = tmp_path / "manage.py", tmp_path / "found"
    command.write_text(SCRIPT)
    monkeypatch.setattr(processes, "MANAGE", command)
    services = nullcontext(SimpleNamespace(env=lambda: STARTED))
    monkeypatch.setattr(processes, "Services", lambda **_: services)
    monkeypatch.setenv("RING_NODES", "")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://named/1")
    assert processes.missing_services()["ring"] == 3
    assert processes.run_with_services([str(found)], {}) == 0
    assert found.read_text() == '{"RING_NODES": "redis://started", "CELERY_BROKER_URL": "redis://named/1"}'
