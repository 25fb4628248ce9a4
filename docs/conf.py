"""How the pages in this folder become a site."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cacheproject.settings")

import django  # noqa: E402

django.setup()

import generated  # noqa: E402

project = "django-ringcache"
author = "the authors of django-ringcache"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
smartquotes = False  # which would make one dash of the two before an option
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
html_show_copyright = False
html_show_sourcelink = False
templates_path: list[str] = []


def setup(app: object) -> None:
    """Have pages filled in from the code as they are read."""
    app.connect("source-read", generated.fill_in)  # type: ignore[attr-defined]
