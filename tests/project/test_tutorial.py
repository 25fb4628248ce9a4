"""The tutorial on cached queries, typed line by line into a project, on a real node."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacheproject.services import Services
from tests.project.test_quickstart import BLOCK, ROOT, Newcomer

PAGE = ROOT / "docs" / "cache-queries.md"
#: What the quickstart has added to the settings.
SETTINGS = """# mysite/settings.py, at the end
INSTALLED_APPS += ["cachebackend"]
CACHES = {{"default": {{"BACKEND": "cachebackend.RingCache", "LOCATION": [{node!r}]}}}}
"""


@pytest.mark.usefixtures("empty_nodes")
def test_the_tutorial_works_line_by_line(
    tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is written, every command succeeds, and the shell prints what the page says."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    newcomer = Newcomer(tmp_path, {})
    newcomer.follow("sh", "django-admin startproject mysite .")
    newcomer.follow("python", SETTINGS.format(node=services.ring_urls[0]))
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        newcomer.follow(language, text)
