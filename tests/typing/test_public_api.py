"""The types that other projects' checkers see: ``public_api`` is read by mypy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_public_api_is_typed() -> None:
    """What it returns is known, and what it does not take is a mistake."""
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", str(Path(__file__).with_name("public_api.py"))],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
