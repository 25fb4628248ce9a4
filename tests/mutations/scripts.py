"""Mutants of scripts."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest

__all__ = ["change_script"]


def change_script(patch: pytest.MonkeyPatch, module: Any, name: str, line: bytes, changed: bytes) -> None:
    """Replace one line of a module's script, until the test ends."""
    script = copy(getattr(module, name))
    assert script.source.count(line) == 1
    script.source = script.source.replace(line, changed)
    script.__dict__.pop("sha", None)
    patch.setattr(module, name, script)
